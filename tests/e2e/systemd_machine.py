"""A namespace in which the real systemd is process 1 and runs one script."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pytest

from harness import PATIENCE, Scene
from processes import Process
from stage import comes_true, eventually

HERE = Path(__file__).resolve().parent / "systemd"


def _impossible() -> str:
    if shutil.which("systemd-analyze") is None:
        return "systemd is not installed"
    command = ["unshare", "--cgroup", "--mount", "--pid", "--fork", "true"]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        return "a systemd in a namespace takes root"
    return ""


needs_machine = pytest.mark.skipif(bool(_impossible()), reason=_impossible() or "-")


def boot(
    scene: Scene,
    tree: Path,
    lower: Path = Path("/"),
    more: Sequence[str] = (),
    units: Mapping[str, str] = MappingProxyType({}),
) -> Process:
    """Starts the systemd of a machine: the files of `tree` over those of `lower`, `more` namespaces."""
    results, place = scene.directory / "results", scene.directory / "place"
    results.mkdir()
    place.mkdir()
    (tree / "etc/systemd/system").mkdir(parents=True, exist_ok=True)
    for name, text in units.items():
        (tree / "etc/systemd/system" / name).write_text(text, encoding="ascii")
    group = scene.directory.name
    remove = f"mount -t cgroup2 none {place} && find {place}/{group} -depth -type d -exec rmdir {{}} +"
    process = scene.spawn(
        ["unshare", "--mount", "--pid", "--fork", "--uts", "--ipc", *more, "--kill-child",
         HERE / "init.sh", tree, results, place, lower, group],
        name="systemd",
    )  # fmt: skip

    def end() -> None:
        process.kill()
        eventually("the machine's cgroup is removed", lambda: subprocess.run(
            ["unshare", "--mount", "sh", "-c", remove], check=False, capture_output=True).returncode == 0)

    scene.cleanup(end)
    return process


def run_machine(scene: Scene, tree: Path, script: str, env: dict[str, object], steps: list[str]) -> None:
    """Boots with the files of `tree` over those of this machine. The script must write these steps."""
    shutil.copy(HERE / "steps.sh", tree / "steps.sh")
    shutil.copy(HERE / script, tree / "script")
    variables = " ".join(f"{key}={value}" for key, value in env.items())
    units = {
        "script.service": "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nExecStart=/script\n"
        f"Environment={variables}\n",
        "default.target": "[Unit]\nWants=script.service\n",
    }
    machine = boot(scene, tree, units=units)
    machine.wait(180 * PATIENCE)
    results = scene.directory / "results"
    said = {name: "" for name in ("steps", "output", "log")}
    for name in said:
        path = results / name
        said[name] = path.read_text(encoding="utf-8") if path.exists() else ""
    assert said["steps"].splitlines() == steps, "\n".join([*said.values(), machine.everything()])


class Machine:
    """A machine that stays, and in which commands are run, in a root of its own."""

    def __init__(self, scene: Scene, lower: Path, more: Sequence[str] = ()) -> None:
        tree = scene.directory / "tree"
        tree.mkdir()
        self.scene = scene
        self.process = boot(scene, tree, lower, more)
        self.pid = 0
        eventually("systemd is process 1 of the machine", self._found, 60)
        self.wait_for("systemctl is-system-running --wait; systemctl is-active basic.target", 120)

    def _found(self) -> bool:
        assert self.process.alive(), self.process.everything()
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text(encoding="ascii")
        if not children:
            return False
        self.pid = int(children.split()[0])
        return Path(f"/proc/{self.pid}/comm").read_text(encoding="ascii").strip() == "systemd"

    def outside(self, path: str) -> Path:
        """A path of the machine, as the processes of this one reach it."""
        return Path(f"/proc/{self.pid}/root{path}")

    def wrapper(self) -> list[str]:
        """In front of a program of this machine: it gets the other one's /run, and keeps all else."""
        return ["nsenter", "-t", str(self.pid), "-m", "-n", "chroot", "/outer"]

    def command(self, command: str) -> list[str]:
        """What runs shell text in the machine."""
        return ["nsenter", "-t", str(self.pid), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w",
                "env", "-i", "HOME=/root", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "sh", "-c", command]  # fmt: skip

    def run(self, command: str, timeout: float = 60, stdin: bytes = b"") -> tuple[int, str]:
        """Exit status, and standard output and error together."""
        done = subprocess.run(self.command(command), input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=timeout * PATIENCE, check=False)  # fmt: skip
        return done.returncode, done.stdout.decode(errors="replace")

    def check(self, command: str, timeout: float = 60, stdin: bytes = b"") -> str:
        """The output of a command that must succeed."""
        status, output = self.run(command, timeout, stdin)
        assert status == 0, f"status {status} from: {command}\n{output}\n{self.journal()}"
        return output

    def wait_for(self, command: str, timeout: float = 30) -> str:
        """Repeats a command until it succeeds; its output then."""
        output = [""]

        def succeeds() -> bool:
            status, output[0] = self.run(command, timeout)
            return status == 0

        assert comes_true(succeeds, timeout), f"never true: {command}\n{output[0]}\n{self.journal()}"
        return output[0]

    def journal(self) -> str:
        return self.run("journalctl --no-pager -n 200 -o short-monotonic")[1]
