"""An old end gives the number of a client to its next one at once: what is under way for the first
meets the second. Each scene holds the old end still, in a write to a client who does not read, until
everything lies in its channel in the order that is wanted."""

from __future__ import annotations

import select
import signal
import socket
import threading
import time
from collections import Counter
from contextlib import suppress

from drop_in import NEW, OLD
from harness import PATIENCE, Scene, Stats, into, out
from old_peer import channel
from old_peer import start as start_old
from parity import Stage
from stage import ListeningService, echo_once, eventually, receive, wait_for_echo

KIB = 1 << 10


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
        specs = ["-c", channel("connect", address), *into("any", self.service.address)]
        self.new = scene.daemon(*specs)
        self.new.wait_up(protocol=1)
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
        for _ in range(10):
            if self.old.blocked_in("write") is None:
                return False
            time.sleep(0.002)
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


def _ask_after_an_abort(stage: Stage) -> tuple[str, int]:
    """What a client gets whose number a download had that was broken off just before: how it ends,
    and how many bytes of the download came first."""
    client, server = stage.download()

    def pour() -> None:
        try:
            server.settimeout(None)
            while True:
                server.sendall(bytes(1 << 16))
        except OSError:
            pass

    source = threading.Thread(target=pour, daemon=True)
    source.start()
    receive(client, 200 * KIB)
    client.close()
    got = b""
    with stage.doors["echo"].connect(10 * PATIENCE) as following:
        try:
            following.sendall(b"ping")
            while not got.endswith(b"ping"):
                piece = following.recv(1 << 20)
                if not piece:
                    break
                got += piece
        except ConnectionError:
            pass
    with suppress(OSError):
        server.shutdown(socket.SHUT_RDWR)
    source.join(10 * PATIENCE)
    server.close()
    return "answered" if got.endswith(b"ping") else "closed", got.count(0)


def test_foreign_bytes_are_few_and_nothing_comes_behind_them(scene: Scene) -> None:
    """A client that gets what was under way to the one before it is closed, and gets no answer that
    could be taken for the rest of that."""
    stage = Stage(scene, f"{OLD}-{NEW}")
    found: Counter[tuple[str, bool]] = Counter()
    most = 0
    for _ in range(60):
        outcome, foreign = _ask_after_an_abort(stage)
        found[outcome, foreign > 0] += 1
        most = max(most, foreign)
    print(dict(found), f"at most {most} bytes")
    assert not found["answered", True]
    assert most <= 2 * 15 * KIB
    # Once all of that is read the number is as good as any.
    wait_for_echo(stage.doors["echo"])
    for _ in range(5):
        echo_once(stage.doors["echo"])
