"""Throughput and CPU of a pair that is old, new, or mixed, under the same load; not a test.

    VIRTPROXY_BIN=build/release/bin /usr/bin/python3 tests/e2e/oldpeer/speed.py --rounds 5

Each round runs every pair under every load, one after the other, so that what else the machine does
meets all of them alike. The table has the median of the rounds: MB/s of payload, and CPU-seconds of
the near and of the far process for each GB of it. Clients are at the near end. A load that stands
still, as the original does with four streams each way, is a dash.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

BIN = Path(
    os.environ.get("VIRTPROXY_BIN")
    or Path(__file__).resolve().parents[3] / "build" / "release" / "bin"
)
PROGRAMS = {"old": BIN / "virtproxy-oldpeer", "new": BIN / "virtproxy"}
PAIRS = ["old-old", "new-old", "old-new", "new-new"]
LOADS = {
    "up 1": ["-n", "1", "--direction", "up"],
    "down 1": ["-n", "1", "--direction", "down"],
    "up 16": ["-n", "16", "--direction", "up"],
    "down 16": ["-n", "16", "--direction", "down"],
    "both 3": ["-n", "3", "--direction", "both"],
    "both 16": ["-n", "16", "--direction", "both"],
}
Figures = tuple[float, float, float]


def end(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(10)


def start(stack: ExitStack, program: str, *args: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [PROGRAMS[program], *args], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    stack.callback(end, process)
    assert process.stderr
    for line in process.stderr:
        if b"ready" in line:
            return process
    raise SystemExit(f"{program} did not start")


def measure(pair: str, load: str, kind: str, seconds: float) -> Figures | None:
    """MB/s and CPU-seconds per GB of both processes, or nothing when the load stood still."""
    with ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="vp-speed-"))
        spec = f"{place}/channel:-" if kind == "unix" else "127.0.0.1:19190"
        near, far = pair.split("-")
        door, service = f"{place}/door", f"{place}/service"
        processes = [
            start(stack, near, "-c", f"{kind}-listen:{spec}", "-o", f"bulk:{door}:-"),
            start(stack, far, "-c", f"{kind}-connect:{spec}", "-i", f"bulk:{service}:-"),
        ]
        command = [BIN / "virtproxy-bench", "run", "bulk", "--connect", f"unix:{door}"]
        command += ["--listen", f"unix:{service}", "--no-half-close", "--quiet", "--json", "-"]
        command += ["--duration", str(seconds), "--stall-limit", "3", "--wait", "5", *LOADS[load]]
        time.sleep(1)  # Both ends have chosen how they speak by then.
        command += [arg for process in processes for arg in ("--pid", str(process.pid))]
        run = subprocess.run(command, capture_output=True, timeout=seconds * 3 + 60)
        if run.returncode == 3:
            return None
        if run.returncode != 0:
            raise SystemExit(f"{pair}, {load}: {run.stderr.decode()}")
        result = json.loads(run.stdout)
        gigabytes = result["bytes"]["total"] / 1e9
        cpu = [process["cpu_seconds"] / gigabytes for process in result["processes"]]
        return result["bytes_per_second"] / 1e6, cpu[0], cpu[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--kind", choices=["unix", "tcp"], default="unix")
    parser.add_argument("--load", action="append", choices=list(LOADS))
    parser.add_argument("--pair", action="append", choices=PAIRS)
    options = parser.parse_args()
    pairs, loads = options.pair or PAIRS, options.load or list(LOADS)
    found: dict[tuple[str, str], list[Figures | None]] = {}
    for number in range(options.rounds):
        for load in loads:
            for pair in pairs:
                figures = measure(pair, load, options.kind, options.seconds)
                found.setdefault((pair, load), []).append(figures)
                print(f"round {number}: {pair}, {load}: {figures}", file=sys.stderr)
    print(f"channel {options.kind}, median of {options.rounds}: MB/s, CPU-s/GB near + far\n")
    print("| load | " + " | ".join(pairs) + " |")
    print("|---|" + "---|" * len(pairs))
    for load in loads:
        cells = []
        for pair in pairs:
            whole = [figures for figures in found[pair, load] if figures is not None]
            if len(whole) < len(found[pair, load]):
                cells.append("–")
                continue
            rate, near, far = (statistics.median(column) for column in zip(*whole, strict=True))
            cells.append(f"{rate:.0f}, {near:.2f} + {far:.2f}")
        print(f"| {load} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
