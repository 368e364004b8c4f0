"""An old-format peer that breaks every rule: each fault ends in a stated and bounded outcome."""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket
import time
from collections.abc import Iterator

import pytest

from drop_in import NEW, OLD, SEED, Line, answered, expect_end  # First: it knows where old_wire is.
import old_wire as wire_format
from harness import PATIENCE, SANITIZED, Daemon, Scene, into, out, scaled
from old_wire import ACK, CLIENT, CLOSE, CONTROL, INIT, SERVER, SIZE, Packet, Wire
from stage import ListeningService, echo, echo_once, eventually, expect_client_reset, receive

MIB = 1024 * 1024


@contextlib.contextmanager
def bounded(line: Line) -> Iterator[None]:
    """Whatever happens, our daemon lives, stays small, and gives back what it took."""
    daemon = line.daemon
    daemon.wait_at_rest()
    descriptors, resident = max(daemon.fds(), daemon.stats().process["descriptors"]), daemon.rss()
    yield
    assert daemon.alive() and line.daemon is daemon
    daemon.wait_at_rest(descriptors)
    assert SANITIZED or daemon.rss() - resident < 16 * MIB


# Faults that harm at most the stream that they are about. Each runs beside honest streams.

HARMLESS = {
    "ack-twice": ["--ack-twice"],
    "ack-for-closed": ["--ack-for-closed"],
    "close-both": ["--close-both"],
    "data-after-close": ["--data-after-close"],
    "stray-data": ["--stray-data", "--fault-after", "4"],
    "stray-data-first": ["--stray-data"],
    "init-unknown": ["--init-unknown", "nonsense", "--fault-after", "4"],
    "init-unknown-first": ["--init-unknown", "nonsense"],
    "init-of-a-nameless-service": ["--init-unknown", ""],
    "unknown-control-0": ["--unknown-control", "0", "--fault-after", "3"],
    "unknown-control-4-first": ["--unknown-control", "4"],
    "unknown-control-negative": ["--unknown-control", "-1", "--fault-after", "3"],
    "unknown-type-0": ["--unknown-type", "0", "--fault-after", "3"],
    "unknown-type-4-first": ["--unknown-type", "4"],
    "unknown-type-negative": ["--unknown-type", "-1", "--fault-after", "3"],
    "everything": [
        *("--ack-twice", "--ack-for-closed", "--close-both", "--data-after-close"),
        *("--stray-data", "--unknown-control", "77", "--unknown-type", "77"),
    ],
}


@pytest.mark.parametrize("fault", HARMLESS)
@pytest.mark.parametrize("pairing", ["unix-old-new", "pty-new-old"])
def test_a_fault_beside_the_honest_streams(scene: Scene, pairing: str, fault: str) -> None:
    services = {"echo": scene.echo_service()}
    line = Line(scene, pairing, services, old=[*HARMLESS[fault], "--large-numbers"])
    with bounded(line):
        doors = [end.doors["echo"] for end in line.ends]
        with doors[0].connect(10 * PATIENCE) as first, doors[1].connect(10 * PATIENCE) as second:
            for _ in range(8):
                for sock in (first, second):
                    echo(sock, b"before and after")
                assert all(answered(door) for door in doors)
            for door in doors:
                echo_once(door)


def test_data_before_the_ack_ends_its_own_stream(scene: Scene) -> None:
    """It names no number of ours, so nobody can tell where it belongs for sure."""
    services = {"echo": scene.echo_service()}
    line = Line(scene, "unix-old-new", services, old=["--data-before-ack"])
    with bounded(line):
        with line.running(NEW).doors["echo"].connect(10 * PATIENCE) as honest:
            for _ in range(5):
                with line.running(OLD).doors["echo"].connect(10 * PATIENCE) as hasty:
                    hasty.sendall(b"hasty")
                    assert b"hasty".startswith(expect_end_or(hasty, b"hasty"))
                echo(honest)
        with line.running(OLD).doors["echo"].connect(10 * PATIENCE) as patient:
            line.peer.wait_log("received CONTROL ACK", since=line.peer.mark() - 1)
            echo(patient)


@pytest.mark.parametrize("value", [0, -1, 1025, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("clients", [OLD, NEW])
def test_a_count_out_of_range_harms_its_own_stream_at_most(
    scene: Scene, clients: str, value: int
) -> None:
    services = {"echo": scene.echo_service()}
    switches = ["--bad-bytes-field", str(value), "--fault-after", "6", "--large-numbers"]
    line = Line(scene, "unix-old-new", services, old=switches)
    with bounded(line):
        door = line.running(clients).doors["echo"]
        with door.connect(10 * PATIENCE) as honest:
            echo(honest)
            with door.connect(2 * PATIENCE) as harmed:
                answers = b""
                try:
                    for _ in range(10):
                        harmed.sendall(b"question")
                        answers += receive(harmed, 8)
                except (OSError, EOFError):
                    pass
                assert b"question" * 10 == answers or len(answers) < 80
                assert (b"question" * 10).startswith(answers)
            echo(honest)
        echo_once(door)


def test_a_client_number_that_is_given_out_twice(scene: Scene) -> None:
    """The second INIT may replace the first or be refused; the client is answered or closed."""
    services = {"echo": scene.echo_service()}
    line = Line(scene, "unix-old-new", services, old=["--same-client-number-twice"])
    with bounded(line):
        with line.running(NEW).doors["echo"].connect(10 * PATIENCE) as honest:
            echo(honest)
            for _ in range(5):
                with line.running(OLD).doors["echo"].connect(5 * PATIENCE) as client:
                    client.sendall(b"who am I?")
                    got = expect_end_or(client, b"who am I?")
                    assert b"who am I?".startswith(got), got
                echo(honest)


def expect_end_or(sock: socket.socket, answer: bytes) -> bytes:
    """The answer, or what came of it before the stream ended."""
    got = b""
    try:
        while len(got) < len(answer) and (piece := sock.recv(len(answer) - len(got))):
            got += piece
    except ConnectionError:
        pass
    return got


def test_an_ack_that_never_comes(scene: Scene) -> None:
    services = {"echo": scene.echo_service()}
    new = ["--ack-timeout", "1"]
    line = Line(scene, "unix-old-new", services, old=["--never-ack"], new=new)
    with bounded(line):
        with line.running(OLD).doors["echo"].connect(10 * PATIENCE) as honest:
            echo(honest)
            took = expect_client_reset(line.running(NEW).doors["echo"], 3)
            assert took > 0.8, f"reset after {took:.1f} s, before its time"
            echo(honest)


def test_an_ack_that_comes_too_late_is_answered_with_a_close(scene: Scene) -> None:
    service = ListeningService(scene)
    services = {"any": service.address, "echo": scene.echo_service()}
    slow = ["--slow-dial", "2000"]
    line = Line(scene, "unix-old-new", services, old=slow, new=["--ack-timeout", "1"])
    with bounded(line):
        expect_client_reset(line.running(NEW).doors["any"], 3)
        with service.accept() as server:
            number = line.peer.wait_log(r"sent CONTROL ACK client=\d+ server=(\d+)").group(1)
            assert server.recv(1) == b""
        line.peer.wait_log(rf"received CONTROL CLOSE client=-1 server={number}$")


def test_a_client_that_leaves_before_the_ack_leaves_nothing_behind(scene: Scene) -> None:
    service = ListeningService(scene)
    line = Line(scene, "unix-old-new", {"any": service.address}, old=["--slow-dial", "300"])
    with bounded(line):
        for _ in range(3):
            line.running(NEW).doors["any"].connect(10 * PATIENCE).close()
            with service.accept() as server:
                assert expect_end(server) == b""


# Faults of the channel itself: the boundary between packets is lost.

MISALIGNED = {
    "stray-byte-first": ["--stray-byte-after", "0"],
    "stray-byte": ["--stray-byte-after", "9"],
    "garbage-1": ["--garbage", "1", "--fault-after", "9"],
    "garbage-522": ["--garbage", "522", "--fault-after", "9"],
    "garbage-1043": ["--garbage", "1043", "--fault-after", "9"],
    "garbage-1045": ["--garbage", "1045", "--fault-after", "9"],
    "garbage-a-million": ["--garbage", "1000000", "--fault-after", "9"],
    "garbage-first": ["--garbage", "777"],
    "bad-magic": ["--bad-magic-after", "9"],
}


@pytest.mark.parametrize("fault", MISALIGNED)
@pytest.mark.parametrize("pairing", ["unix-new-old", "pty-old-new"])
def test_the_boundary_between_packets_is_found_again(
    scene: Scene, pairing: str, fault: str
) -> None:
    """No stream ever carries a wrong byte, or goes on without one: it ends. New ones work, and the
    log tells."""
    services = {"echo": scene.echo_service()}
    line = Line(scene, pairing, services, old=[*MISALIGNED[fault], "--large-numbers"])
    daemon = line.daemon
    first = fault.endswith("-first")
    with contextlib.ExitStack() as stack:
        if not first:
            stack.enter_context(bounded(line))
        doors = [end.doors["echo"] for end in line.ends]
        streams = []
        for door in doors * 2:
            streams.append(door.connect((1 if first else 2) * PATIENCE))
            stack.callback(streams[-1].close)
        ended = set()
        for round_number in range(10):
            for index, sock in enumerate(streams):
                question = b"%d of %d;" % (round_number, index)
                if index in ended:
                    continue
                try:
                    sock.sendall(question)
                    got = expect_end_or(sock, question)
                except TimeoutError:
                    got = b""
                    if not first:
                        # What is missing shows when the next packet comes; then the stream ends.
                        # (A client of the old peer whose INIT was lost is left without a word.)
                        for door in doors:
                            answered(door, 0.5)
                        got = expect_end(sock)
                except OSError:
                    got = b""
                assert question.startswith(got), got
                if got != question:
                    ended.add(index)
        for door in doors:
            # An old client whose INIT was lost hangs; the next one does not.
            eventually("an echo", lambda door=door: answered(door, 0.5), 10)
            echo_once(door)
    flushed = line.kind == "pty" and first  # By whoever opened the tty later.
    if fault != "bad-magic" and not flushed:
        daemon.wait_for_log(r"(?i)channel 0: .*(packet boundary|boundary|resync)")


@pytest.mark.parametrize("reconnects", [OLD, NEW])
def test_a_channel_that_drops_in_mid_packet(scene: Scene, reconnects: str) -> None:
    """Whoever has to come again, the next session begins with a whole packet."""
    services = {"echo": scene.echo_service()}
    pairing = "unix-old-new" if reconnects == NEW else "unix-new-old"
    old = ["--drop-in-mid-packet", "20", "--reconnect", "--forget-on-reconnect"]
    line = Line(scene, pairing, services, old=old)
    with bounded(line):
        mark = line.daemon.mark()
        with line.running(NEW).doors["echo"].connect(10 * PATIENCE) as sock:
            sent = 0
            try:
                for _ in range(30):
                    echo(sock)
                    sent += 1
            except (OSError, EOFError):
                pass
            assert sent < 30
        line.daemon.wait_down(since=mark)
        lines = line.daemon.err.lines(mark)
        mark += next(at for at, text in enumerate(lines) if "channel 0: down" in text)
        line.daemon.wait_up(since=mark, protocol=1)
        for end in line.ends:
            echo_once(end.doors["echo"])


# Worse than the old peer can be told to be: the test itself on the other end.


class Hostile:
    """Our daemon with its listening channel in the hands of the test."""

    def __init__(self, scene: Scene, services: dict, *options: str, clients: str = "echo") -> None:
        self.address = scene.addresses.unix()
        self.door = scene.addresses.tcp()
        args = ["-c", f"unix-listen:{self.address.spec}", *out(clients, self.door)]
        for name, service in services.items():
            args += into(name, service)
        self.daemon: Daemon = scene.daemon(*args, "--protocol", "1", *options)
        self.wire = self.connect()
        scene.cleanup(self.wire.close)
        self.daemon.wait_up(protocol=1)
        self.descriptors = self.daemon.fds()
        self.resident = self.daemon.rss()

    def connect(self) -> Wire:
        return Wire(self.address.connect(20 * PATIENCE))

    def next(self) -> Packet:
        return self.wire.next()

    def check_bounds(self, mebibytes: int = 16) -> None:
        assert self.daemon.alive()
        growth = self.daemon.rss() - self.resident
        print(f"grew by {growth / MIB:.1f} MiB; {self.daemon.stats()}")
        assert SANITIZED or growth < mebibytes * MIB


def send_what_is_taken(sock: socket.socket, data: bytes, seconds: float) -> int:
    """Sends again and again until the time is up; returns how many bytes went. Stands still when
    nothing is taken any more."""
    view, sent, deadline = memoryview(data), 0, time.monotonic() + seconds
    at = 0
    sock.settimeout(0.2)
    while time.monotonic() < deadline:
        try:
            count = sock.send(view[at:])
        except TimeoutError:
            continue
        sent += count
        at = (at + count) % len(view)
    sock.settimeout(20 * PATIENCE)
    return sent


def test_inits_beyond_every_limit_are_refused(scene: Scene) -> None:
    """Each gets its answer: an ACK within --max-streams, a CLOSE beyond it."""
    echo_address = scene.echo_service()
    hostile = Hostile(scene, {"echo": echo_address}, "--max-streams", "100")
    count, step = 1000, 50  # Far more answers at once than it listens to, and some are left out.
    seen: dict[int | None, set[int | None]] = {ACK: set(), CLOSE: set()}
    for number in range(1, count, step):
        hostile.wire.send(*(wire_format.init(number + i, "echo") for i in range(step)))
        for _ in range(step):
            packet = hostile.next()
            assert packet.type == CONTROL
            seen[packet.message].add(packet.client)
    assert len(seen[ACK]) == 100 and len(seen[CLOSE]) == count - 100
    hostile.check_bounds()
    hostile.wire.close()
    hostile.daemon.wait_at_rest(hostile.descriptors)


@pytest.mark.parametrize("what", ["unknown-service", "acks-for-nobody", "data-for-nobody"])
def test_a_peer_that_asks_for_answers_and_never_reads_them_costs_little(
    scene: Scene, what: str
) -> None:
    """Nothing that it sends may pile up here, in whatever numbers it comes."""
    hostile = Hostile(scene, {"echo": scene.echo_service()})
    packets = []
    for number in range(1, 4001):
        if what == "unknown-service":
            packets.append(wire_format.init(number, "nonsense"))
        elif what == "acks-for-nobody":
            packets.append(wire_format.ack(number, number + 5000))
        else:
            packets.append(wire_format.data(SERVER, number, number + 5000, b"x" * 1024))
            packets.append(wire_format.data(CLIENT, number, number + 5000, b"x" * 1024))
    sent = send_what_is_taken(hostile.wire.sock, b"".join(packets), 1)
    print(f"{sent // SIZE} packets were taken")
    hostile.check_bounds()
    hostile.wire.close()
    hostile.daemon.wait_at_rest(hostile.descriptors)
    honest = hostile.connect()
    scene.cleanup(honest.close)
    honest.send(wire_format.init(7, "echo"))
    assert honest.next().message == ACK


def test_data_for_a_service_that_does_not_read_stays_within_the_hold(scene: Scene) -> None:
    service = ListeningService(scene)
    limits = ("--hold", str(MIB), "--stall-timeout", "1")
    hostile = Hostile(scene, {"any": service.address, "echo": scene.echo_service()}, *limits)
    # A stream that is alone on its channel may stand still for as long as it likes.
    hostile.wire.send(wire_format.init(8, "echo"))
    assert hostile.next().message == ACK
    hostile.wire.send(wire_format.init(9, "any"))
    number = hostile.next().server
    server = service.accept()
    scene.cleanup(server.close)
    begin = time.monotonic()
    packet = wire_format.data(CLIENT, 9, number, b"x" * 1024)
    sent = send_what_is_taken(hostile.wire.sock, packet * 64, 3 * PATIENCE)
    assert hostile.next() == Packet(CONTROL, CLOSE, 9, -1)
    print(f"{sent / MIB:.0f} MiB were taken within {time.monotonic() - begin:.1f} s")
    hostile.check_bounds()
    hostile.wire.send(packet * 10, wire_format.init(11, "any"))  # Late data is nobody's.
    assert hostile.next().message == ACK


def test_numbers_of_every_sort(scene: Scene) -> None:
    """Zero, negative and the largest; for what was never given out, nothing happens."""
    hostile = Hostile(scene, {"echo": scene.echo_service()})
    odd = [0, -1, -2, 1, 2**31 - 1, -(2**31), 1_000_000, 1_000_001]
    wire = hostile.wire
    for one in odd:
        for other in odd:
            wire.send(
                wire_format.ack(one, other),
                wire_format.close(one, other),
                wire_format.data(CLIENT, one, other, b"?"),
                wire_format.data(SERVER, one, other, b"?"),
            )
    wire.send(wire_format.init(-5, "echo"), wire_format.init(7, "echo"))
    while (packet := wire.next()) != Packet(CONTROL, ACK, 7, packet.server):
        assert packet.type == CONTROL and packet.message in (ACK, CLOSE)
    wire.send(wire_format.data(CLIENT, 7, packet.server, b"hello"))
    assert wire.next() == Packet(SERVER, client=7, server=packet.server, data=b"hello")
    hostile.check_bounds()


def test_service_names_of_every_sort(scene: Scene) -> None:
    """31 characters are a name; 32 without an end, none at all and strange bytes are not."""
    name = "echo-31-characters-long-xxxxxxx"
    assert len(name) == 31
    hostile = Hostile(scene, {name: scene.echo_service()})
    wire = hostile.wire
    raw = wire_format.init(1, "")
    bad = [name + "x", "", "\n\x1b[31m", "%s%n", "a" * 32]
    for number, text in enumerate(bad, 100):
        encoded = text.encode().ljust(32, b"\0")[:32]
        packet = bytearray(raw)
        packet[8:12] = number.to_bytes(4, "little")
        packet[12:44] = encoded
        wire.send(bytes(packet))
        assert wire.next() == Packet(CONTROL, CLOSE, number, -1)
    wire.send(wire_format.init(9, name))
    assert wire.next().message == ACK
    for line in hostile.daemon.err.lines():
        assert "\x1b" not in line


def test_an_ack_with_a_number_that_another_stream_has(scene: Scene) -> None:
    """Its numbers are descriptors of one process, so the first stream's service is gone there. That
    stream ends, unsaid, because CLOSE would hit the second."""
    hostile = Hostile(scene, {})
    wire = hostile.wire
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(hostile.door.connect(10 * PATIENCE)) for _ in range(3)]
        numbers = [wire.next().client for _ in clients]
        assert len(set(numbers)) == 3
        for number, server in zip(numbers, (5, 6, 5), strict=True):
            wire.send(wire_format.ack(number, server))
        assert expect_end(clients[0]) == b""
        wire.send(wire_format.data(SERVER, numbers[0], 5, b"for nobody"))
        for client, number, server in list(zip(clients, numbers, (5, 6, 5), strict=True))[1:]:
            wire.send(wire_format.data(SERVER, number, server, b"for this one"))
            assert receive(client, 12) == b"for this one"
            client.sendall(b"from this one")
            answer = Packet(CLIENT, client=number, server=server, data=b"from this one")
            assert wire.next() == answer
        wire.send(wire_format.init(6, "nonsense"))  # A client that has the number of a service now.
        assert expect_end(clients[1]) == b""
        assert wire.next() == Packet(CONTROL, CLOSE, 6, -1)
    hostile.daemon.wait_for_log("a number of its own that is in use")
    hostile.check_bounds()


def test_one_byte_at_a_time(scene: Scene) -> None:
    hostile = Hostile(scene, {"echo": scene.echo_service()})
    packets = wire_format.init(7, "echo")
    for offset in range(SIZE):
        hostile.wire.sock.sendall(packets[offset : offset + 1])
    number = hostile.next().server
    for piece in re.findall(rb"(?s).{1,13}", wire_format.data(CLIENT, 7, number, b"hello")):
        hostile.wire.sock.sendall(piece)
    assert hostile.next().data == b"hello"


@pytest.mark.parametrize("style", ["noise", "magic", "almost"])
def test_noise_without_end_costs_little_and_ends_with_the_link(scene: Scene, style: str) -> None:
    draw = random.Random(SEED)
    noise = draw.randbytes(MIB)
    if style == "magic":
        noise = wire_format.MAGIC * (MIB // 4)
    elif style == "almost":
        packet = wire_format.init(7, "echo")
        noise = b"".join(packet[: draw.randrange(SIZE)] for _ in range(1000))
    hostile = Hostile(scene, {"echo": scene.echo_service()})
    before = hostile.daemon.cpu_seconds()
    with contextlib.suppress(OSError):
        sent = send_what_is_taken(hostile.wire.sock, noise, 1)
        cpu = hostile.daemon.cpu_seconds() - before
        print(f"{sent / MIB:.0f} MiB of noise, {cpu:.2f} s of CPU")
    hostile.check_bounds()
    lines = len(hostile.daemon.err.lines())
    assert lines < 100, "the log is flooded, too"
    hostile.wire.close()
    hostile.daemon.wait_at_rest(hostile.descriptors)

    def served_again() -> bool:
        wire = hostile.connect()
        wire.sock.settimeout(2 * PATIENCE)
        try:
            wire.send(wire_format.init(7, "echo"))
            return wire.next().message == ACK
        except (OSError, EOFError):
            return False
        finally:
            wire.close()

    eventually("service for the next peer", served_again, 30)


def test_random_packets_with_honest_framing(scene: Scene) -> None:
    """Drawn types, messages and numbers, mostly small ones that meet; seeded."""
    hostile = Hostile(scene, {"echo": scene.echo_service()}, "--max-streams", "50")
    draw = random.Random(SEED)
    clients = [hostile.door.connect(10 * PATIENCE) for _ in range(5)]
    names = ["echo", "nonsense", ""]
    known = [0, 1, 2, 3]
    hostile.wire.sock.settimeout(0.01)
    heard = b""
    for _ in range(scaled(5000, 500)):
        one, other = draw.choice(known), draw.choice(known)
        kind = draw.randrange(6)
        if kind == 0:
            packet = wire_format.init(one, draw.choice(names))
        elif kind == 1:
            packet = wire_format.control(draw.randrange(-1, 6), one, other)
        elif kind in (2, 3):
            count = draw.choice([1, 5, 1024])
            packet = wire_format.data(draw.choice((CLIENT, SERVER)), one, other, os.urandom(count))
        elif kind == 4:
            packet = wire_format.ack(one, other)
        else:
            packet = wire_format.close(*draw.choice([(one, -1), (-1, other), (one, other)]))
        hostile.wire.sock.settimeout(20 * PATIENCE)
        hostile.wire.send(packet)
        hostile.wire.sock.settimeout(0.0001)
        with contextlib.suppress(TimeoutError, BlockingIOError):
            heard += hostile.wire.sock.recv(1 << 20)
        while len(heard) >= SIZE:
            told = wire_format.decode(heard[:SIZE])
            heard = heard[SIZE:]
            if told.message in (INIT, ACK):
                number = told.client if told.message == INIT else told.server
                known = [0, 1, 2, 3, *known[-12:], number]
    hostile.check_bounds()
    for client in clients:
        client.close()
    hostile.wire.close()
    hostile.daemon.wait_at_rest(hostile.descriptors)
