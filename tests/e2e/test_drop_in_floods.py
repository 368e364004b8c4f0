"""Full load beside an old peer: no deadlock, and who does not read costs the others little."""

from __future__ import annotations

import hashlib
import random
import re
import socket
import threading
import time
from collections.abc import Callable

import pytest

from drop_in import NEW, OLD, SEED, Line, digest_of_received, expect_end, in_background
from flood import Flood
from harness import PATIENCE, SANITIZED, Daemon, Scene, scaled
from stage import ListeningService, echo, echo_once, eventually, receive, receive_all

MIB = 1024 * 1024
# Seconds. What stops here stops for good, or until an answer is given up after 15 s; how short stops are is
# the matter of test_two_way_floods.py, which has the machine for itself.
LONGEST_STOP = 5.0


@pytest.mark.parametrize("clients", [OLD, NEW])
@pytest.mark.parametrize("pairing", ["unix-old-new", "unix-new-old", "tcp-old-new"])
def test_sixteen_streams_each_way_never_stop(scene: Scene, pairing: str, clients: str) -> None:
    """The original at both ends stands still for good with four (test_old_peer.py)."""
    service = ListeningService(scene)
    line = Line(scene, pairing, {"flood": service.address})
    door = line.running(clients).doors["flood"]
    amount = scaled(8 * MIB, MIB)
    flood = Flood(scene, door, service, uploads=16, downloads=16, amount=amount)
    rate = flood.finish(120)
    gap = flood.longest_gap()
    print(f"{rate / 1e6:.0f} MB/s, longest gap {gap * 1000:.0f} ms")
    assert gap < LONGEST_STOP * PATIENCE
    flood.close()
    line.daemon.wait_at_rest()


def test_floods_from_both_ends_never_stop(scene: Scene) -> None:
    """Sixteen and sixteen of each end's clients at once."""
    services = {program: ListeningService(scene) for program in (OLD, NEW)}
    line = Line(scene, "unix-old-new", {name: item.address for name, item in services.items()})
    amount = scaled(6 * MIB, MIB)
    floods = [
        Flood(scene, line.running(program).doors[program], service, 16, 16, amount)
        for program, service in services.items()
    ]
    for flood in floods:
        flood.finish(120)
    gap = max(flood.longest_gap() for flood in floods)
    print(f"longest gap {gap * 1000:.0f} ms")
    assert gap < LONGEST_STOP * PATIENCE
    for flood in floods:
        flood.close()
    line.daemon.wait_at_rest()


# A receiver at our end that does not read what the old peer sends without asking.

HOLD = 2 * MIB
STALL = 1.0
LIMITS = ("--hold", str(HOLD), "--stall-timeout", str(STALL))


class Pinger:
    """An echo stream that asks all the time and remembers the longest wait for an answer."""

    def __init__(self, line: Line, end: str) -> None:
        self._sock = line.running(end).doors["echo"].connect(30 * PATIENCE)
        self._stopped = False
        self.longest = 0.0
        self.trouble: str | None = None
        echo(self._sock)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stopped:
                begin = time.monotonic()
                echo(self._sock, b"still there?")
                self.longest = max(self.longest, time.monotonic() - begin)
                time.sleep(0.01)
        except (OSError, EOFError, AssertionError) as trouble:
            self.trouble = repr(trouble)

    def finish(self) -> float:
        self._stopped = True
        self._thread.join(30 * PATIENCE)
        assert self.trouble is None, self.trouble
        self._sock.close()
        return self.longest


def pour_into(sock: socket.socket) -> tuple[threading.Thread, Callable[[], float | None]]:
    """Writes until that fails; says when it did."""
    ended: list[float] = []

    def run() -> None:
        try:
            while True:
                sock.sendall(bytes(1 << 16))
        except OSError:
            ended.append(time.monotonic())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, lambda: ended[0] if ended else None


def slow_stage(scene: Scene, *limits: str) -> tuple[Line, ListeningService]:
    """Services `any` and `echo` over unix sockets, which hold little themselves."""
    service = ListeningService(scene, "unix")
    services = {"any": service.address, "echo": scene.echo_service()}
    return Line(scene, "unix-old-new", services, new=limits, door_kind="unix"), service


def open_stream(
    line: Line, clients: str, service: ListeningService
) -> tuple[socket.socket, socket.socket]:
    """A stream of the service `any`: (the socket at our end, the one at the old peer's end)."""
    client = line.running(clients).doors["any"].connect(30 * PATIENCE)
    client.sendall(b"!")
    server = service.accept()
    assert receive(server, 1) == b"!"
    for sock in (client, server):
        sock.settimeout(30 * PATIENCE)
    return (client, server) if clients == NEW else (server, client)


def culprits(daemon: Daemon, since: int) -> list[str]:
    """The lines of the log that say which stream was given up."""
    return [text for text in daemon.err.lines(since) if re.search(r"service any\b.*held", text)]


@pytest.mark.parametrize("clients", [OLD, NEW])
@pytest.mark.parametrize("stuck", [1, 4])
def test_receivers_that_never_read_are_closed_and_the_others_go_on(
    scene: Scene, clients: str, stuck: int
) -> None:
    line, service = slow_stage(scene, *LIMITS)
    echo_once(line.running(NEW).doors["echo"])
    descriptors = line.descriptors()
    resident = line.daemon.rss()
    pingers = [Pinger(line, end) for end in (OLD, NEW)]
    mark = line.daemon.mark()
    pairs = [open_stream(line, clients, service) for _ in range(stuck)]
    begin = time.monotonic()
    pours = [pour_into(sender) for _, sender in pairs]
    highest = 0
    for thread, ended in pours:
        while ended() is None:
            assert time.monotonic() < begin + (stuck * STALL + 10) * PATIENCE, "nobody was closed"
            highest = max(highest, line.daemon.rss())
            time.sleep(0.02)
        thread.join()
    took = time.monotonic() - begin
    waits = [pinger.finish() for pinger in pingers]
    print(f"closed after {took:.2f} s; pings waited {waits}; {(highest - resident) / MIB:.1f} MiB")
    eventually("a word about each", lambda: len(culprits(line.daemon, mark)) >= 1)
    assert len(culprits(line.daemon, mark)) <= stuck
    # One stall after another, at the worst.
    assert max(waits) < (stuck * STALL + 1) * PATIENCE
    assert SANITIZED or highest - resident < stuck * HOLD + 16 * MIB
    for receiver, sender in pairs:
        receive_what_is_there(receiver)
        receiver.close()
        sender.close()
    for end in line.ends:
        echo_once(end.doors["echo"])
    line.daemon.wait_at_rest(descriptors)


def receive_what_is_there(sock: socket.socket) -> None:
    """A stream that was given up ends for its receiver, too."""
    sock.settimeout(5 * PATIENCE)
    try:
        while sock.recv(1 << 20):
            pass
    except ConnectionError:
        pass


@pytest.mark.parametrize("clients", [OLD, NEW])
def test_a_receiver_that_pauses_within_its_hold_costs_nobody_anything(
    scene: Scene, clients: str
) -> None:
    """Less than --hold in one burst: nothing is held back and nothing is lost."""
    line, service = slow_stage(scene, *LIMITS)
    receiver, sender = open_stream(line, clients, service)
    pinger = Pinger(line, NEW)
    mark = line.daemon.mark()
    content = random.Random(SEED).randbytes(HOLD - 64 * 1024)
    sending = in_background(lambda: sender.sendall(content))
    sending.join(30 * PATIENCE)
    assert not sending.is_alive(), "the sender was held back"
    eventually("all of it held here", lambda: line.daemon.stats().total("held_bytes") > MIB)
    time.sleep(STALL * 2)  # Far beyond the stall time, without a stall.
    assert pinger.finish() < 0.5 * PATIENCE
    assert receive(receiver, len(content)) == content
    assert not culprits(line.daemon, mark)
    echo_through(sender, receiver)
    for sock in (receiver, sender):
        sock.close()
    line.daemon.wait_at_rest()


def echo_through(one: socket.socket, other: socket.socket) -> None:
    for sender, receiver in ((one, other), (other, one)):
        sender.sendall(b"still open")
        assert receive(receiver, 10) == b"still open"


@pytest.mark.parametrize("clients", [OLD, NEW])
@pytest.mark.parametrize("company", ["alone", "with-others"])
def test_a_receiver_that_is_slow_but_moves_is_not_closed(
    scene: Scene, clients: str, company: str
) -> None:
    """Held back for longer than the stall time in all, but never for long at once. Where others
    wait that must be short; a stream that is alone may take most of the stall time each time."""
    stall, pause, size = (1.0, 0.6, 2 * MIB) if company == "alone" else (2.0, 0.06, 16 * MIB)
    line, service = slow_stage(scene, "--hold", "256K", "--stall-timeout", str(stall))
    receiver, sender = open_stream(line, clients, service)
    mark = line.daemon.mark()
    content = random.Random(SEED).randbytes(size)
    # Before the flood: it would have to wait for a receiver that does not read yet.
    pinger = Pinger(line, NEW) if company == "with-others" else None
    sending = in_background(lambda: (sender.sendall(content), sender.close()))
    begin = time.monotonic()
    piece = 256 * 1024 if pinger else 512 * 1024
    for at in range(0, size, piece):
        assert receive(receiver, piece) == content[at : at + piece]
        time.sleep(pause)
    took = time.monotonic() - begin
    assert receive_all(receiver) == b""
    longest = pinger.finish() if pinger else 0
    print(f"took {took:.1f} s; a ping waited {longest:.2f} s at most")
    assert took > 1.5 * stall, "it was not slow enough to prove anything"
    assert longest < stall * PATIENCE
    assert not culprits(line.daemon, mark)
    sending.join(10 * PATIENCE)
    receiver.close()
    line.daemon.wait_at_rest()


@pytest.mark.parametrize("clients", [OLD, NEW])
def test_a_sender_at_our_end_waits_for_a_stuck_receiver_of_the_old_peer(
    scene: Scene, clients: str
) -> None:
    """The old peer stands still with its receiver, that is its nature. We stay within bounds, and
    all goes on when it reads again."""
    line, service = slow_stage(scene)
    resident = line.daemon.rss()
    client = line.running(clients).doors["any"].connect(30 * PATIENCE)
    client.sendall(b"!")
    server = service.accept()
    assert receive(server, 1) == b"!"
    sender, receiver = (client, server) if clients == NEW else (server, client)
    for sock in (sender, receiver):
        sock.settimeout(60 * PATIENCE)
    content = random.Random(SEED).randbytes(64 * MIB)
    sending = in_background(lambda: sender.sendall(content))
    line.peer.wait_blocked_in("write")
    assert sending.is_alive()
    assert SANITIZED or line.daemon.rss() - resident < 32 * MIB
    with line.running(NEW).doors["echo"].connect(60 * PATIENCE) as waiting:
        waiting.sendall(b"patience")
        got = digest_of_received(receiver, len(content))
        assert got == hashlib.sha256(content).hexdigest()
        assert receive(waiting, 8) == b"patience"
    sending.join(10 * PATIENCE)
    sender.close()
    assert expect_end(receiver) == b""
    receiver.close()
    line.daemon.wait_at_rest()
