"""The units under the real systemd: verified, rated, and run in a namespace in which it is process 1."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from harness import BIN, Scene
from systemd_machine import needs_machine, run_machine

SOURCES = Path(__file__).resolve().parents[2] / "uring" / "daemon" / "systemd"
UNITS = ("virtproxy.service", "virtproxy@.service", "virtproxy-guest.service")
pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd is not installed"
)


def lay_out_units(target: Path, programs: str) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in UNITS:
        text = (SOURCES / f"{name}.in").read_text(encoding="ascii")
        assert "@BINDIR@/virtproxy " in text
        (target / name).write_text(text.replace("@BINDIR@", programs), encoding="ascii")


def analyze(scene: Scene, *args: str | Path) -> str:
    process = scene.run(["systemd-analyze", *args], timeout=30, env={"SYSTEMD_COLORS": "0"})
    return process.stdout() + process.stderr()


@pytest.mark.parametrize("unit", ["virtproxy.service", "virtproxy@vm1.service", "virtproxy-guest.service"])
def test_a_unit_is_valid_and_confined(scene: Scene, unit: str) -> None:
    lay_out_units(scene.directory, str(BIN))
    name = re.sub("@.*[.]", "@.", unit)
    if name != unit:
        (scene.directory / unit).symlink_to(name)
    said = analyze(scene, "verify", "--man=no", scene.directory / unit)
    assert said == ""
    rating = analyze(scene, "security", "--offline=true", "--no-pager", scene.directory / unit)
    match = re.search(r"Overall exposure level for \S+: ([0-9.]+)", rating)
    assert match and float(match.group(1)) < 1.5, rating


def test_the_drop_in_that_ships_the_journal_is_valid(scene: Scene) -> None:
    lay_out_units(scene.directory, str(BIN))
    (scene.directory / "virtproxy-guest.service.d").mkdir()
    shutil.copy(SOURCES / "ship-journal.conf", scene.directory / "virtproxy-guest.service.d")
    assert analyze(scene, "verify", "--man=no", scene.directory / "virtproxy-guest.service") == ""


AGENT = Path(__file__).resolve().parents[2] / "uring" / "agent"
ALLOWED = ["dmesg", "set-time", "shutdown", "fsfreeze", "fstrim"]


@pytest.mark.parametrize("allowed", [[], *([name] for name in ALLOWED), ALLOWED], ids=lambda names: "+".join(names) or "default")
def test_the_unit_of_virtagent_is_valid_with_what_is_allowed(scene: Scene, allowed: list[str]) -> None:
    unit = scene.directory / "virtagent.service"
    text = (AGENT / "virtagent.service").read_text(encoding="ascii")
    unit.write_text(text.replace("/usr/bin/", f"{BIN}/"), encoding="ascii")
    arguments = [argument for name in allowed for argument in ("--allow", name)]
    arguments += ["--allow-write", "/srv/a \"b\" 100%", "--hook", "x=/bin/true"] if allowed == ALLOWED else []
    drop_in = scene.run([BIN / "virtagent", "drop-in", *arguments]).stdout()
    (scene.directory / "virtagent.service.d").mkdir()
    (scene.directory / "virtagent.service.d/allow.conf").write_text(drop_in, encoding="utf-8")
    assert analyze(scene, "verify", "--man=no", unit) == ""
    capabilities = {"dmesg": "CAP_SYSLOG", "set-time": "CAP_SYS_TIME", "fsfreeze": "CAP_SYS_ADMIN", "fstrim": "CAP_SYS_ADMIN"}
    for name, capability in capabilities.items():
        wanted = any(capabilities.get(one) == capability for one in allowed)
        assert (f" {capability}" in drop_in or f"={capability}" in drop_in) == wanted, (name, drop_in)
    assert ("User=root" in drop_in) == ("shutdown" in allowed)


def test_a_directory_that_no_unit_can_name_is_refused(scene: Scene) -> None:
    process = scene.run([BIN / "virtagent", "drop-in", "--allow-write", "/srv/a\nb"], expect=1)
    assert process.stdout() == "" and "control characters" in process.stderr()


def test_no_file_has_a_name_of_libvirts(scene: Scene) -> None:
    """libvirt installs virtproxyd.service, virtproxyd.conf and so on."""
    assert [path for path in SOURCES.iterdir() if path.name.startswith("virtproxyd")] == []


STEPS = [
    "sysusers and tmpfiles",
    "a service without its file does not start",
    "a file without a channel is an error that is not tried again",
    "the service is ready, unprivileged, and its listeners are stored",
    "the hook starts the process of a virtual machine, and bytes pass",
    "a reload changes a forward and keeps a connection",
    "a reload with errors fails, names them and changes nothing",
    "a restart refuses no client",
    "a process that is killed comes back",
    "a thread that hangs makes the manager restart the process",
    "a socket unit starts the service with the first client",
    "the hook stops the process of a virtual machine",
]


@needs_machine
def test_what_an_administrator_does(scene: Scene) -> None:
    tree = scene.directory / "tree"
    lay_out_units(tree / "etc/systemd/system", "/usr/bin")
    programs = tree / "usr/bin"
    programs.mkdir(parents=True)
    for program in ("virtproxy", "virtproxyctl"):
        shutil.copy(BIN / program, programs)
    for source, target in (
        ("virtproxy.sysusers", "etc/sysusers.d/virtproxy.conf"),
        ("virtproxy.tmpfiles", "etc/tmpfiles.d/virtproxy.conf"),
        ("libvirt-hook", "hook"),
        ("virtproxy.toml", "virtproxy.toml"),
    ):
        (tree / target).parent.mkdir(exist_ok=True)
        shutil.copy(SOURCES / source, tree / target)
    ports = [scene.addresses.tcp().port for _ in range(3)]
    run_machine(scene, tree, "units.sh", {"FORWARD": ports[0], "ECHO": ports[1], "OTHER": ports[2]}, STEPS)


@needs_machine
def test_what_virtagent_may_do_under_the_service_manager(scene: Scene) -> None:
    tree = scene.directory / "tree"
    for source, target in (
        (AGENT / "virtagent.service", "etc/systemd/system/virtagent.service"),
        (AGENT / "virtagent.sysusers", "etc/sysusers.d/virtagent.conf"),
        (BIN / "virtagent", "usr/bin/virtagent"),
    ):
        (tree / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, tree / target)
    steps = [
        "the default set runs without privileges",
        "the drop-in gives what is allowed needs, and nothing else",
    ]
    run_machine(scene, tree, "agent.sh", {}, steps)
