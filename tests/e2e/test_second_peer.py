"""Who gets a channel when more than one peer connects, and what a peer that sends nothing gets.

The table in tests/README.md lists the states and outcomes that are tested here.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import struct
import time

import pytest

import drop_in  # noqa: F401  First: it knows where old_wire is.
import old_wire
from addresses import Address
from harness import PATIENCE, SENT_NOTHING, Daemon, Scene, into, out
from hostile_peer import HELLO_SIZE, HostilePeer
from old_wire import ACK, CONTROL, INIT, SIZE, Packet
from stage import close_hard, echo, echo_once, eventually, expect_client_reset, receive

GRACE = 0.25
# How long a client is held, and how long an end that is asked may take to send its first byte.
HELD = 5.0
# How long a peer that has to greet may take.
GREETING_TIME = 10.0
MOST_WAITING = 16
MOST_PROBES = 64
HELLO_MESSAGE = 0x32585056
KINDS = ["unix", "tcp"]


def name_of(sock: socket.socket) -> str:
    """As the log of the other side names this end of a connection."""
    if sock.family == socket.AF_UNIX:
        return f"uid {os.getuid()} gid {os.getgid()} pid {os.getpid()}"
    host, port = sock.getsockname()
    return f"{host}:{port}"


def name_of_daemon(daemon: Daemon, kind: str) -> str:
    if kind == "unix":
        return f"uid {os.getuid()} gid {os.getgid()} pid {daemon.pid}"
    return r"127\.0\.0\.1:\d+"


class Listening:
    """A daemon that listens for its channel, offers `echo` and has a door to the other end's."""

    def __init__(self, scene: Scene, kind: str, *args: str, few: int = 0) -> None:
        self.scene = scene
        self.kind = kind
        self.channel = scene.addresses.of_kind(kind)
        self.door = scene.addresses.tcp()
        self.echo = scene.echo_service()
        self.daemon: Daemon = scene.daemon(
            *("-c", f"{kind}-listen:{self.channel.spec}"),
            *into("echo", self.echo),
            *out("echo", self.door),
            *args,
            name="listening",
            limits={resource.RLIMIT_NOFILE: few} if few else None,
        )

    def connect(self) -> socket.socket:
        """Another peer, which says nothing."""
        sock = self.channel.connect(20 * PATIENCE)
        self.scene.cleanup(sock.close)
        return sock

    def silent_peer(self) -> socket.socket:
        """The peer of the channel, which says nothing and is known for it."""
        mark = self.daemon.mark()
        sock = self.connect()
        self.daemon.wait_for_log(f"warn +channel 0: {SENT_NOTHING}", since=mark)
        assert not [line for line in self.daemon.err.lines(mark) if "channel 0: up" in line]
        return sock

    def far(self, name: str) -> tuple[Daemon, Address]:
        """A daemon that dials the channel, and its door to our service."""
        door = self.scene.addresses.tcp()
        method = f"{self.kind}-connect:{self.channel.spec}"
        services = [*into("echo", self.echo), *out("echo", door)]
        return self.scene.daemon("-c", method, *services, name=name), door


def next_packet(sock: socket.socket) -> Packet:
    """The next packet of protocol 1; greetings between are skipped."""
    while True:
        packet = receive(sock, SIZE)
        if struct.unpack_from("<I", packet, 4)[0] != HELLO_MESSAGE:
            return old_wire.decode(packet)


def expect_gone(sock: socket.socket, within: float = 10) -> None:
    """The daemon closes this connection."""
    sock.settimeout(within * PATIENCE)
    with contextlib.suppress(ConnectionError):
        while sock.recv(1 << 16):
            pass


def expect_there(sock: socket.socket) -> None:
    """The connection has not been closed."""
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            assert sock.recv(1 << 16), "the daemon has closed it"
    sock.settimeout(20 * PATIENCE)


# --- a silent peer -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_peer_that_greets_replaces_a_silent_one(scene: Scene, kind: str) -> None:
    stage = Listening(scene, kind)
    silent = stage.silent_peer()
    far, door = stage.far("far")
    far.wait_up()
    stage.daemon.wait_up()
    echo_once(door)
    echo_once(stage.door)
    stage.daemon.wait_for_log(
        f"warn +channel 0: the peer, {name_of(silent)}, has sent nothing; "
        f"{name_of_daemon(far, kind)} has, and takes its place"
    )
    expect_gone(silent)


@pytest.mark.parametrize("kind", KINDS)
def test_a_peer_that_sends_an_old_packet_replaces_a_silent_one(scene: Scene, kind: str) -> None:
    stage = Listening(scene, kind)
    silent = stage.silent_peer()
    old = stage.connect()
    old.sendall(old_wire.init(5, "echo"))
    answer = next_packet(old)
    assert (answer.type, answer.message, answer.client) == (CONTROL, ACK, 5)
    stage.daemon.wait_for_log("up, protocol 1: the other end sent an old packet")
    expect_gone(silent)


def test_a_silent_peer_stays_while_nobody_speaks(scene: Scene) -> None:
    """An end of protocol 1 without clients is silent: others that are silent too have to wait."""
    stage = Listening(scene, "unix")
    first = stage.silent_peer()
    second = stage.connect()
    stage.daemon.wait_for_log("a second peer waits")
    receive(first, HELLO_SIZE)
    with stage.door.connect(20 * PATIENCE) as client:
        asked = next_packet(first)
        assert (asked.message, asked.service) == (INIT, "echo") and asked.client
        first.sendall(old_wire.ack(asked.client, 9))
        client.sendall(b"question")
        assert next_packet(first).data == b"question"
    stage.daemon.wait_for_log("channel 0: up, protocol 1: the other end has not greeted")
    # It has sent something now, and nobody takes its place.
    second.sendall(old_wire.init(5, "echo"))
    mark = stage.daemon.mark()
    close_hard(first)
    stage.daemon.wait_for_log("up, protocol 1: the other end sent an old packet", since=mark)


def test_a_silent_peer_is_replaced_when_clients_have_taken_all_descriptors(scene: Scene) -> None:
    few = 32
    stage = Listening(scene, "unix", few=few)
    silent = stage.silent_peer()
    daemon = stage.daemon
    for _ in range(few):
        scene.cleanup(stage.door.connect(20 * PATIENCE).close)
    daemon.wait_for_log("cannot accept: Too many open files")
    with HostilePeer(stage.channel, 20) as peer:
        peer.send(peer.mine.encode())
        peer.greet()
        daemon.wait_up()
        expect_gone(silent)


# --- a second peer -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_peer_is_named_and_waits(scene: Scene, kind: str) -> None:
    stage = Listening(scene, kind)
    first, first_door = stage.far("first")
    first.wait_up()
    stage.daemon.wait_up()
    second, second_door = stage.far("second")
    stage.daemon.wait_for_log(
        f"warn +channel 0: a second peer waits: {name_of_daemon(second, kind)} has come while "
        f"{name_of_daemon(first, kind)} is connected"
    )
    echo_once(first_door)
    # What the second one sees of it.
    second.wait_for_log(f"warn +channel 0: {SENT_NOTHING}")
    expect_client_reset(second_door, HELD + 2)
    second.wait_for_log("channel 0: connected, but the other end does not answer")
    assert not [line for line in second.err.lines() if "channel 0: up" in line]
    echo_once(first_door)
    first.terminate()
    second.wait_up()
    echo_once(second_door)


def test_one_that_has_sent_something_is_the_next(scene: Scene) -> None:
    stage = Listening(scene, "unix")
    with HostilePeer(stage.channel, 20) as first:
        first.greet()
        stage.daemon.wait_up()
        silent = [stage.connect() for _ in range(3)]
        far, door = stage.far("far")
        far.wait_for_log(SENT_NOTHING)
        for sock in silent:
            expect_there(sock)
    far.wait_up()
    echo_once(door)
    for sock in silent:
        expect_there(sock)


def test_one_that_waits_and_leaves_is_forgotten(scene: Scene) -> None:
    stage = Listening(scene, "tcp")
    with HostilePeer(stage.channel, 20) as first:
        first.greet()
        stage.daemon.wait_up()
        before = stage.daemon.fds()
        silent, speaking = stage.connect(), stage.connect()
        speaking.sendall(b"something")
        eventually("both wait", lambda: stage.daemon.fds() == before + 2)
        silent.close()
        speaking.close()
        eventually("both are gone", lambda: stage.daemon.fds() == before)
    far, door = stage.far("far")
    far.wait_up()
    echo_once(door)


@pytest.mark.parametrize("present", ["nobody", "an honest peer"])
def test_a_flood_of_silent_connections_locks_nobody_out(scene: Scene, present: str) -> None:
    count = 1000
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    stage = Listening(scene, "unix")
    before = stage.daemon.fds()
    far, door = None, None
    if present != "nobody":
        far, door = stage.far("far")
        far.wait_up()
    flood = [stage.connect() for _ in range(count)]
    assert flood
    if far is None:
        far, door = stage.far("far")
        far.wait_up(timeout=20)
    assert door
    echo_once(door)
    mark = stage.daemon.mark()
    # Those that do not fit are closed until as many are left as may wait.
    refused = r"peer refused: uid \d+ gid \d+ pid \d+ has come while .* is connected, and 16 others"
    stage.daemon.wait_for_log(refused)
    eventually("the crowd is small", lambda: stage.daemon.fds() <= before + MOST_WAITING + 2)
    echo_once(door)
    assert not [line for line in stage.daemon.err.lines(mark) if "down" in line]
    lines = [line for line in stage.daemon.err.lines() if "refused" in line]
    assert len(lines) < 30, len(lines)


# --- --protocol 2 --------------------------------------------------------------------------------


def test_a_peer_that_has_to_greet_and_does_not_is_dropped(scene: Scene) -> None:
    """One that sends nothing, and one that sends something else: the next has its turn. One that
    has greeted is not dropped, however long it is silent."""
    stages = [Listening(scene, "unix", "--protocol", "2") for _ in range(3)]
    greeted = HostilePeer(stages[2].channel, 20)
    scene.cleanup(greeted.close)
    greeted.greet()
    begin = time.monotonic()
    peers = [stage.connect() for stage in stages[:2]]
    peers[1].sendall(b"no greeting")
    far, door = stages[1].far("waits")
    stages[1].daemon.wait_for_log("a second peer waits")
    for stage, peer in zip(stages[:2], peers, strict=True):
        expect_gone(peer, GREETING_TIME + 3)
        assert time.monotonic() - begin > GREETING_TIME - 1
        stage.daemon.wait_for_log(
            rf"warn +channel 0: the peer, {name_of(peer)}, has not greeted within 10 s"
        )
    far.wait_up()
    echo_once(door)
    expect_there(greeted.sock)
    with HostilePeer(stages[0].channel, 20) as late:
        late.greet()
        stages[0].daemon.wait_up()


def test_a_silent_peer_under_protocol_2_gives_way_at_once(scene: Scene) -> None:
    stage = Listening(scene, "unix", "--protocol", "2")
    silent = stage.connect()
    begin = time.monotonic()
    far, door = stage.far("far")
    far.wait_up()
    echo_once(door)
    expect_gone(silent)
    assert time.monotonic() - begin < GREETING_TIME


def test_a_dialled_peer_that_has_to_greet_is_named(scene: Scene) -> None:
    """Behind an emulator's socket the guest may take its time: the connection stays."""
    channel = scene.addresses.unix()
    with channel.listen() as listener:
        args = ["-c", f"unix-connect:{channel.spec}", *out("echo", scene.addresses.tcp())]
        daemon = scene.daemon(*args, "--protocol", "2")
        with HostilePeer(listener.accept()[0], 20) as peer:
            daemon.wait_for_log(f"warn +channel 0: {SENT_NOTHING}", GREETING_TIME + 3)
            peer.greet()
            daemon.wait_up()


# --- the end that dials --------------------------------------------------------------------------


class Dialling:
    """A daemon that dials a listener in the hands of the test."""

    def __init__(self, scene: Scene, *args: str) -> None:
        self.scene = scene
        address = scene.addresses.unix()
        self.door = scene.addresses.tcp()
        listener = address.listen()
        scene.cleanup(listener.close)
        method = f"unix-connect:{address.spec}"
        self.daemon: Daemon = scene.daemon("-c", method, *out("any", self.door), *args)
        self.peer = listener.accept()[0]
        scene.cleanup(self.peer.close)
        self.peer.settimeout(20 * PATIENCE)
        self.daemon.wait_for_log(f"warn +channel 0: {SENT_NOTHING}")

    def client(self) -> socket.socket:
        sock = self.door.connect(20 * PATIENCE)
        self.scene.cleanup(sock.close)
        return sock

    def init(self) -> int:
        """The number of the next client that asks."""
        while True:
            packet = next_packet(self.peer)
            if packet.message == INIT:
                assert packet.client is not None
                return packet.client

    def serve(self, client: socket.socket) -> None:
        number = self.init()
        self.peer.sendall(old_wire.ack(number, number))
        client.sendall(b"?")
        while (packet := next_packet(self.peer)).data is None:
            pass
        assert packet.data == b"?"
        self.peer.sendall(old_wire.data(old_wire.SERVER, packet.client, packet.server, b"!"))
        assert receive(client, 1) == b"!"


def test_clients_of_a_mute_listener_are_closed_in_time(scene: Scene) -> None:
    play = Dialling(scene)
    assert expect_client_reset(play.door, HELD + 2) > HELD - 1
    play.daemon.wait_for_log("warn +channel 0: connected, but the other end does not answer")
    probe = play.client()
    eventually("it is asked again", lambda: play.daemon.stats().total("streams") == 1)
    for _ in range(10):
        assert expect_client_reset(play.door, HELD) < HELD / 2
    play.daemon.wait_for_log("client refused: the other end has sent nothing")
    assert play.daemon.stats().total("up") == 0
    # Then it answers, and everybody is let in.
    play.init()
    play.serve(probe)
    play.daemon.wait_for_log("channel 0: up, protocol 1: the other end has not greeted")
    for _ in range(3):
        play.serve(play.client())
    assert play.daemon.stats().total("up") == 1


def test_a_crowd_at_a_mute_listener(scene: Scene) -> None:
    """Some are let in to find out, the others wait; nobody waits for long."""
    play = Dialling(scene)
    begin = time.monotonic()
    clients = [play.client() for _ in range(2 * MOST_PROBES)]
    for _ in range(MOST_PROBES):
        play.init()
    assert play.daemon.stats().total("streams") == MOST_PROBES
    for client in clients:
        expect_gone(client, HELD + 3)
    assert time.monotonic() - begin < (HELD + 3) * PATIENCE
    play.daemon.wait_at_rest()


def test_those_that_wait_are_let_in_with_the_first_byte(scene: Scene) -> None:
    play = Dialling(scene)
    clients = [play.client() for _ in range(2 * MOST_PROBES)]
    numbers = [play.init() for _ in range(MOST_PROBES)]
    play.peer.sendall(old_wire.ack(numbers[0], 1))
    for _ in range(MOST_PROBES):
        play.init()
    assert len(clients) == play.daemon.stats().total("streams")


def test_a_listener_that_greets_late_is_spoken_to_in_version_2(scene: Scene) -> None:
    """A machine that boots behind an emulator's socket."""
    play = Dialling(scene)
    with HostilePeer(play.peer, 20) as peer:
        peer.greet()
        play.daemon.wait_up()


def test_a_pair_of_old_settings_is_not_warned_about(scene: Scene) -> None:
    """With --protocol 1 an end that is silent is what is expected."""
    stage = Listening(scene, "unix", "--protocol", "1")
    stage.connect()
    stage.daemon.wait_for_log("channel 0: up, protocol 1; the other end is ")
    with stage.door.connect(20 * PATIENCE) as client, pytest.raises(TimeoutError):
        client.settimeout(2 * GRACE)
        echo(client)
