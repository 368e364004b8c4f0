"""Lines that change, lose, double, make up bytes: with checksums none of it reaches an application.

Many channels at a time in one pair of daemons, each with faults of its own: an end waits longer
after each fault in a row, so that one channel alone would see few of them.
"""

from __future__ import annotations

import os
import re
from collections import Counter

import pytest

from addresses import Address
from harness import Daemon, Scene, into, out, scaled
from load import Load
from relay import Relay
from spoiler import PtyLine, Spoiler
from stage import eventually, wait_for_echo

SEED = int(os.environ.get("VIRTPROXY_SEED") or 20261122)
CHANNELS = 16
FAULTS = scaled(100, 20)  # in all, at least
EACH = 3  # of every kind, at least
SAID = re.compile(
    r"channel \d+: (?:down: (?:a frame header failed its check|a frame trailer failed its check"
    r"|a greeting is malformed|frames were lost on the channel|the other end started anew)|up)\b"
)


def spoilt_channels(
    scene: Scene, kind: str, seal: str | None = "checksum"
) -> tuple[list[Spoiler], list[str], list[str]]:
    """The lines, and what either daemon is told of them. A tty needs no telling to seal."""
    spoilers = [Spoiler(f"{SEED}/{index}", 60_000) for index in range(CHANNELS)]
    near: list[str] = []
    far: list[str] = []
    for index, spoiler in enumerate(spoilers):
        if kind == "pty":
            line = PtyLine(spoiler)
            scene.cleanup_last(line.close)
            near += ["-c", f"isa-serial:{line.paths[0]}:-:{index}"]
            far += ["-c", f"isa-serial:{line.paths[1]}:-:{index}"]
        else:
            inner, outer = scene.addresses.of_kind(kind), scene.addresses.of_kind(kind)
            relay = Relay(outer, inner)
            relay.spoil = spoiler
            scene.cleanup(relay.close)
            near += ["-c", f"unix-listen:{inner.spec}:{index}"]
            far += ["-c", f"unix-connect:{outer.spec}:{index}"]
    if kind != "pty" and seal:
        near += ["--integrity", seal]
    return spoilers, near, far


def said(daemon: Daemon) -> Counter[str]:
    lines = daemon.err.lines()
    matches = filter(None, map(SAID.search, lines))
    return Counter(match.group(0).split(": ", 1)[1] for match in matches)


def carry_echo(
    scene: Scene, spoilers: list[Spoiler], near_args: list[str], far_args: list[str]
) -> tuple[Daemon, Daemon, list[Address]]:
    """A pair over the lines, with a door to an echo service through each of them."""
    echo = scene.echo_service()
    doors = [scene.addresses.tcp() for _ in spoilers]
    for index, door in enumerate(doors):
        near_args += out("echo", door, index)
        far_args += into("echo", echo, index)
    channels = tuple(range(CHANNELS))
    near = scene.daemon(*near_args, name="near", channels=channels)
    far = scene.daemon(*far_args, name="far", channels=channels)
    for door in doors:
        wait_for_echo(door)
    return near, far, doors


@pytest.mark.parametrize("kind", ["unix", "pty"])
def test_no_spoilt_byte_reaches_an_application(scene: Scene, kind: str) -> None:
    spoilers, *args = spoilt_channels(scene, kind)
    near, far, doors = carry_echo(scene, spoilers, *args)
    descriptors = near.fds(), far.fds()
    loads = [Load(door, 1, SEED + index, 100_000) for index, door in enumerate(doors)]
    for spoiler in spoilers:
        spoiler.on = True

    def enough() -> bool:
        faults = sum((spoiler.faults for spoiler in spoilers), Counter())
        every = all(faults[what] >= EACH for what in Spoiler.KINDS)
        return every and faults.total() >= FAULTS

    eventually("enough faults", enough, 60)
    for spoiler in spoilers:
        spoiler.on = False
    faults = sum((spoiler.faults for spoiler in spoilers), Counter())
    for door in doors:
        wait_for_echo(door, 60)
    eventually("something passes each of them", lambda: all(load.tally.complete > 0 for load in loads))
    tallies = [load.stop() for load in loads]
    near_said, far_said = said(near), said(far)
    print(f"seed {SEED}: {dict(faults)}")
    complete, cut = (sum(t.complete for t in tallies), sum(t.cut for t in tallies))
    print(f"complete {complete}, cut {cut}, {sum(t.bytes for t in tallies) >> 10} KiB right")
    print(f"near {dict(near_said)}, far {dict(far_said)}")
    assert all(tally.complete > 0 for tally in tallies), tallies
    assert sum(tally.cut for tally in tallies) > 0, tallies
    for reasons in (near_said, far_said):
        detected = sum(count for reason, count in reasons.items() if reason != "up")
        assert detected >= FAULTS // 4, reasons
    for daemon, few in zip((near, far), descriptors, strict=True):
        daemon.wait_at_rest(few, timeout=30)


@pytest.mark.parametrize("seal", [None, "commit"])
def test_without_checksums_the_same_faults_are_seen_by_the_applications(
    scene: Scene, seal: str | None
) -> None:
    """So the clients of the tests above look, and those lines do spoil what they carry."""
    spoilers, *args = spoilt_channels(scene, "unix", seal)
    _, _, doors = carry_echo(scene, spoilers, *args)
    # A byte that is lost may leave a client waiting.
    loads = [Load(door, 1, SEED + index, 100_000, stuck=5) for index, door in enumerate(doors)]
    for spoiler in spoilers:
        spoiler.on = True
    wrong = [load.tally.violations for load in loads]
    eventually("wrong bytes", lambda: sum(map(len, wrong)) >= EACH, 60)
    for spoiler in spoilers:
        spoiler.on = False
    for load in loads:
        load.finish()
    seen = [what for violations in wrong for what in violations]
    print(f"seed {SEED}: {len(seen)} violations, the first {seen[:EACH]}")
    assert any(what.startswith("wrong bytes") for what in seen), seen
