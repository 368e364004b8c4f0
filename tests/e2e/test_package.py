"""The Debian packages: built, checked by lintian, unpacked and used."""

from __future__ import annotations

import gzip
import re
import shutil
from pathlib import Path

import pytest

from debian_packages import build_packages, run
from harness import SANITIZED, Scene
from systemd_machine import needs_machine, run_machine

pytestmark = [
    pytest.mark.skipif(SANITIZED, reason="packages are made of release builds"),
]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All of them, by name."""
    files = build_packages(tmp_path_factory.mktemp("packages"))
    assert sorted(files) == ["virtagent", "virtproxy", "virtproxy-bench", "virtproxy-static"]
    return files


@pytest.fixture(scope="module")
def root(packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of them unpacked in one place."""
    root = tmp_path_factory.mktemp("root")
    for path in packages.values():
        run("dpkg-deb", "-x", path, root)
    return root


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


@needs("lintian")
def test_lintian_finds_no_error(packages: dict[str, Path]) -> None:
    said = run("lintian", "--fail-on", "none", "--allow-root", *packages.values())
    assert [line for line in said.splitlines() if line.startswith("E:")] == []


def test_the_programs_run(root: Path) -> None:
    assert "Usage" in run(root / "usr/bin/virtproxy-bench", "--help")
    for name in ("virtproxy", "qemu-vp", "virtproxy-static", "virtproxyctl", "virtagent", "virtagent-static"):
        assert re.search(r"\d+\.\d+\.\d+$", run(root / "usr/bin" / name, "--version").strip()), name


def test_the_files_are_where_they_are_looked_for(root: Path) -> None:
    files = {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}
    for name in ("virtproxy.service", "virtproxy@.service", "virtproxy-guest.service"):
        unit = f"usr/lib/systemd/system/{name}"
        assert unit in files
        assert "\nExecStart=/usr/bin/virtproxy " in (root / unit).read_text(encoding="ascii")
    assert {
        "usr/lib/sysusers.d/virtproxy.conf",
        "usr/lib/tmpfiles.d/virtproxy.conf",
        "usr/lib/udev/rules.d/60-virtproxy.rules",
        "usr/lib/systemd/system/virtagent.service",
        "usr/lib/sysusers.d/virtagent.conf",
        "usr/lib/udev/rules.d/60-virtagent.rules",
        "usr/share/doc/virtproxy/SHIPPING.md",
        "usr/share/doc/virtproxy/COLLECTING.md",
        "usr/share/doc/virtproxy/examples/libvirt-hook",
        "usr/share/virtproxy/ship-journal.conf",
    } <= files
    # Those belong to libvirt.
    assert [name for name in files if Path(name).name.startswith("virtproxyd")] == []


def test_the_package_says_what_it_needs(packages: dict[str, Path]) -> None:
    fields = run("dpkg-deb", "-f", packages["virtproxy"], "Depends", "Description")
    assert re.search(r"Depends: .*libc6 .*liburing2", fields), fields
    assert "Description: many socket connections over one channel\n virtproxy carries" in fields
    assert run("dpkg-deb", "-f", packages["virtproxy-static"], "Depends").strip() == ""


def manual(root: Path, page: str) -> str:
    """The page as it is read, without line breaks."""
    text = run("man", "--nh", "--nj", "-E", "ascii", "-l", root / "usr/share/man" / page)
    return re.sub(r"\s+", " ", re.sub(r".\x08", "", text))


def options_of(*command: str | Path) -> set[str]:
    found = re.findall(r"^  (-\S+)", run(*command, "--help"), re.MULTILINE)
    return {name for names in found for name in names.split(",")}


@needs("man")
def test_the_manual_has_every_option(root: Path) -> None:
    page = manual(root, "man8/virtproxy.8.gz")
    options = options_of(root / "usr/bin/virtproxy")
    assert len(options) > 30
    assert [option for option in options if f" {option}" not in page] == []
    assert "SERVICE MANAGER" in page and "tcp-connect:HOST:PORT" in page
    ctl = manual(root, "man1/virtproxyctl.1.gz")
    for command in ("qemu-args", "libvirt-xml", "attach", "detach", "guest-iso"):
        for option in options_of(root / "usr/bin/virtproxyctl", command) - {"-h", "--help"}:
            assert f" {option}" in ctl, (command, option)
    agent = manual(root, "man1/virtagent.1.gz")
    for command in ((), ("guest",), ("host",), ("call",), ("put",), ("drop-in",)):
        for option in options_of(root / "usr/bin/virtagent", *command):
            assert f"{option}" in agent, (command, option)
    bench = manual(root, "man1/virtproxy-bench.1.gz")
    for command in ("run", "lines", "serve", "compare"):
        for option in options_of(root / "usr/bin/virtproxy-bench", command) - {"-h", "--help"}:
            assert f" {option}" in bench, (command, option)
    for name in ("qemu-vp", "virtproxy-static"):
        assert (root / f"usr/share/man/man8/{name}.8.gz").resolve().name == "virtproxy.8.gz"


def test_the_manual_has_the_protocol(root: Path) -> None:
    text = gzip.decompress((root / "usr/share/man/man7/virtproxy-protocol.7.gz").read_bytes()).decode()
    document = (Path(__file__).resolve().parents[2] / "core/PROTOCOL.md").read_text(encoding="utf-8")
    titles = re.findall(r"^## (\d+\. .*)$", document, re.MULTILINE)
    assert len(titles) > 10
    page = text.replace("\\", "")
    assert [title for title in titles if title.upper() not in page] == []


COMPLETE = """
source {file}
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
{function}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("program", "words", "some"),
    [
        ("virtproxy", "virtproxy --drain", {"--drain-timeout"}),
        ("virtproxyctl", "virtproxyctl q", {"qemu-args"}),
        ("virtagent", "virtagent guest --allow-", {"--allow-read", "--allow-write"}),
        ("virtproxyctl", "virtproxyctl attach --q", {"--qmp"}),
        ("virtproxy-bench", "virtproxy-bench lines --histogram", {"--histogram-log"}),
        ("virtproxyctl", "virtproxyctl guest-iso --output /etc/host", {"/etc/hosts", "/etc/hostname"}),
    ],
)
def test_bash_completes(root: Path, program: str, words: str, some: set[str]) -> None:
    file = root / "usr/share/bash-completion/completions" / program
    script = COMPLETE.format(file=file, words=words, function="_" + program.replace("-", "_"))
    assert some <= set(run("bash", "-euc", script).split())


@pytest.mark.parametrize(
    ("shell", "name"),
    [("zsh", "zsh/vendor-completions/_{}"), ("fish", "fish/vendor_completions.d/{}.fish")],
)
def test_other_shells_can_read_theirs(root: Path, shell: str, name: str) -> None:
    for program in ("virtproxy", "virtproxyctl", "virtagent", "virtproxy-bench"):
        file = root / "usr/share" / name.format(program)
        text = file.read_text(encoding="utf-8")
        for option in options_of(root / "usr/bin" / program):
            if option.startswith("--"):
                assert (f"-l {option[2:]} " if shell == "fish" else option) in text
        if Path(f"/usr/bin/{shell}").exists():
            run(shell, "-n", file)


@needs_machine
def test_five_minutes_of_an_administrator(scene: Scene, packages: dict[str, Path]) -> None:
    """The way of LIBVIRT.md: dpkg installs, upgrades and removes under systemd."""
    tree = scene.directory / "tree"
    tree.mkdir()
    shutil.copy(packages["virtproxy"], tree / "virtproxy.deb")
    ports = [scene.addresses.tcp().port for _ in range(2)]
    env = {"FORWARD": ports[0], "ECHO": ports[1]}
    steps = [
        "dpkg installs: the user, the directory and the units are there",
        "QEMU's socket is there, and the service of the machine connects to it",
        "an upgrade refuses no client",
        "dpkg removes: the service is stopped, its settings stay",
    ]
    run_machine(scene, tree, "package.sh", env, steps)
