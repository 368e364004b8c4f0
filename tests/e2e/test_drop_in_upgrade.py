"""Which protocol is spoken: chosen without a delay, and anew with every other end."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable

import pytest

from drop_in import NEW, OLD, Crowd, End, Line, answered, channel, wait_protocol
from harness import PATIENCE, Scene, out
from stage import echo_once, eventually, expect_client_reset, receive

PROTOCOLS = {OLD: 1, NEW: 2}


# Ten upgrades, and as many times back.
STEPS = 20


@pytest.mark.parametrize(
    ("kind", "stays", "number"),
    [("unix", "listen", signal.SIGKILL), ("tcp", "connect", signal.SIGTERM)],
    ids=["unix-listen-kill", "tcp-connect-term"],
)
def test_upgraded_and_downgraded_ten_times_under_load(
    scene: Scene, kind: str, stays: str, number: int
) -> None:
    pairing = f"{kind}-new-old" if stays == "listen" else f"{kind}-old-new"
    new = ["--drain-timeout", "0.1", "--ack-timeout", "1"]
    line = Line(scene, pairing, {"echo": scene.echo_service()}, new=new)
    stayer = line.running(NEW)
    replaced = line.running(OLD)
    wait_protocol(stayer.daemon, 1)
    line.wait_for_echo()
    crowd = Crowd(scene, [end.doors["echo"] for end in line.ends])
    for step in range(STEPS):
        crowd.wait_for_answers()
        mark = stayer.daemon.mark()
        replaced.stop(number)
        stayer.daemon.wait_down(since=mark)
        replaced.start(OLD if step % 2 else NEW)
        check_step(line, stayer, replaced, mark)
        line.wait_for_echo()
        crowd.wait_for_answers()
    crowd.stop()
    assert not crowd.wrong, crowd.wrong
    stayer.daemon.wait_at_rest()


def check_step(line: Line, stayer: End, replaced: End, mark: int) -> None:
    wait_protocol(stayer.daemon, PROTOCOLS[replaced.program], mark)
    if replaced.program == NEW:
        wait_protocol(replaced.daemon, 2)


@pytest.mark.parametrize(("kind", "stays"), [("pty", "near"), ("device", "far")])
def test_upgraded_and_downgraded_ten_times_behind_a_line_that_hides_it(
    scene: Scene, kind: str, stays: str
) -> None:
    """The line stays connected. Upgrades under load from both ends; before a downgrade our clients
    stay away until the old peer has spoken, for whatever reaches the original between its packets
    makes it deaf for good."""
    pairing = f"{kind}-new-old" if stays == "near" else f"{kind}-old-new"
    old = ["--no-unchecked-numbers"]
    new = ["--drain-timeout", "0.1", "--ack-timeout", "1", "--integrity", "commit"]
    line = Line(scene, pairing, {"echo": scene.echo_service()}, old=old, new=new)
    stayer = line.running(NEW)
    replaced = line.running(OLD)
    line.wait_for_echo()
    crowd = Crowd(scene, [end.doors["echo"] for end in line.ends])
    for step in range(STEPS):
        crowd.wait_for_answers()
        if step % 2 == 0:
            mark = stayer.daemon.mark()
            replaced.stop(signal.SIGKILL)
            replaced.start(NEW)
            check_step(line, stayer, replaced, mark)
        else:
            with crowd.away_from(stayer.doors["echo"]), crowd.away_from(replaced.doors["echo"]):
                stayer.daemon.wait_at_rest()
                mark = stayer.daemon.mark()
                replaced.stop(signal.SIGKILL)
                replaced.start(OLD)
                door = replaced.doors["echo"]
                eventually("an answer for the old peer's client", lambda: answered(door))
                check_step(line, stayer, replaced, mark)
        line.wait_for_echo()
        crowd.wait_for_answers()
    crowd.stop()
    assert not crowd.wrong, crowd.wrong
    stayer.daemon.wait_at_rest()


# A client that comes as soon as it can.

# Seconds. An end that chooses wrongly, or forgets the client, keeps it for 15 s or resets it. How long
# choosing itself takes is judged on virtual time, in the unit tests of core. An end that looks for the
# other one looks again after no longer than it has looked already: a slow start of the second end
# takes that much more.
FIRST_ANSWER = 5.0


def first_answer(door: Callable[[], socket.socket], since: float) -> float:
    """Seconds until the first answer; the one client that comes at once is neither reset nor kept
    waiting."""
    with door() as sock:
        sock.sendall(b"now?")
        assert receive(sock, 4) == b"now?"
    return time.monotonic() - since


@pytest.mark.parametrize("kind", ["unix", "tcp", "pty"])
@pytest.mark.parametrize("other", [OLD, NEW])
@pytest.mark.parametrize("first", ["near", "far"])
@pytest.mark.parametrize("ours", ["near", "far"])
def test_the_first_answer_comes_at_once(
    scene: Scene, kind: str, other: str, first: str, ours: str
) -> None:
    """Whichever end starts first, whichever has the client."""
    pairing = f"{kind}-new-{other}" if ours == "near" else f"{kind}-{other}-new"
    old = ["--reconnect", "--hold-clients"]
    line = Line(scene, pairing, {"echo": scene.echo_service()}, old=old, start=False)
    programs = dict(zip(("near", "far"), pairing.split("-")[1:], strict=True))
    order = [line.near, line.far] if first == "near" else [line.far, line.near]
    for end in order:
        end.start(programs["near" if end is line.near else "far"])
    begin = time.monotonic()
    took = {}
    for end in reversed(order):
        took[end.program, end is order[0]] = first_answer_of(end, begin)
    print("first answers:", took)
    assert max(took.values()) < FIRST_ANSWER * PATIENCE, took


def first_answer_of(end: End, begin: float) -> float:
    """A client that is turned away, because the channel is not there yet, comes again at once."""

    while not answered(end.doors["echo"]):
        assert time.monotonic() < begin + 10 * PATIENCE, "no answer at all"
    return time.monotonic() - begin


@pytest.mark.parametrize("method", ["connect", "listen"])
def test_without_another_end_a_client_waits_for_a_moment_only(scene: Scene, method: str) -> None:
    """It comes before the channel was tried for the first time; nobody is there."""
    door = scene.addresses.tcp()
    spec = channel(method, scene.addresses.unix())
    daemon = scene.daemon("-c", spec, *out("echo", door), wait=False)
    daemon.wait_for_log(f"listening on {door.place}:{door.port}")
    for _ in range(3):
        assert expect_client_reset(door, FIRST_ANSWER) < FIRST_ANSWER * PATIENCE
    daemon.wait_for_log("client refused: the channel is down")
    daemon.wait_at_rest()


@pytest.mark.parametrize("kind", ["unix", "tcp", "pty"])
@pytest.mark.parametrize("other", [OLD, NEW])
def test_a_client_while_we_choose_waits_and_is_not_turned_away(
    scene: Scene, kind: str, other: str
) -> None:
    """The other end is there already; the client comes the moment we say that we listen."""
    pairing = f"{kind}-{other}-new"
    line = Line(scene, pairing, {"echo": scene.echo_service()}, start=False)
    line.near.start(other)
    daemon = line.scene.daemon(*line.far.args, wait=False)
    door = line.far.doors["echo"]
    daemon.wait_for_log(f"listening on {door.place}:{door.port}")
    took = first_answer(lambda: door.connect(5 * PATIENCE), time.monotonic())
    print(f"first answer after {took * 1000:.0f} ms")
    assert took < FIRST_ANSWER * PATIENCE
    wait_protocol(daemon, PROTOCOLS[other])


@pytest.mark.parametrize("protocol", ["1", "2"])
def test_a_forced_protocol_is_kept(scene: Scene, protocol: str) -> None:
    line = Line(
        scene, "unix-new-new", {"echo": scene.echo_service()}, new=["--protocol", protocol]
    )
    for end in line.ends:
        wait_protocol(end.daemon, int(protocol))
        echo_once(end.doors["echo"])


def test_protocol_1_on_one_end_is_enough(scene: Scene) -> None:
    """An end that was told to speak the old format only meets one that may choose."""
    line = Line(scene, "unix-new-new", {"echo": scene.echo_service()}, start=False)
    line.near.switches[NEW] = ["--protocol", "1"]
    line.start()
    for end in line.ends:
        wait_protocol(end.daemon, 1)
    for end in line.ends:
        echo_once(end.doors["echo"])
