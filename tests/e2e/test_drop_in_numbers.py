"""An old end gives the number of a client to its next one at once: what is under way for the first
meets the second. Each scene holds the old end still, in a write to a client who does not read, until
everything lies in its channel in the order that is wanted."""

from __future__ import annotations

import select
import signal
import socket
import time
from collections import Counter
from contextlib import suppress

from drop_in import channel, start_old
from harness import PATIENCE, Scene, Stats, into, out
from stage import ListeningService, eventually, receive

KIB = 1 << 10
# Bytes: what a quarter of the channel's send buffer holds in packets, the batch that was written then, and one
# more that was written before the end of the download was read (uring/transport/packet_room.h).
MOST_FOREIGN = (2 * 48 * KIB // 4 // 1044 + 15 + 15) * KIB


class Numbers:
    """An old end with clients of the service `any`, whose far ends are played by hand."""

    def __init__(self, scene: Scene) -> None:
        self.service = ListeningService(scene, "unix")
        self.door = scene.addresses.unix()
        address = scene.addresses.unix()
        self.old = start_old(
            scene,
            *("-c", channel("listen", address), *out("any", self.door)),
            *("--backlog", "8", "--read-size", "1044"),
        )
        # A daemon that chose version 1 goes on greeting, which would put packets between those of a scene.
        specs = ["--protocol", "1", "-c", channel("connect", address)]
        self.new = scene.daemon(*specs, *into("any", self.service.address))
        self.new.wait_up(protocol=1)
        self.old.wait_up()
        self.not_clients = self.old.descriptors()
        self.heartbeat = self.stream()

    def stream(self) -> tuple[socket.socket, socket.socket]:
        client = self.door.connect(10 * PATIENCE)
        client.sendall(b"!")
        server = self.service.accept()
        assert receive(server, 1) == b"!"
        return client, server

    def alive(self) -> bool:
        """Whether the old end moves: what was sent before has passed it then."""
        client, server = self.heartbeat
        server.sendall(b".")
        while not select.select([client], [], [], 0.1)[0]:
            if self.halted():
                return False
        assert receive(client, 1) == b"."
        return True

    def halted(self) -> bool:
        """Whether the old end stands still in a write to one client."""
        waits_for = self.old.blocked_in("write")
        if waits_for is None or waits_for in self.not_clients:
            return False
        for _ in range(10):
            time.sleep(0.002)
            if self.old.blocked_in("write") != waits_for:
                return False
        return True

    def fill(self, server: socket.socket, packets: int = 1 << 20) -> int:
        """Sends packets one by one until so many were taken, or the old end waits for their reader."""
        for sent in range(packets):
            server.sendall(bytes(KIB))
            if not self.alive():
                return sent
        return packets

    def pass_on(self, server: socket.socket, data: bytes) -> None:
        """Sends, and waits until the daemon has written it to the channel."""
        server.sendall(data)
        self.wait_written()

    def wait_written(self, streams: int | None = None) -> None:
        """Waits until the daemon has nothing to write, no dial, and so many streams."""

        def good(stats: Stats) -> bool:
            few = streams is None or stats.total("streams") == streams
            return few and stats.total("send_bytes") == stats.total("connecting") == 0

        self.new.wait_stats("nothing to write", good)


def test_a_client_that_is_bound_to_the_number_before_is_served(scene: Scene) -> None:
    """One is killed by the CLOSE of the client before; the ACK for it goes to the one after."""
    line = Numbers(scene)
    probe = line.stream()
    room = line.fill(probe[1])
    probe[0].settimeout(10 * PATIENCE)
    receive(probe[0], (room + 1) * KIB)
    assert receive(line.heartbeat[0], 1) == b"."
    first, second, victim = line.stream(), line.stream(), line.stream()
    for stopper in (first, second):
        assert line.fill(stopper[1], room) == room
    # It has spoken last, so its CLOSE comes at once.
    victim[1].sendall(b"hello")
    assert receive(victim[0], 5) == b"hello"
    first[1].sendall(bytes(KIB))
    eventually("the first halt", line.halted)
    # Three turns, then the next halt, and behind it CLOSE.
    for _ in range(3):
        line.pass_on(line.heartbeat[1], b".")
    line.pass_on(second[1], bytes(KIB))
    streams = line.new.stats().total("streams")
    victim[1].close()
    line.wait_written(streams - 1)
    victim[0].close()
    mark = line.old.mark()
    # One is accepted before that number is free. The next one gets it.
    other = line.door.connect(10 * PATIENCE)
    killed = line.door.connect(10 * PATIENCE)
    receive(first[0], (room + 1) * KIB)
    servers = [line.service.accept(), line.service.accept()]
    line.old.wait_log(r"sent CONTROL INIT", since=mark)
    eventually("the second halt", line.halted)
    line.wait_written()
    line.new.send_signal(signal.SIGSTOP)
    try:
        asking = line.door.connect(10 * PATIENCE)
        asking.sendall(b"question")
        mark = line.old.mark()
        receive(second[0], (room + 1) * KIB)
        line.old.wait_log(r"^sent CLIENT .* bytes=8$", since=mark)
    finally:
        line.new.send_signal(signal.SIGCONT)
    server = line.service.accept()
    assert receive(server, 8) == b"question"
    server.sendall(b"answer")
    assert receive(asking, 6) == b"answer"
    assert killed.recv(1) == b""
    for sock in (other, *servers):
        sock.close()


def _pour_until_more_is_queued(line: Numbers, server: socket.socket) -> None:
    """Sends until the daemon holds bytes that the channel has no room for."""
    server.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            server.sendall(bytes(1 << 16))
    line.new.wait_stats("more queued", lambda stats: stats.total("send_bytes") > 0)


def _answer(line: Numbers, client: socket.socket) -> tuple[bytes, bool]:
    """What the client gets until its end or its answer, and whether that is the answer to its question."""
    got = b""
    servers: list[socket.socket] = []
    listener = line.service.listener
    while True:
        ready = select.select([client, listener, *servers], [], [], 10 * PATIENCE)[0]
        assert ready, f"{len(got)} bytes, then neither an answer nor the end"
        if listener in ready:
            servers.append(line.service.accept())
        for server in ready:
            if server in servers and server.recv(8) == b"question":
                server.sendall(b"answer")
        if client not in ready:
            continue
        try:
            piece = client.recv(1 << 20)
        except ConnectionError:
            piece = b""
        got += piece
        if not piece or got.endswith(b"answer"):
            for server in servers:
                server.close()
            return got, got.endswith(b"answer")


def test_foreign_bytes_are_few_and_nothing_comes_behind_them(scene: Scene) -> None:
    """A client breaks off a download of which the daemon has more. The next client of that number gets
    at most what lies in the channel, and no answer behind it that could be taken for the rest."""
    line = Numbers(scene)
    stopper = line.stream()
    room = line.fill(stopper[1])
    stopper[0].settimeout(10 * PATIENCE)
    receive(stopper[0], (room + 1) * KIB)
    assert receive(line.heartbeat[0], 1) == b"."
    found: Counter[tuple[str, bool]] = Counter()
    most = 0
    for _ in range(10):
        victim = line.stream()
        for _ in range(room + 1):
            stopper[1].sendall(bytes(KIB))
        eventually("the halt", line.halted)
        _pour_until_more_is_queued(line, victim[1])
        victim[0].close()
        # One is accepted before that number is free. The next one gets it.
        other = line.door.connect(10 * PATIENCE)
        asking = line.door.connect(10 * PATIENCE)
        asking.sendall(b"question")
        receive(stopper[0], (room + 1) * KIB)
        got, answered = _answer(line, asking)
        foreign = got.count(0)
        found["answered" if answered else "closed", foreign > 0] += 1
        most = max(most, foreign)
        for sock in (victim[1], other, asking):
            sock.close()
        line.wait_written(streams=2)
    print(dict(found), f"at most {most} bytes")
    assert not found["answered", True]
    assert found["closed", True] > 0, "no number was given out anew in time"
    assert most <= MOST_FOREIGN
    # Once all of that is read the number is as good as any.
    last = line.stream()
    last[1].sendall(b"answer")
    assert receive(last[0], 6) == b"answer"
