"""What the linked programs have against exploits, read from their ELF files with readelf."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import BIN, SANITIZED

HARDENED = os.environ.get("VIRTPROXY_HARDENED", "1") not in ("", "0") and not SANITIZED
X86 = platform.machine() == "x86_64"
DYNAMIC = ("virtproxy", "virtproxyctl", "virtproxy-bench")
STATIC = ("virtproxy-static", "virtproxy-bench-static")
COMPILED_WITH = ["-fPIE", "-fstack-protector-strong", "-fstack-clash-protection",
                 "-ftrivial-auto-var-init=zero"]  # fmt: skip
if X86:
    COMPILED_WITH.append("-fcf-protection=full")
ENDBR64 = b"\xf3\x0f\x1e\xfa"

pytestmark = pytest.mark.skipif(not HARDENED, reason="this build has no mitigations")


def readelf(path: Path, *args: str) -> str:
    run = subprocess.run(
        ["readelf", "--wide", *args, path], capture_output=True, text=True, timeout=120, check=True
    )
    return run.stdout


@pytest.fixture(name="program", params=[*DYNAMIC, *STATIC])
def fixture_program(request: pytest.FixtureRequest) -> Path:
    path = BIN / request.param
    if request.param in STATIC and not path.exists():
        pytest.skip("built without static programs")
    return path


def symbols(path: Path) -> set[str]:
    """Names without versions; of the dynamic table where there is no other."""
    return set(re.findall(r"^ *\d+: .* (\S+?)(?:@\S+)?(?: \(\d+\))?$", readelf(path, "-s"), re.M))


def test_position_independent_with_everything_bound_at_the_start(program: Path) -> None:
    assert "DYN (Position-Independent Executable file)" in readelf(program, "-h")
    dynamic = readelf(program, "-d")
    flags = " ".join(re.findall(r"\((?:FLAGS|FLAGS_1)\)\s+(.*)", dynamic)).split()
    assert {"BIND_NOW", "NOW", "PIE"} <= set(flags), dynamic
    for unwanted in ("TEXTREL", "RPATH", "RUNPATH"):
        assert unwanted not in dynamic, dynamic


def test_nothing_is_writable_and_executable(program: Path) -> None:
    segments = re.findall(
        r"^  (LOAD|GNU_STACK|GNU_RELRO)(?: +0x[0-9a-f]+){5} ([R ][W ][E ])",
        readelf(program, "-l"), re.MULTILINE,
    )  # fmt: skip
    kinds = dict(segments)
    assert kinds["GNU_STACK"] == "RW " and "GNU_RELRO" in kinds
    for kind, rights in segments:
        assert "WE" not in rights, (kind, rights)
    # With everything bound at the start no part of the offset table stays writable.
    assert " .got.plt " not in readelf(program, "-S") or program.name in STATIC


def test_overflows_are_looked_for(program: Path) -> None:
    names = symbols(program)
    assert "__stack_chk_fail" in names
    checked = {name for name in names if re.fullmatch(r"__\w+_chk", name)}
    assert len(checked) >= 3, checked
    assert "_ZSt21__glibcxx_assert_failPKciS0_S0_" in names


def records_of_the_compiler(path: Path) -> set[str]:
    """One for each way in which C++ of ours was compiled."""
    found = re.findall(rb"GNU C\+\+20 [ -~]*", path.read_bytes())
    return {record.decode("ascii") for record in found}


def test_every_file_was_compiled_with_the_mitigations(program: Path) -> None:
    records = records_of_the_compiler(program)
    if not records:
        pytest.skip("no record of the compiler: another one than gcc, or a stripped program")
    for record in records:
        for flag in COMPILED_WITH:
            assert flag in record.split(), record


def members_without(note: str, archive: Path) -> Iterator[str]:
    for text in readelf(archive, "-n").split("\nFile: ")[1:]:
        if note not in text:
            yield text.splitlines()[0]


@pytest.mark.skipif(not X86, reason="IBT and SHSTK are of x86")
@pytest.mark.parametrize("name", ["core/libvirtproxy-core.a", "uring/libvirtproxy-uring.a"])
def test_every_object_of_ours_is_marked_for_control_flow_enforcement(name: str) -> None:
    archive = BIN.parent / name
    if not archive.exists():
        pytest.skip("the programs are not in their build tree")
    assert list(members_without("x86 feature: IBT, SHSTK", archive)) == []


@pytest.mark.skipif(not X86, reason="IBT and SHSTK are of x86")
def test_a_program_is_marked_if_all_that_is_linked_into_it_is(program: Path) -> None:
    """The linker drops the mark where one object lacks it: on Debian 12 the C library's start files
    do. Our own functions have their landing pads nevertheless."""
    start = subprocess.run(
        ["gcc", "-print-file-name=Scrt1.o"], capture_output=True, text=True, check=True
    )
    if "SHSTK" in readelf(Path(start.stdout.strip()), "-n"):
        assert "SHSTK" in readelf(program, "-n")
    main = re.search(r": ([0-9a-f]+) +\d+ FUNC +GLOBAL +\w+ +\d+ main$", readelf(program, "-s"), re.M)
    if not main:
        pytest.skip("a stripped program")
    at = int(main.group(1), 16)
    for line in re.findall(r"^  LOAD +(0x\w+) (0x\w+) \S+ (0x\w+)", readelf(program, "-l"), re.M):
        offset, address, size = (int(field, 16) for field in line)
        if address <= at < address + size:
            code = program.read_bytes()[offset + at - address :]
            assert code.startswith(ENDBR64)
            return
    raise AssertionError("main is in no segment")
