"""The units under the real systemd: verified, rated, and run in a namespace in which it is process 1."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from harness import BIN, PATIENCE, SANITIZED, Scene

SOURCES = Path(__file__).resolve().parents[2] / "uring" / "daemon" / "systemd"
UNITS = ("virtproxy.service", "virtproxy@.service", "virtproxy-guest.service")
HERE = Path(__file__).resolve().parent / "systemd"
pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd is not installed"
)


def no_namespaces() -> bool:
    command = ["unshare", "--cgroup", "--mount", "--pid", "--fork", "true"]
    return subprocess.run(command, check=False, capture_output=True).returncode != 0


def lay_out_units(target: Path, programs: str) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in UNITS:
        text = (SOURCES / f"{name}.in").read_text(encoding="ascii")
        assert text.count("@BINDIR@") == 1
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


def test_no_file_has_a_name_of_libvirts(scene: Scene) -> None:
    """libvirt installs virtproxyd.service, virtproxyd.conf and so on."""
    assert [path for path in SOURCES.iterdir() if path.name.startswith("virtproxyd")] == []


STEPS = [
    "sysusers and tmpfiles",
    "a service without its file does not start",
    "the service is ready, unprivileged, and its listeners are stored",
    "the hook starts the process of a virtual machine, and bytes pass",
    "a restart refuses no client",
    "a process that is killed comes back",
    "a thread that hangs makes the manager restart the process",
    "a socket unit starts the service with the first client",
    "the hook stops the process of a virtual machine",
]


@pytest.mark.skipif(SANITIZED, reason="the units forbid what a sanitizer needs")
@pytest.mark.skipif(os.geteuid() != 0 or no_namespaces(), reason="a systemd in a namespace takes root")
def test_what_an_administrator_does(scene: Scene) -> None:
    tree, results, place = (scene.directory / name for name in ("tree", "results", "place"))
    for directory in (tree, results, place):
        directory.mkdir()
    lay_out_units(tree / "etc/systemd/system", "/usr/bin")
    programs = tree / "usr/bin"
    programs.mkdir(parents=True)
    shutil.copy(BIN / "virtproxy", programs)
    for source, target in (
        ("virtproxy.sysusers", "etc/sysusers.d/virtproxy.conf"),
        ("virtproxy.tmpfiles", "etc/tmpfiles.d/virtproxy.conf"),
        ("libvirt-hook", "hook"),
    ):
        (tree / target).parent.mkdir(exist_ok=True)
        shutil.copy(SOURCES / source, tree / target)
    shutil.copy(HERE / "scenario.sh", tree / "scenario.sh")
    ports = [scene.addresses.tcp().port for _ in range(2)]
    (tree / "etc/systemd/system/scenario.service").write_text(
        "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nExecStart=/scenario.sh\n"
        f"Environment=FORWARD={ports[0]} ECHO={ports[1]}\n",
        encoding="ascii",
    )
    (tree / "etc/systemd/system/default.target").write_text(
        "[Unit]\nWants=scenario.service\nAllowIsolate=yes\n", encoding="ascii"
    )
    machine = scene.spawn(
        ["unshare", "--cgroup", "--mount", "--pid", "--fork", "--uts", "--ipc", "--kill-child",
         HERE / "init.sh", tree, results, place],
        name="systemd",
    )  # fmt: skip
    machine.wait(180 * PATIENCE)
    steps = results / "steps"
    files = (steps, results / "output", results / "log")
    said = "\n".join(path.read_text(encoding="utf-8") for path in files if path.exists())
    assert steps.exists() and steps.read_text(encoding="ascii").splitlines() == STEPS, (
        f"{said}\n{machine.everything()}"
    )
