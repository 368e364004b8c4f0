"""A daemon with a large backlog in its spool starts like one with an empty spool: it reads as little and is as small.

VIRTPROXY_LOG_BACKLOG=BYTES how much is in the spool, instead of 64 MiB; 10000000000 for the figure to publish, which is
printed.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

from harness import SANITIZED, Daemon, Scene
from log_shipping import BACKLOG, BACKLOG_SPOOL, write_backlog

# What a start may read, of all files.
READ = 16 << 20
# What may be resident beyond a start with an empty spool. The sinks of a host are given records at once, some of
# which may be there already when it is looked at: 15 MB once they have all that they are given at a time.
RESIDENT = {"guest": 4 << 20, "host": 20 << 20}


@dataclass
class Start:
    seconds: float
    read: int  # bytes, of all files
    resident: int  # bytes


def start(scene: Scene, name: str, *args: str, **options) -> tuple[Daemon, Start]:
    begun = time.monotonic()
    daemon = scene.daemon(*args, name=name, **options)
    seconds = time.monotonic() - begun
    counts = Path(f"/proc/{daemon.pid}/io").read_text(encoding="ascii")
    return daemon, Start(seconds, int(re.search(r"rchar: (\d+)", counts).group(1)), daemon.rss())


def judge(what: str, empty: Start, full: Start) -> None:
    print(f"\n{what}: {BACKLOG / 1e9:.2f} GB in the spool: ready after {full.seconds * 1e3:.0f} ms, {full.read >> 10} KiB read,"
          f" {full.resident / 1e6:.1f} MB resident; empty: {empty.seconds * 1e3:.0f} ms, {empty.read >> 10} KiB,"
          f" {empty.resident / 1e6:.1f} MB")
    assert full.read < READ
    assert SANITIZED or full.resident < empty.resident + RESIDENT[what]


def test_a_guest(scene: Scene) -> None:
    place, spool = scene.directory / "log", scene.directory / "spool"
    args = ("-c", f"unix-connect:{scene.addresses.unix().spec}", "--ship", f"unix-dgram:{place},name=app,full=spool,then=block",
            "--ship-spool", f"{spool}:{BACKLOG_SPOOL},sync=never", "--ship-flush-timeout", "0.2")
    daemon, empty = start(scene, "empty", *args)
    write_backlog(daemon, place, "ship_received")
    daemon.terminate()
    daemon, full = start(scene, "full", *args)
    judge("guest", empty, full)
    assert daemon.stats().channels[0]["ship_spool"] >= BACKLOG * 9 // 10


def test_a_host(scene: Scene) -> None:
    """Its sink is away, and the guest's lines are acknowledged by its spool."""
    channel, place, spool = scene.addresses.unix(), scene.directory / "log", scene.directory / "spool"
    args = ("-c", f"unix-listen:{channel.spec}:vm1", "--collect", f"syslog+unix:{scene.directory / 'nobody'}",
            "--collect-spool", f"{spool}:{BACKLOG_SPOOL},sync=never")
    host, empty = start(scene, "empty", *args, channels=("vm1",))
    guest = scene.daemon("-c", f"unix-connect:{channel.spec}", "--ship", f"unix-dgram:{place},name=app",
                         "--ship-flush-timeout", "0.2", name="guest")
    write_backlog(guest, place, "ship_acknowledged")
    guest.terminate()
    host.terminate()
    host, full = start(scene, "full", *args, channels=("vm1",))
    judge("host", empty, full)
    assert spool.stat().st_blocks * 512 >= BACKLOG * 9 // 10
    assert host.alive()
