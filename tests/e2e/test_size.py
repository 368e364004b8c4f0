"""What the static programs for guests cost: bytes of file, resident memory, processor time to start."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from harness import BIN, PATIENCE, SANITIZED, Scene

# Stripped. Each is what was reached, and some room for another compiler.
MOST_BYTES = {"virtproxy-static": 4_000_000, "virtagent-static": 2_350_000}
MOST_RESIDENT_KIB = {"epoll": 4 << 10, "io_uring": 5 << 10}  # The ring is shared with the kernel and counted.
# The goal is 10 ms, and 7 were measured on a machine with nothing else to do. Processor time grows to five
# times as much where others use the same caches and threads, so this finds only what was added on purpose.
START_SECONDS = 0.060
STARTS = 5

RELEASED = os.environ.get("VIRTPROXY_HARDENED", "1") not in ("", "0") and not SANITIZED
pytestmark = pytest.mark.skipif(
    not RELEASED or not (BIN / "virtproxy-static").exists(), reason="this build has no static programs to be released"
)


@pytest.mark.parametrize("program", MOST_BYTES)
def test_static_programs_are_small(tmp_path: Path, program: str) -> None:
    copy = tmp_path / program
    subprocess.run(["strip", "-o", copy, BIN / program], check=True)
    print(f"{program}: {copy.stat().st_size} bytes")
    assert copy.stat().st_size <= MOST_BYTES[program]
    assert subprocess.run([copy, "--version"], check=True, capture_output=True).stdout


@pytest.mark.parametrize("driver", MOST_RESIDENT_KIB)
def test_an_idle_static_daemon_is_small_and_starts_at_once(scene: Scene, driver: str) -> None:
    spent = []
    for _ in range(STARTS):
        daemon = scene.daemon("-c", f"unix-listen:{scene.addresses.unix().spec}", "-i", "ssh:127.0.0.1:22",
                              "--driver", driver, program=BIN / "virtproxy-static")
        status = Path(f"/proc/{daemon.pid}/status").read_text(encoding="ascii")
        resident = int(re.search(r"VmRSS:\s*(\d+)", status).group(1))
        # Of all its threads so far: sum_exec_runtime, in nanoseconds.
        tasks = Path(f"/proc/{daemon.pid}/task")
        spent.append(sum(int((tasks / task / "schedstat").read_text(encoding="ascii").split()[0])
                         for task in os.listdir(tasks)) / 1e9)
        daemon.send_signal(signal.SIGTERM)
        daemon.check_exit()
    print(f"{driver}: {resident} KiB resident; processor time of a start: {min(spent) * 1000:.1f} ms at best")
    assert resident <= MOST_RESIDENT_KIB[driver]
    assert min(spent) <= START_SECONDS * PATIENCE
