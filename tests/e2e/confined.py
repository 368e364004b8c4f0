"""What the tests of containment share: a stage open to other users, and a look at a daemon."""

from __future__ import annotations

import os
import re
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


def with_files(scene: Scene, **files: str) -> list[str | Path]:
    """A prefix that shows a program other files in /etc."""
    script = ""
    for name, text in files.items():
        copy = scene.directory / name
        copy.write_text(text, encoding="ascii")
        script += f"mount --bind {copy} /etc/{name.replace('_', '.')} && "
    try:
        subprocess.run(["unshare", "-m", "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs a mount namespace")
    return ["unshare", "-m", "sh", "-c", script + 'exec "$0" "$@"']
