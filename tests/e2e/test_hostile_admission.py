"""Clients that wait for the protocol to be chosen, beside a peer that can choose the moment.

The peer of these tests connects to a daemon that listens for its channel, and mixes greetings and
packets of protocol 1 so that a client is held when it wants one to be.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

import drop_in  # noqa: F401  First: it knows where old_wire is.
import old_wire
from confined import as_root
from harness import PATIENCE, Daemon, Scene, into, out
from hostile_peer import OPEN, Hello, HostilePeer, xxh3
from old_wire import SIZE, Packet
from stage import receive

# How long a peer that greets may take, and how long a client is held in all.
GRACE = 0.25
HELD = 5.0
CLIENTS_NUMBER = 5
STRANGER = 41005
HELLO_MESSAGE = 0x32585056


def hello(index: int) -> bytes:
    """A greeting that keeps the daemon choosing: it answers none."""
    return Hello(0xABCDEF00 + index).encode()


class Chameleon(HostilePeer):
    """A peer whose daemon may be speaking either protocol."""

    def read_hello(self) -> Hello:
        """The next greeting; packets of protocol 1 between are skipped."""
        while True:
            data = self._take(SIZE)
            with contextlib.suppress(AssertionError):
                return Hello.decode(data)

    def next_packet(self) -> Packet:
        """The next packet of protocol 1; greetings between are skipped."""
        while True:
            data = self._take(SIZE)
            if struct.unpack_from("<I", data, 4)[0] != HELLO_MESSAGE:
                return old_wire.decode(data)

    def upgrade(self) -> None:
        """Greets in the middle of a session of protocol 1."""
        self.mine = Hello(0xFEDCBA98)
        self.send(self.mine.encode())
        while self.theirs.echo != self.mine.epoch:
            self.theirs = self.read_hello()
        self.mine = replace(self.mine, echo=self.theirs.epoch)
        self.send(self.mine.encode())
        self._receive_key = xxh3(struct.pack("<QQ", self.theirs.epoch, self.mine.epoch))


class Choosing:
    """A daemon that offers and asks for `echo`, and a peer that has greeted once."""

    def __init__(self, scene: Scene, *args: str, door_kind: str = "unix", doors: int = 1) -> None:
        self.channel = scene.addresses.unix()
        self.doors = [scene.addresses.of_kind(door_kind) for _ in range(doors)]
        forwards = [arg for door in self.doors for arg in out("echo", door)]
        self.daemon: Daemon = scene.daemon(
            *("-c", f"unix-listen:{self.channel.spec}"),
            *into("echo", scene.echo_service()),
            *forwards,
            *args,
        )
        self.peer = Chameleon(self.channel)
        scene.cleanup(self.peer.close)
        self.peer.send(hello(0))
        self.peer.read_hello()

    def client(self, door: int = 0) -> socket.socket:
        return self.doors[door].connect(20 * PATIENCE)

    def chosen(self) -> bool:
        return any("channel 0: up" in line for line in self.daemon.err.lines())

    def init(self) -> Packet:
        """The next INIT of a client of the daemon."""
        while True:
            packet = self.peer.next_packet()
            if packet.type == old_wire.CONTROL and packet.message == old_wire.INIT:
                return packet


# A stream that is over before the session has begun for the daemon's driver: its number is given
# out again, to nobody.
STALE = (
    old_wire.init(CLIENTS_NUMBER, "echo"),
    old_wire.init(CLIENTS_NUMBER, ""),
)


def expect_served(play: Choosing, client: socket.socket) -> None:
    """The client that was held gets its stream, and an answer."""
    asked = play.init()
    assert asked.service == "echo" and asked.client is not None
    play.peer.send(old_wire.ack(asked.client, 77))
    client.sendall(b"held")
    while (packet := play.peer.next_packet()).data is None:
        pass
    assert packet.data == b"held"
    answer = old_wire.data(old_wire.SERVER, asked.client, 77, b"served")
    play.peer.send(answer)
    assert receive(client, 6) == b"served"


@pytest.mark.parametrize("road", ["by-the-clock", "in-one-read"])
def test_a_stale_stream_takes_no_place(scene: Scene, road: str) -> None:
    """By the clock: the time to choose ends, and what was kept is read. In one read: it has ended
    when the packets come. Either way the session begins, and the stream opens and ends, in one go,
    while a client is held."""
    play = Choosing(scene)
    with play.client() as client:
        if road == "by-the-clock":
            play.peer.send(hello(1) + b"".join(STALE))
        else:
            time.sleep(GRACE + 0.1)
            play.peer.send(b"".join(STALE))
        expect_served(play, client)
        play.daemon.wait_up(protocol=1)
    play.daemon.wait_at_rest()


def test_a_client_is_not_held_for_ever(scene: Scene) -> None:
    """The peer makes its mind up and changes it, again and again."""
    play = Choosing(scene)
    begin = time.monotonic()
    with play.client() as client:
        client.settimeout(0.05)
        rounds = 0
        while time.monotonic() < begin + 4 * HELD * PATIENCE:
            mark = play.daemon.mark()
            play.peer.send(hello(rounds + 1) + old_wire.init(CLIENTS_NUMBER, "nonsense"))
            play.daemon.wait_for_log(r"channel 0: up, protocol 1|and \d+ changes before", since=mark)
            rounds += 1
            play.peer.drop_input()
            try:
                assert client.recv(1) == b""
                break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        else:
            pytest.fail(f"the client is still held after {rounds} rounds")
    assert rounds > 3, "it was refused for another reason"
    assert time.monotonic() - begin > HELD - 1
    play.daemon.wait_for_log("client refused: the other end keeps changing what it speaks")


@contextlib.contextmanager
def acting_as(uid: int) -> Iterator[None]:
    """Whoever is connected to sees that user."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


@as_root
def test_who_is_not_on_the_list_takes_no_place_of_a_held_client(scene: Scene) -> None:
    """Strangers are turned away while the protocol is still being chosen, and one who may come
    finds room."""
    scene.directory.chmod(0o755)
    play = Choosing(scene, "--allow-uid", "0", "--socket-mode", "0666", "--max-streams", "1")
    for _ in range(3):
        with acting_as(STRANGER), contextlib.suppress(ConnectionError), play.client() as stranger:
            assert stranger.recv(1) == b""
    assert not play.chosen(), "they were held"
    play.daemon.wait_for_log(f"client refused: uid {STRANGER} gid 0 pid")
    with play.client() as client:
        play.peer.send(b"".join(STALE))
        expect_served(play, client)


def test_a_client_comes_back_to_its_own_forward(scene: Scene) -> None:
    """Two -o of one service: a client whose INIT nobody answered is asked for again in version 2,
    as a client of the listener that accepted it."""
    play = Choosing(scene, "--log-level", "debug", doors=2)
    mark = play.daemon.mark()
    with play.client(door=1):
        play.peer.send(old_wire.init(CLIENTS_NUMBER, "nonsense"))
        assert play.init().service == "echo"
        play.peer.upgrade()
        play.daemon.wait_for_log("channel 0: up, protocol 2", since=mark)
        frame = next(one for one in play.peer.frames() if one.kind == OPEN)
        assert frame.payload[4:8] == b"echo"
        asked = [line for line in play.daemon.err.lines() if "service echo: client " in line and " came to " in line]
        assert len(asked) == 2, asked
        assert all(play.doors[1].place in line for line in asked), asked
