"""A daemon that is asked to leave: no new streams, the old ones may finish, exit code 0."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time

import pytest

from addresses import Address
from harness import PATIENCE, Daemon, Pair, Scene
from stage import carry, echo, echo_once, eventually, expect_reset, receive_all, refused_or_reset


@pytest.fixture(name="leaver", params=["near", "far"])
def fixture_leaver(request: pytest.FixtureRequest) -> str:
    """Which of the two daemons is asked to leave."""
    return request.param


def stage(
    scene: Scene, leaver: str, drain_timeout: str
) -> tuple[Pair, Daemon, Address, socket.socket]:
    """A pair with one open echo stream."""
    options = ("--drain-timeout", drain_timeout)
    services = {"echo": scene.echo_service()}
    pair, doors = carry(scene, "unix", services, near=options, far=options)
    client = doors["echo"].connect(10 * PATIENCE)
    echo(client)
    return pair, getattr(pair, leaver), doors["echo"], client


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_open_streams_finish_while_new_ones_are_turned_away(
    scene: Scene, leaver: str, number: int
) -> None:
    drain = 20 * PATIENCE
    _, daemon, door, client = stage(scene, leaver, f"{drain:g}")
    daemon.expected_death = True
    begin = time.monotonic()
    daemon.send_signal(number)
    eventually("new clients are turned away", lambda: refused_or_reset(door), 10)
    for _ in range(20):
        echo(client, b"still here")
    client.shutdown(socket.SHUT_WR)
    assert receive_all(client) == b""
    client.close()
    daemon.check_exit()
    assert time.monotonic() - begin < drain, "it waited although every stream had finished"


def test_streams_that_never_finish_are_reset_when_the_time_is_up(
    scene: Scene, leaver: str
) -> None:
    _, daemon, _, client = stage(scene, leaver, "1")
    daemon.expected_death = True
    daemon.send_signal(signal.SIGTERM)
    expect_reset(client, 10)
    daemon.check_exit()


def test_a_second_signal_does_not_spoil_the_exit(scene: Scene, leaver: str) -> None:
    _, daemon, _, client = stage(scene, leaver, "1")
    daemon.expected_death = True
    for _ in range(3):
        daemon.send_signal(signal.SIGTERM)
    expect_reset(client, 10)
    daemon.check_exit()


def test_a_second_signal_cuts_the_draining_short(scene: Scene, leaver: str) -> None:
    drain = 60 * PATIENCE
    for _ in range(5):
        pair, daemon, _, client = stage(scene, leaver, f"{drain:g}")
        for thread in os.listdir(f"/proc/{daemon.pid}/task"):
            os.sched_setaffinity(int(thread), {min(os.sched_getaffinity(0))})
        daemon.expected_death = True
        # Both are there before the first is looked at.
        daemon.send_signal(signal.SIGSTOP)
        daemon.send_signal(signal.SIGTERM)
        daemon.send_signal(signal.SIGINT)
        begin = time.monotonic()
        daemon.send_signal(signal.SIGCONT)
        expect_reset(client, 20)
        daemon.check_exit()
        assert time.monotonic() - begin < drain / 2
        for other in pair.both():
            if other is not daemon:
                other.terminate()


def test_signals_at_any_moment_do_not_spoil_the_exit(scene: Scene) -> None:
    for _ in range(10):
        daemon = scene.daemon("-c", f"unix-listen:{scene.addresses.unix().spec}")
        daemon.expected_death = True
        while daemon.alive():
            daemon.send_signal(signal.SIGTERM)
        daemon.check_exit()


# Makes what it executes the leader of a session, with the terminal if one is given.
LEADER = (
    "import os, signal, sys\n"
    "signal.signal(signal.SIGHUP, getattr(signal, sys.argv[1]))\n"
    "os.setsid()\n"
    "if sys.argv[2]: os.open(sys.argv[2], os.O_RDWR)\n"
    "os.execv(sys.argv[3], sys.argv[3:])\n"
)


def leader(scene: Scene, terminal: str, disposition: str, door: Address) -> Daemon:
    wrapper = [sys.executable, "-c", LEADER, disposition, terminal]
    channel = f"unix-listen:{scene.addresses.unix().spec}"
    return scene.daemon("-c", channel, "-o", f"echo:{door.spec}", wrapper=wrapper)


def test_a_daemon_whose_terminal_goes_away_drains(scene: Scene) -> None:
    master, slave = os.openpty()
    daemon = leader(scene, os.ttyname(slave), "SIG_DFL", scene.addresses.tcp())
    os.close(slave)
    daemon.expected_death = True
    os.close(master)
    daemon.check_exit()
    assert any("the terminal hung up" in line for line in daemon.err.lines())


@pytest.mark.parametrize("disposition", ["SIG_DFL", "SIG_IGN"])
def test_sighup_does_not_end_a_service(scene: Scene, disposition: str) -> None:
    daemon = leader(scene, "", disposition, scene.addresses.tcp())
    for _ in range(3):
        daemon.send_signal(signal.SIGHUP)
    if disposition == "SIG_DFL":
        daemon.wait_for_log("SIGHUP is ignored")
    daemon.stats()
    daemon.terminate()


def test_nohup_is_respected(scene: Scene) -> None:
    master, slave = os.openpty()
    daemon = leader(scene, os.ttyname(slave), "SIG_IGN", scene.addresses.tcp())
    os.close(slave)
    os.close(master)
    daemon.stats()
    daemon.terminate()


def test_the_other_side_survives_and_takes_the_next_peer(scene: Scene) -> None:
    pair, daemon, door, client = stage(scene, "far", "1")
    mark = pair.near.mark()
    daemon.terminate()
    expect_reset(client, 10)
    pair.near.wait_down(since=mark)
    pair.start_far()
    echo_once(door)


def test_a_daemon_without_a_peer_leaves_at_once(scene: Scene) -> None:
    for method in ("unix-listen", "unix-connect"):
        daemon = scene.daemon("-c", f"{method}:{scene.addresses.unix().spec}")
        begin = time.monotonic()
        daemon.terminate()
        assert time.monotonic() - begin < 3 * PATIENCE


def test_sigpipe_does_not_matter(scene: Scene, leaver: str) -> None:
    _, daemon, door, client = stage(scene, leaver, "1")
    for _ in range(5):
        daemon.send_signal(signal.SIGPIPE)
    echo(client)
    echo_once(door)
    client.close()
