"""The same attacks on a daemon that dials: what listens is hostile, as QEMU's socket is when its
guest is. Afterwards an honest listener takes the place, and is served within the time that the
README gives.
"""

from __future__ import annotations

import time

import pytest

from harness import PATIENCE, Scene, out
from siege import Attack, Siege
from stage import answers, eventually
from test_hostile_floods import ATTACKS, greet_and_break, reconnect

SECONDS = 1.0
LONGEST_WAIT = 6.4  # between two attempts, after faults in a row
CONNECTS = 2.0  # between two attempts, at most, while nobody listens
SLACK = 1.0
# After so many, and so many seconds, the longest wait is due: 0.05 s for the first fault, twice as
# much for each that follows.
FAULTS_FOR_THE_LONGEST = 8
UNTIL_THE_LONGEST = 6.4


def lets_nobody_in(siege: Siege, until: float) -> None:
    """A listener that never accepts."""
    siege.begun.set()
    time.sleep(max(0.0, until - time.monotonic()))


SELECTED = (
    "pongs",
    "greetings-of-new-lives",
    "data-that-nobody-takes",
    "a-reader-that-never-reads",
    "garbage",
    "connections",
    "connections-that-greet",
    "connections-that-break",
    "faults-on-one-connection",
)


def serve_a_successor(scene: Scene, siege: Siege, within: float) -> None:
    """An honest daemon listens where the hostile peer did, and has to be served in time."""
    siege.give_way()
    door = scene.addresses.unix()
    begin = time.monotonic()
    scene.daemon("-c", f"unix-listen:{siege.channel.spec}", *out("echo", door), name="successor")
    eventually("an echo of the successor", lambda: answers(door), within + SLACK)
    took = time.monotonic() - begin
    print(f"served after {took:.2f} s")
    assert took < (within + SLACK) * PATIENCE


@pytest.mark.parametrize("name", [*SELECTED, "silence"])
def test_a_daemon_that_dials_is_unharmed_and_serves_the_next(scene: Scene, name: str) -> None:
    attack = Attack(lets_nobody_in, 0.1) if name == "silence" else ATTACKS[name]
    siege = Siege(scene, attack.streams, dials=True)
    siege.endure(attack, SECONDS)
    serve_a_successor(scene, siege, max(CONNECTS, LONGEST_WAIT / 2))


def test_the_longest_wait_after_faults_is_as_documented(scene: Scene) -> None:
    siege = Siege(scene, dials=True)
    greeted = 0

    def greet_count_and_break(peer) -> None:
        nonlocal greeted
        greet_and_break(peer)
        greeted += 1

    until = time.monotonic() + UNTIL_THE_LONGEST
    cpu = siege.daemon.cpu_seconds()
    reconnect(greet_count_and_break)(siege, until)
    used = siege.daemon.cpu_seconds() - cpu
    print(f"{greeted} sessions in {UNTIL_THE_LONGEST:g} s, {used * 1000:.0f} ms of CPU")
    assert 3 < greeted <= FAULTS_FOR_THE_LONGEST
    assert used < 0.1 * PATIENCE
    serve_a_successor(scene, siege, LONGEST_WAIT)
