"""One million streams, opened, used and closed: the daemons end as they began.

VIRTPROXY_SOAK_STREAMS sets another number of streams.
"""

from __future__ import annotations

import json
import os
import time

import pytest

from harness import BIN, PATIENCE, SANITIZED, Daemon, Pair, Scene, into, out, scaled

STREAMS = int(os.environ.get("VIRTPROXY_SOAK_STREAMS") or scaled(1_000_000))
WARM_UP = STREAMS // 20
SHARE = 0.05  # of memory that may come or go
AT_ONCE = 64
ROUND_SECONDS = 5


def churn(scene: Scene, door: str, service: str, streams: int) -> float:
    """Streams with a message each way, verified; returns how many a second."""
    done, seconds = 0, 0.0
    while done < streams:
        ends = ["--connect", door, "--listen", service, "--stall-limit", str(30 * PATIENCE)]
        load = ["-n", str(AT_ONCE), "--duration", str(ROUND_SECONDS), "--warmup", "0", "--verify"]
        command = [BIN / "virtproxy-bench", "run", "churn", *ends, *load, "--json", "-"]
        run = scene.run(command, timeout=120)
        result = json.loads(run.stdout())
        done += result["messages"]
        seconds += result["seconds"]
        scene.processes.remove(run)
    return done / seconds


def settled_rss(daemon: Daemon) -> int:
    """After idle memory has gone back to the system: two readings a second apart agree."""
    last = 0
    for _ in range(10):
        time.sleep(1)
        now = daemon.rss()
        if abs(now - last) < 64 << 10:
            break
        last = now
    return now


@pytest.mark.skipif(not (BIN / "virtproxy-bench").exists(), reason="built without virtproxy-bench")
def test_a_million_streams_leave_nothing_behind(scene: Scene) -> None:
    door, service = scene.addresses.unix(), scene.addresses.unix()
    pair = Pair(scene, "unix", near=out("x", door), far=into("x", service))
    ends = (f"unix:{door.place}", f"unix:{service.place}")
    churn(scene, *ends, WARM_UP)
    pair.wait_at_rest()
    before = [(settled_rss(daemon), daemon.fds()) for daemon in pair.both()]
    rate = churn(scene, *ends, STREAMS)
    pair.wait_at_rest()
    for daemon, (rss, descriptors) in zip(pair.both(), before, strict=True):
        now = settled_rss(daemon)
        print(
            f"{daemon.name}: {STREAMS} streams, {rate:.0f}/s, {rss >> 10} KiB before,"
            f" {now >> 10} KiB after, {descriptors} descriptors"
        )
        assert daemon.fds() == descriptors, f"{daemon.fds()} descriptors, {descriptors} before"
        assert SANITIZED or abs(now - rss) <= SHARE * rss, f"{rss} bytes before, {now} after"
        assert daemon.stats().process["log_lines_dropped"] == 0
