"""What the tests of containment share: a stage open to other users, and a look at a daemon."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import intruder as intrusion
from harness import SANITIZED, Daemon, Scene

NOBODY = 65534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
sandboxed = pytest.mark.skipif(SANITIZED, reason="a build with sanitizers has no sandbox")
break_in = pytest.mark.skipif(
    SANITIZED or not intrusion.POSSIBLE, reason="needs root on x86-64 and a sandbox"
)


def status_of_threads(daemon: Daemon) -> list[dict[str, str]]:
    found = []
    for tid in intrusion.threads(daemon.pid):
        text = Path(f"/proc/{daemon.pid}/task/{tid}/status").read_text(encoding="ascii")
        found.append(dict(re.findall(r"^(\w+):[ \t]*(.*?)[ \t]*$", text, re.MULTILINE)))
    return found


def in_own_mounts(script: str) -> list[str | Path]:
    """A prefix that runs a program after a script, in a mount namespace of its own."""
    try:
        subprocess.run(["unshare", "-m", "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs a mount namespace")
    return ["unshare", "-m", "sh", "-c", script + 'exec "$0" "$@"']


def with_files(scene: Scene, **files: str) -> list[str | Path]:
    """A prefix that shows a program other files in /etc."""
    script = ""
    for name, text in files.items():
        copy = scene.directory / name
        copy.write_text(text, encoding="ascii")
        script += f"mount --bind {copy} /etc/{name.replace('_', '.')} && "
    return in_own_mounts(script)


def with_etc(scene: Scene, **files: str) -> tuple[list[str | Path], Path]:
    """The same for all of /etc, whose files can then be replaced: the prefix and the directory."""
    directory = scene.directory / "etc"
    directory.mkdir()
    for name in ("passwd", "group", "services", "protocols", "nsswitch.conf", "hosts"):
        shutil.copy(f"/etc/{name}", directory / name)
    for name, text in files.items():
        (directory / name.replace("_", ".")).write_text(text, encoding="ascii")
    return in_own_mounts(f"mount --bind {directory} /etc && "), directory
