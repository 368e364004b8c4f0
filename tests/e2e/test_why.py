"""Six staged stalls: `why` names the side and the reason, and what it measures is what was staged."""

from __future__ import annotations

import resource
import select
import signal
import socket
import subprocess
import threading
import time
from contextlib import suppress

from harness import BIN, PATIENCE, Scene, into, out
from stage import Controlled, ListeningService, echo, eventually, receive, wait_for_echo

WAIT = 10 * PATIENCE
STAGED = 2.0  # Seconds that each stall lasts at least.
# Of what was staged. What the test itself takes to begin and to see a stall is known besides.
TOLERANCE = 0.1
FEW = 40  # Descriptors.
RETRIES = 0.1  # Seconds between two tries of the daemon to connect or to accept.


class Stall:
    """One stall from its cause until it is over."""

    def __init__(self, end: Controlled, service: str, reason: str, text: str) -> None:
        self.end = end
        self.service = service
        self.reason = reason
        self.text = text
        self.caused = time.monotonic()

    def wait_until_seen(self) -> None:
        eventually(f"{self.service} waits: {self.reason}",
                   lambda: self.end.stall_of(self.service, self.reason))
        self.seen = time.monotonic()

    def check_while_it_lasts(self, slack: float = 0.0) -> None:
        asked = time.monotonic()
        row = self.end.stall_of(self.service, self.reason)
        answered = time.monotonic()
        assert row is not None, self.reason
        assert row["reason"] == self.text
        check(row["waiting"], asked - self.seen, answered - self.caused + slack)
        check(row["in_all"], row["waiting"], row["waiting"])
        self.stream = row["stream"]

    def check_total(self, total: float, released: float, over: float) -> None:
        """Of the stream or of the metrics, once it is over."""
        check(total, released - self.seen, over - self.caused + RETRIES)


def check(measured: float, least: float, most: float) -> None:
    """Within a tenth of what was staged, which began and ended within known moments."""
    assert least * (1 - TOLERANCE) <= measured <= most * (1 + TOLERANCE), (least, measured, most)


def fill(*socks: socket.socket) -> list[int]:
    """Sends until none takes more for a while; returns how many bytes each took."""
    sent = dict.fromkeys(socks, 0)
    for sock in socks:
        sock.setblocking(False)
    while ready := select.select([], socks, [], 0.3 * PATIENCE)[1]:
        for sock in ready:
            with suppress(BlockingIOError):
                sent[sock] += sock.send(bytes(1 << 16))
    for sock in socks:
        sock.settimeout(WAIT)
    return list(sent.values())


def waited(end: Controlled, stall: Stall) -> float:
    (row,) = [row for row in end.ask("streams") if row["stream"] == stall.stream]
    return row[f"waited_{stall.reason}"]


def test_readers_and_a_service_that_does_not_accept(scene: Scene) -> None:
    services = {name: ListeningService(scene, "unix") for name in ("far", "near")}
    slow = ListeningService(scene, "unix", backlog=0)
    doors = {name: scene.addresses.unix() for name in ("far", "near", "slow")}
    channel = scene.addresses.unix()
    far = Controlled(scene, "far", "-c", f"unix-listen:{channel.spec}",
                     *into("far", services["far"].address), *into("near", services["near"].address),
                     *into("slow", slow.address), "--connect-timeout", "300")  # Longer than the stage.
    near = Controlled(scene, "near", "-c", f"unix-connect:{channel.spec}",
                      *(arg for name, door in doors.items() for arg in out(name, door)))
    near.daemon.wait_up()
    ends = {}
    for name in services:
        client = doors[name].connect(WAIT)
        client.sendall(b"!")
        ends[name] = (client, services[name].accept())
        receive(ends[name][1], 1)
    assert near.ask("why") == far.ask("why") == []

    stalls = []
    filler = slow.address.connect(WAIT)  # Fills the backlog.
    stalls.append(Stall(far, "slow", "connecting", "the service has not accepted the connection yet"))
    late = doors["slow"].connect(WAIT)
    stalls[-1].wait_until_seen()
    stalls.append(Stall(near, "far", "credit", "the application at the other end does not read"))
    (sent_far,) = fill(ends["far"][0])
    stalls[-1].wait_until_seen()
    stalls.append(Stall(near, "near", "application", "the application at this end does not read"))
    (sent_near,) = fill(ends["near"][1])
    stalls[-1].wait_until_seen()
    time.sleep(STAGED)  # A measured time, not a wait for anything.
    for stall in stalls:
        stall.check_while_it_lasts()
    # Each end sees its own side of the two that do not read.
    assert far.stall_of("far", "application") and far.stall_of("near", "credit")

    for stall, release in zip(
        stalls,
        (slow.accept, lambda: receive(ends["far"][1], sent_far),
         lambda: receive(ends["near"][0], sent_near)),
    ):
        released = time.monotonic()
        kept = release()  # A socket that nobody names is closed.
        eventually(f"{stall.service} goes on",
                   lambda stall=stall: not stall.end.stall_of(stall.service, stall.reason))
        stall.check_total(waited(stall.end, stall), released, time.monotonic())
        if stall.reason == "connecting":
            kept.close()
            with slow.accept() as service, late:
                service.sendall(b"?")
                assert receive(late, 1) == b"?"
    filler.close()
    for client, service in ends.values():
        client.close()
        service.close()


class Stopped:
    """A pair whose far end is stopped once `streams` clients have each a stream to a service played by hand."""

    def __init__(self, scene: Scene, name: str, streams: int, *limits: str) -> None:
        by_hand = ListeningService(scene, "unix")
        door, channel, service = (scene.addresses.unix() for _ in range(3))
        self.late_door = scene.addresses.unix()
        scene.serve("echo", service)
        self.far = scene.daemon("-c", f"unix-listen:{channel.spec}", *limits,
                                *into("bulk", by_hand.address), *into("small", service),
                                name=f"far {name}")
        self.near = Controlled(scene, f"near {name}", "-c", f"unix-connect:{channel.spec}", *limits,
                               *out("bulk", door), *out("small", self.late_door))
        self.near.daemon.wait_up()
        wait_for_echo(self.late_door)
        self.clients, self.services = [], []
        for _ in range(streams):
            self.clients.append(door.connect(WAIT))
            self.clients[-1].sendall(b"!")
            self.services.append(by_hand.accept())
            receive(self.services[-1], 1)
        self.far.send_signal(signal.SIGSTOP)

    def release(self, sent: list[int]) -> None:
        """Lets the far end go on, and takes all that was sent."""
        self.far.send_signal(signal.SIGCONT)
        drains = [threading.Thread(target=receive, args=pair) for pair in zip(self.services, sent)]
        for drain in drains:
            drain.start()
        for drain in drains:
            drain.join()

    def close(self) -> None:
        for sock in (*self.clients, *self.services):
            sock.close()


def test_a_full_channel_and_no_memory(scene: Scene) -> None:
    """The other end is stopped: a stream fills the channel, and a client finds no buffer left."""
    filled = Stopped(scene, "full", 1, "--max-streams", "16")
    emptied = Stopped(scene, "short", 60, "--memory", "8M", "--max-streams", "250")
    sent_before = fill(*emptied.clients)
    short = Stall(emptied.near, "small", "memory", "the channel's memory is in use: see --memory")
    # There are 128 buffers for messages.
    late = [emptied.late_door.connect(WAIT) for _ in range(160)]
    for client in late:
        client.sendall(b"hello")
    short.wait_until_seen()
    full = Stall(filled.near, "bulk", "channel",
                 "the channel takes no bytes: the other end does not read it")
    sent = fill(*filled.clients)
    full.wait_until_seen()
    time.sleep(STAGED)  # A measured time, not a wait for anything.
    short.check_while_it_lasts()
    full.check_while_it_lasts()
    for stage, stall, bytes_sent in ((filled, full, sent), (emptied, short, sent_before)):
        released = time.monotonic()
        stage.release(bytes_sent)
        if stage is emptied:
            assert all(receive(client, 5) == b"hello" for client in late)
        eventually("nothing waits", lambda stage=stage: not stage.near.ask("why"))
        stall.check_total(waited(stall.end, stall), released, time.monotonic())
    for client in late:
        client.close()
    for stage in (filled, emptied):
        stage.close()


def test_no_descriptor_is_free(scene: Scene) -> None:
    service = scene.addresses.unix()
    scene.serve("echo", service)
    door, channel = scene.addresses.unix(), scene.addresses.unix()
    scene.daemon("-c", f"unix-listen:{channel.spec}", *into("echo", service), name="far")
    near = Controlled(scene, "near", "-c", f"unix-connect:{channel.spec}", *out("echo", door),
                      limits={resource.RLIMIT_NOFILE: FEW})
    near.daemon.wait_up()
    held = []
    while near.daemon.fds() < FEW:
        held.append(door.connect(WAIT))
        echo(held[-1])
    stall = Stall(near, "echo", "descriptors",
                  "no descriptor is free to accept clients: see LimitNOFILE=")
    with door.connect(WAIT) as client:
        client.sendall(b"hello")
        # An operator is answered nevertheless.
        stall.wait_until_seen()
        time.sleep(STAGED)  # A measured time, not a wait for anything.
        stall.check_while_it_lasts()
        assert stall.stream is None
        released = time.monotonic()
        held.pop().close()
        assert receive(client, 5) == b"hello"
        done = subprocess.run([BIN / "virtproxyctl", "metrics", "--control", near.path],
                              capture_output=True, text=True, timeout=WAIT, check=True)
        name = 'virtproxy_stream_blocked_seconds_total{channel="0",reason="descriptors"} '
        (total,) = [line for line in done.stdout.splitlines() if line.startswith(name)]
        stall.check_total(float(total.removeprefix(name)), released, time.monotonic())
    for sock in held:
        sock.close()
