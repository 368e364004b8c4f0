"""Ordinary work with an old peer, whichever end it has, on every kind of channel."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import select
import socket
import sys
import threading

import pytest

from drop_in import (
    NEW,
    OLD,
    PAIRINGS,
    SEED,
    Line,
    chat,
    chat_all,
    digest_of_received,
    expect_end,
    in_background,
)
from harness import PATIENCE, Scene, scaled
from stage import (
    ListeningService,
    close_hard,
    echo,
    echo_once,
    eventually,
    expect_client_reset,
    receive,
    receive_all,
)

MIB = 1024 * 1024
AT_ONCE = 1.0
ACK_TIME = 2 * PATIENCE


@pytest.fixture(params=PAIRINGS)
def pairing(request: pytest.FixtureRequest) -> str:
    """The kind of channel and who runs at which end of it."""
    return request.param


@pytest.fixture(params=["clients-old", "clients-new"])
def clients(request: pytest.FixtureRequest) -> str:
    """At which program's end the clients are; the service is at the other one."""
    return request.param.partition("-")[2]


def test_echo(scene: Scene, pairing: str) -> None:
    line = Line(scene, pairing, {"echo": scene.echo_service()})
    doors = [end.doors["echo"] for end in line.ends] * 2
    for size in (1, 1023, 1024, 1025, 100_000):
        socks = [door.connect(10 * PATIENCE) for door in doors]
        for sock in socks:
            echo(sock, os.urandom(size))
        for sock in socks:
            sock.close()
    for door in doors:
        echo_once(door)
    line.daemon.wait_at_rest()
    line.daemon.wait_for_log(r"channel 0: up, protocol 1\b")


def test_http(scene: Scene, pairing: str) -> None:
    web = scene.addresses.tcp()
    page = os.urandom(300_000)
    (scene.directory / "page").write_bytes(page)
    server = scene.spawn(
        [sys.executable, "-u", "-m", "http.server", str(web.port), "--bind", "127.0.0.1"],
        name="http.server",
        cwd=scene.directory,
    )
    server.out.wait_for("Serving HTTP", 20 * PATIENCE)
    line = Line(scene, pairing, {"http": web})
    for count, end in itertools.product(range(3), line.ends):
        got = scene.directory / f"got-{count}-{end.program}"
        url = f"http://{end.doors['http'].spec}/page"
        limit = str(20 * PATIENCE)
        scene.run(["curl", "-sS", "--fail", "--noproxy", "*", "-m", limit, "-o", got, url])
        assert got.read_bytes() == page
    line.daemon.wait_at_rest()


def test_a_hundred_mib_each_way_at_once(scene: Scene, pairing: str, clients: str) -> None:
    """Both directions of one stream together; over a pty, which takes half a minute for it, once
    for each pairing and 4 MiB for the other client."""
    service = ListeningService(scene)
    line = Line(scene, pairing, {"bulk": service.address})
    blocks = scaled(4 if line.kind == "pty" and clients == NEW else 100, 1)
    content = [random.Random(SEED + i).randbytes(MIB) * blocks for i in (0, 1)]
    with line.running(clients).doors["bulk"].connect() as client, service.accept() as server:
        ends = (client, server)
        for sock in ends:
            sock.settimeout(60 * PATIENCE)
        senders = [in_background(lambda i=i: ends[i].sendall(content[i])) for i in (0, 1)]
        digests = ["", ""]

        def take(index: int) -> None:
            digests[index] = digest_of_received(ends[1 - index], len(content[index]))

        takers = [threading.Thread(target=take, args=(i,), daemon=True) for i in (0, 1)]
        for thread in takers:
            thread.start()
        for thread in (*takers, *senders):
            thread.join(120 * PATIENCE)
        assert digests == [hashlib.sha256(sent).hexdigest() for sent in content]
    line.daemon.wait_at_rest()


@pytest.mark.parametrize("pairing", ["unix-old-new", "tcp-new-old", "pty-old-new"])
def test_what_was_sent_before_the_end_arrives_whole(
    scene: Scene, pairing: str, clients: str
) -> None:
    """CLOSE overtakes nothing: the last bytes wait for a receiver that takes its time."""
    service = ListeningService(scene)
    line = Line(scene, pairing, {"bulk": service.address})
    content = random.Random(SEED).randbytes(3 * MIB)
    for closer in ("client", "service"):
        client = line.running(clients).doors["bulk"].connect(30 * PATIENCE)
        client.sendall(b"!")
        server = service.accept(30)
        assert receive(server, 1) == b"!"
        source, sink = (client, server) if closer == "client" else (server, client)

        def send(sock: socket.socket = source) -> None:
            sock.sendall(content)
            sock.close()

        sender = in_background(send)
        assert receive(sink, 10_000) == content[:10_000]
        sender.join(0.3)  # As far as buffers go, all has been sent long before it is received.
        assert receive_all(sink) == content[10_000:]
        sink.close()
        sender.join(30 * PATIENCE)
    line.daemon.wait_at_rest()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("leaves", [True, False], ids=["leaves", "stays"])
def test_last_words_reach_who_is_still_speaking(
    scene: Scene, clients: str, kind: str, leaves: bool
) -> None:
    """An upload that is answered and cut off: the answer is not lost, though what still comes has
    nowhere to go; and who never leaves is left."""
    service = ListeningService(scene, kind)
    line = Line(scene, "unix-old-new", {"cut": service.address}, door_kind=kind)
    descriptors = line.descriptors()
    client = line.running(clients).doors["cut"].connect(10 * PATIENCE)
    client.sendall(b"!")
    server = service.accept()
    assert receive(server, 1) == b"!"
    words = random.Random(SEED).randbytes(50_000)
    speaks, leaves_first = (client, server) if clients == NEW else (server, client)
    speaks.sendall(b"upload")
    assert receive(leaves_first, 6) == b"upload"
    leaves_first.sendall(words)
    leaves_first.close()
    told = select.poll()
    told.register(speaks, select.POLLRDHUP)
    assert told.poll(10_000 * PATIENCE)
    for _ in range(20):
        speaks.sendall(bytes(1000))
    if leaves:
        assert receive_all(speaks) == words
        speaks.close()
    line.daemon.wait_at_rest(descriptors)
    speaks.close()


def test_sixty_four_streams_at_once(scene: Scene, pairing: str) -> None:
    """Half of them from each end."""
    # With the original's backlog of 1, the kernel resets some of 32 clients that come at once.
    line = Line(scene, pairing, {"echo": scene.echo_service()}, old=["--backlog", "128"])
    descriptors = line.descriptors()
    doors = [end.doors["echo"] for end in line.ends] * 32
    chat_all(doors, rounds=3 if line.kind == "pty" else scaled(10, 2))
    line.daemon.wait_at_rest(descriptors)


# Otherwise what was under way to a connection of the old peer reaches its next one.
NO_REUSE = ["--large-numbers", "--no-unchecked-numbers"]


@pytest.mark.parametrize("reuse", [True, False], ids=["original", "no-reuse"])
def test_aborts_in_mid_flight(scene: Scene, pairing: str, clients: str, reuse: bool) -> None:
    """Either side of a stream, at drawn places; with the original's habits only at our end, since
    what is under way to the other one would reach the old peer's next connection."""
    ours = "client" if clients == NEW else "service"
    theirs = "service" if clients == NEW else "client"
    service = ListeningService(scene)
    services = {"bulk": service.address, "echo": scene.echo_service()}
    line = Line(scene, pairing, services, old=[] if reuse else NO_REUSE)
    descriptors = line.descriptors()
    draw = random.Random(SEED)
    content = draw.randbytes(MIB)
    for aborts in [ours] * 4 if reuse else [ours, theirs] * 3:
        client = line.running(clients).doors["bulk"].connect(10 * PATIENCE)
        client.sendall(b"!")
        server = service.accept()
        assert receive(server, 1) == b"!"
        senders = [in_background(lambda s=s: s.sendall(content)) for s in (client, server)]
        dies, lives = (client, server) if aborts == "client" else (server, client)
        count = draw.randrange(1, 300_000)
        assert receive(dies, count) == content[:count]
        if draw.random() < 0.5:
            close_hard(dies)
        else:
            dies.close()
        assert content.startswith(expect_end(lives))
        lives.close()
        for sender in senders:
            sender.join(10 * PATIENCE)
    line.wait_for_echo()
    line.daemon.wait_at_rest(descriptors)
    assert line.peer.alive()


# What becomes of a client without a service.


def test_the_old_peers_client_is_closed_when_we_refuse(scene: Scene, pairing: str) -> None:
    """With the original on both ends it would hang."""
    line = Line(scene, pairing, {"echo": scene.echo_service()}, start=False)
    doors = {what: scene.addresses.tcp() for what in ("unknown", "refused")}
    for end in line.ends:
        for what, door in doors.items():
            if end is line.ends[pairing.split("-")[1:].index(OLD)]:
                end.args += ["-o", f"{what}:{door.spec}"]
            elif what == "refused":
                end.args += ["-i", f"{what}:{scene.addresses.tcp().spec}"]
    line.start()
    with line.running(OLD).doors["echo"].connect(10 * PATIENCE) as other:
        echo(other)
        for door in doors.values():
            for _ in range(5):
                with door.connect(10 * PATIENCE) as client:
                    client.sendall(b"?")
                    assert expect_end(client, AT_ONCE) == b""
            echo(other)
    packets = line.peer.packets()
    refused = [packet for packet in packets if "received CONTROL CLOSE" in packet]
    assert len(refused) >= 10, refused
    acks = [packet for packet in packets if "received CONTROL ACK" in packet]
    assert not [packet for packet in acks if "=-1" in packet]


@pytest.mark.parametrize("habit", ["original", "refusing"])
def test_our_client_is_reset_when_the_old_peer_has_no_service(
    scene: Scene, pairing: str, habit: str
) -> None:
    """The original says nothing of an unknown service: there only the limit on the wait helps."""
    switches = ["--refuse-unknown-service", "--refuse-failed-dial"] if habit == "refusing" else []
    services = {"echo": scene.echo_service()}
    new = ["--ack-timeout", str(ACK_TIME)]
    line = Line(scene, pairing, services, old=switches, new=new, start=False)
    doors = {what: scene.addresses.tcp() for what in ("unknown", "refused")}
    for end, program in zip(line.ends, pairing.split("-")[1:], strict=True):
        if program == NEW:
            for what, door in doors.items():
                end.args += ["-o", f"{what}:{door.spec}"]
        else:
            end.args += ["-i", f"refused:{scene.addresses.tcp().spec}"]
    line.start()
    descriptors = line.descriptors()
    with line.running(NEW).doors["echo"].connect(10 * PATIENCE) as other:
        echo(other)
        for what, door in doors.items():
            said = what == "refused" or habit == "refusing"
            for _ in range(3 if said else 1):
                took = expect_client_reset(door, AT_ONCE if said else 5)
                assert said or took > 0.9 * ACK_TIME, f"reset after {took:.1f} s, before its time"
                echo(other)
    line.daemon.wait_at_rest(descriptors)


# The habits of the original, one by one.

HABITS = {
    "original": [],
    "no-blocking": ["--nonblocking-writes"],
    "no-reuse": NO_REUSE,
    "background-dial": ["--background-dial"],
    "own-lookups": ["--no-shared-lookup"],
    "small-reads": ["--read-size", "100"],
    "large-reads": ["--read-size", "1000000"],
    "resync": ["--resync"],
}


@pytest.mark.parametrize("habit", HABITS)
def test_every_habit_is_served(scene: Scene, habit: str) -> None:
    service = ListeningService(scene)
    services = {"echo": scene.echo_service(), "bulk": service.address}
    line = Line(scene, "unix-old-new", services, old=HABITS[habit])
    descriptors = line.descriptors()
    chat_all([end.doors["echo"] for end in line.ends] * 4, rounds=scaled(10, 2))
    # Aborted at our end: what it was sent meanwhile must reach nobody else here.
    with line.running(OLD).doors["bulk"].connect(10 * PATIENCE) as client:
        server = service.accept()
        sender = in_background(lambda: client.sendall(bytes(MIB)))
        receive(server, 200_000)
        close_hard(server)
        assert expect_end(client) == b""
        sender.join(10 * PATIENCE)
    chat_all([end.doors["echo"] for end in line.ends] * 4, rounds=scaled(10, 2))
    line.daemon.wait_at_rest(descriptors)


@pytest.mark.parametrize("half_closes", ["client", "service"])
@pytest.mark.parametrize("peer", ["original", "half-close"])
def test_a_half_close_ends_the_stream_without_hanging(
    scene: Scene, clients: str, half_closes: str, peer: str
) -> None:
    """The old format knows one end for both directions; what was said before it arrives."""
    service = ListeningService(scene)
    switches = [] if peer == "original" else ["--half-close"]
    line = Line(scene, "unix-old-new", {"late": service.address}, old=switches)
    client = line.running(clients).doors["late"].connect(10 * PATIENCE)
    client.sendall(b"!")
    server = service.accept()
    assert receive(server, 1) == b"!"
    first, second = (client, server) if half_closes == "client" else (server, client)
    first.sendall(b"request")
    first.shutdown(socket.SHUT_WR)
    assert receive(second, 7) == b"request"
    ours = half_closes == "client" and clients == NEW or half_closes == "service" and clients == OLD
    if ours or peer == "original":
        assert expect_end(second) == b""
    second.close()
    first.settimeout(5 * PATIENCE)
    expect_end(first)
    first.close()
    line.daemon.wait_at_rest()


def test_a_peer_that_takes_offence_at_unknown_messages_wants_protocol_1(scene: Scene) -> None:
    """With --protocol 1 nothing is sent that the old format does not name."""
    services = {"echo": scene.echo_service()}
    strict = ["--no-ignore-unknown-control"]
    line = Line(scene, "unix-old-new", services, old=strict, new=["--protocol", "1"])
    for end in line.ends:
        echo_once(end.doors["echo"])
    log = line.peer.err.lines()
    assert "channel lost" not in log
    assert not [text for text in log if "UNKNOWN" in text]


def test_a_dial_in_the_old_peers_loop_delays_but_loses_nothing(scene: Scene) -> None:
    """The old peer stands still while it dials; our streams wait for it and are whole after."""
    services = {"echo": scene.echo_service(), "bulk": ListeningService(scene).address}
    line = Line(scene, "unix-old-new", services, old=["--slow-dial", "300"])
    door = line.running(NEW).doors
    with door["echo"].connect(10 * PATIENCE) as open_before:
        echo(open_before)
        waiting = [door["bulk"].connect(10 * PATIENCE) for _ in range(3)]
        for size in (1, 50_000):
            echo(open_before, os.urandom(size))
        for sock in waiting:
            sock.close()
    chat(door["echo"], SEED, rounds=3)
    line.daemon.wait_at_rest()


# One stream each way. With the original at both ends their numbers are equal, and when one ends the
# other hangs.

ORDERS = [
    (*first, *second)
    for streams in (("ours", "theirs"), ("theirs", "ours"))
    for first, second in itertools.product(
        *([(stream, end) for end in ("client", "service")] for stream in streams)
    )
]


@pytest.mark.parametrize("near", [OLD, NEW])
@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_streams_each_way_never_share_a_number(
    scene: Scene, near: str, order: tuple[str, str, str, str]
) -> None:
    services = [ListeningService(scene), ListeningService(scene)]
    names = {"there": services[0].address, "here": services[1].address}
    line = Line(scene, f"unix-{near}-{NEW if near == OLD else OLD}", names)
    sockets: dict[str, dict[str, socket.socket]] = {}
    for stream, program, name, service in (
        ("ours", NEW, "there", services[0]),
        ("theirs", OLD, "here", services[1]),
    ):
        client = line.running(program).doors[name].connect(10 * PATIENCE)
        client.sendall(b"!")
        server = service.accept()
        assert receive(server, 1) == b"!"
        sockets[stream] = {"client": client, "service": server}

    def converse(stream: str) -> None:
        for sender, receiver in (("client", "service"), ("service", "client")):
            sockets[stream][sender].sendall(b"still here")
            assert receive(sockets[stream][receiver], 10) == b"still here"

    for stream, closer in (order[:2], order[2:]):
        for open_stream in sockets:
            converse(open_stream)
        ends = sockets.pop(stream)
        ends.pop(closer).close()
        (other,) = ends.values()
        assert expect_end(other) == b""
        other.close()
    line.daemon.wait_at_rest()


def test_our_numbers_are_large_and_none_comes_back(scene: Scene) -> None:
    line = Line(scene, "unix-old-new", {"echo": scene.echo_service()})
    count = scaled(50, 10)
    for _ in range(count):
        for end in line.ends:
            with end.doors["echo"].connect(10 * PATIENCE) as sock:
                echo(sock)
    line.daemon.wait_at_rest()
    packets = line.peer.packets
    eventually("an end of each", lambda: sum(" CLOSE " in text for text in packets()) >= 2 * count)
    clients = [p for p in line.peer.packets() if p.startswith("received CONTROL INIT")]
    servers = [p for p in line.peer.packets() if p.startswith("received CONTROL ACK")]
    numbers = [int(packet.split("client=")[1].split()[0]) for packet in clients]
    numbers += [int(packet.split("server=")[1].split()[0]) for packet in servers]
    assert len(numbers) == 2 * count == len(set(numbers))
    assert min(numbers) >= 1_000_000
