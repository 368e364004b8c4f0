"""A namespace in which the real systemd is process 1 and runs one script."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from harness import PATIENCE, Scene

HERE = Path(__file__).resolve().parent / "systemd"


def _impossible() -> str:
    if shutil.which("systemd-analyze") is None:
        return "systemd is not installed"
    command = ["unshare", "--cgroup", "--mount", "--pid", "--fork", "true"]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        return "a systemd in a namespace takes root"
    return ""


needs_machine = pytest.mark.skipif(bool(_impossible()), reason=_impossible() or "-")


def run_machine(scene: Scene, tree: Path, script: str, env: dict[str, object], steps: list[str]) -> None:
    """Boots with the files of `tree` over those of this machine. The script must write these steps."""
    results, place = scene.directory / "results", scene.directory / "place"
    results.mkdir()
    place.mkdir()
    units = tree / "etc/systemd/system"
    units.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "steps.sh", tree / "steps.sh")
    shutil.copy(HERE / script, tree / "script")
    variables = " ".join(f"{key}={value}" for key, value in env.items())
    (units / "script.service").write_text(
        "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nExecStart=/script\n"
        f"Environment={variables}\n",
        encoding="ascii",
    )
    (units / "default.target").write_text("[Unit]\nWants=script.service\n", encoding="ascii")
    machine = scene.spawn(
        ["unshare", "--cgroup", "--mount", "--pid", "--fork", "--uts", "--ipc", "--kill-child",
         HERE / "init.sh", tree, results, place],
        name="systemd",
    )  # fmt: skip
    machine.wait(180 * PATIENCE)
    said = {name: "" for name in ("steps", "output", "log")}
    for name in said:
        path = results / name
        said[name] = path.read_text(encoding="utf-8") if path.exists() else ""
    assert said["steps"].splitlines() == steps, "\n".join([*said.values(), machine.everything()])
