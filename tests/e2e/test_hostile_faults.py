"""Every fault of the protocol, committed by an independent peer against a living daemon.

Each gets a channel of its own in one process. The daemon must name the fault, end that session and
no other, and take the next peer; an honest stream on one more channel runs through it all.
"""

from __future__ import annotations

import os
import random
import re
import socket
import time
from collections.abc import Callable

import pytest

import hostile_peer as wire
from addresses import Address
from harness import Scene, into, out
from hostile_peer import HostilePeer, number
from stage import echo, echo_once, eventually, expect_reset, wait_for_echo

STREAMS = 64
SEED = 20261122
TOO_MUCH = wire.MOST_WINDOW + 1

Crime = Callable[[HostilePeer], bytes]


def opened(peer: HostilePeer, slot: int = 0) -> bytes:
    return peer.open_frame(slot, "hole")


def with_byte(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + bytes([value]) + data[at + 1 :]


def open_with(peer: HostilePeer, payload: bytes, credit: int = 1) -> bytes:
    return peer.frame(wire.OPEN, number(0), credit, payload, mine=True)


def data(peer: HostilePeer, payload: bytes = b"x", offset: int = 0, **how) -> bytes:
    return peer.frame(wire.DATA, number(0), offset, payload, mine=True, **how)


def of_stream(kind: int, argument: int = 0, mine: bool = True, slot: int = 0) -> Crime:
    return lambda peer: opened(peer) + peer.frame(kind, number(slot), argument, mine=mine)


def session_frame(kind: int, argument: int = 0, **how) -> Crime:
    return lambda peer: peer.frame(kind, 0, argument, **how)


def end_of_stream(peer: HostilePeer) -> bytes:
    return peer.frame(wire.END, number(0), 0, mine=True)


def more_than_granted(peer: HostilePeer) -> bytes:
    """In one frame: between two, more could be granted."""
    assert peer.theirs.window < peer.theirs.max_frame
    return opened(peer) + data(peer, b"x" * (peer.theirs.window + 1))


def reset_with_payload(peer: HostilePeer) -> bytes:
    return opened(peer) + peer.frame(wire.RESET, number(0), payload=b"x", mine=True)


def reset_at(peer: HostilePeer, offset: int, **how) -> bytes:
    return peer.frame(wire.RESET_AT, number(0), offset, mine=True, **how)


def torn_then_ping(peer: HostilePeer) -> bytes:
    return opened(peer) + data(peer, b"x" * 99)[:60] + peer.frame(wire.PING, 0, 2)


def joined(peer: HostilePeer, frames: int) -> bytes:
    hello = wire.replace(peer.mine, flags=wire.JOINED, frames=frames)
    return hello.encode()


def with_next_epoch(peer: HostilePeer) -> bytes:
    return wire.replace(peer.mine, epoch=peer.mine.epoch + 2).encode()


HEADER = "a frame header failed its check"
TRAILER = "a frame trailer failed its check"
HELLO = "a greeting is malformed"
UNKNOWN = "a frame of unknown type"
LENGTH = "a frame length beyond its limit"
STREAM_ID = "a stream number out of range"
NEVER = "a frame for a stream that was never opened"
TWICE = "a stream was opened twice"
BAD_OPEN = "an open frame is malformed"
CREDIT = "data beyond its credit"
SHRUNK = "credit that shrinks or overflows"
OFFSET = "a frame at the wrong offset of its stream"
AFTER_END = "data after the end of its stream"
LOST = "frames were lost on the channel"
ACKED = "an acknowledgement of bytes that were never sent"
ANEW = "the other end started anew"

CRIMES: list[tuple[str, str, Crime]] = [
    ("garbage-between-frames", HEADER, lambda p: b"\xfe" * 4096),
    ("zeros-for-ever", HEADER, lambda p: bytes(1 << 16)),
    ("old-packet-type", HEADER, lambda p: b"\2" + bytes(1043)),
    ("wrong-check", HEADER, lambda p: with_byte(p.frame(wire.PONG), 12, 0)),
    ("reserved-flag", HEADER, session_frame(wire.PONG, flags=2)),
    ("reserved-bytes", HEADER, session_frame(wire.PONG, reserved=7)),
    ("frame-of-another-session", HEADER, lambda p: p.frame(wire.PONG)[:12] + bytes(12)),
    ("greeting-cut", HELLO, lambda p: joined(p, 0)[:700] + joined(p, 0)),
    ("greeting-changed", HELLO, lambda p: with_byte(joined(p, 0), 500, 9)),
    ("greeting-that-is-none", HELLO, lambda p: b"\1" * 2000),
    ("type-too-high", UNKNOWN, session_frame(0x1A)),
    ("type-too-low", UNKNOWN, session_frame(0x0F)),
    ("type-highest", UNKNOWN, session_frame(0xFF)),
    ("ping-with-payload", LENGTH, lambda p: p.frame(wire.PING, payload=b"x")),
    ("data-of-nothing", LENGTH, lambda p: opened(p) + data(p, b"")),
    ("data-too-long", LENGTH, lambda p: opened(p) + data(p, b"", length=p.theirs.max_frame + 1)),
    ("data-longest", LENGTH, lambda p: opened(p) + data(p, b"", length=0xFFFFFFFF)),
    ("open-of-nothing", LENGTH, lambda p: open_with(p, b"")),
    ("open-too-long", LENGTH, lambda p: open_with(p, b"x" * 164)),
    ("reset-with-payload", LENGTH, reset_with_payload),
    ("ping-of-a-stream", STREAM_ID, lambda p: p.frame(wire.PING, stream=1)),
    ("ack-by-an-opener", STREAM_ID, lambda p: p.frame(wire.ACK, mine=True)),
    ("open-in-our-space", STREAM_ID, lambda p: p.frame(wire.OPEN, number(0), 1, b"\1\1\0\0h")),
    ("slot-too-high", STREAM_ID, lambda p: opened(p, STREAMS)),
    ("slot-highest", STREAM_ID, lambda p: opened(p, (1 << 20) - 1)),
    ("generation-0", STREAM_ID, lambda p: p.open_frame(0, "hole", generation=0)),
    ("generation-skipped", STREAM_ID, lambda p: p.open_frame(0, "hole", generation=2)),
    ("data-for-nobody", NEVER, lambda p: data(p)),
    ("end-for-nobody", NEVER, lambda p: end_of_stream(p)),
    ("done-for-nobody", NEVER, lambda p: p.frame(wire.DONE, number(0), mine=True)),
    ("credit-for-nobody", NEVER, lambda p: p.frame(wire.CREDIT, number(0), 1 << 20, mine=True)),
    ("reset-for-nobody", NEVER, lambda p: p.frame(wire.RESET, number(0), 1, mine=True)),
    ("data-in-our-space", NEVER, lambda p: p.frame(wire.DATA, number(3), 0, b"x")),
    ("data-of-highest-number", NEVER, lambda p: p.frame(wire.DATA, 0xFFFFFFFF, 0, b"x", mine=True)),
    ("open-twice", TWICE, lambda p: opened(p) + opened(p)),
    ("open-twice-next", TWICE, lambda p: opened(p) + p.open_frame(0, "hole", generation=2)),
    ("priority-3", BAD_OPEN, lambda p: p.open_frame(0, "hole", priority=3)),
    ("no-service-name", BAD_OPEN, lambda p: open_with(p, b"\1\0\1\0x")),
    ("service-name-too-long", BAD_OPEN, lambda p: open_with(p, b"\1\x20\0\0" + b"s" * 32)),
    ("metadata-too-long", BAD_OPEN, lambda p: open_with(p, b"\1\1\x81\0" + b"s" * 130)),
    ("lengths-disagree", BAD_OPEN, lambda p: open_with(p, b"\1\4\5\0hole")),
    ("open-reserved-byte", BAD_OPEN, lambda p: open_with(p, b"\1\4\0\1hole")),
    ("open-credit-too-high", BAD_OPEN, lambda p: p.open_frame(0, "h", credit=TOO_MUCH)),
    ("credit-exceeded", CREDIT, more_than_granted),
    ("credit-shrunk", SHRUNK, of_stream(wire.CREDIT, 65535)),
    ("credit-zero", SHRUNK, of_stream(wire.CREDIT, 0)),
    ("credit-too-high", SHRUNK, of_stream(wire.CREDIT, TOO_MUCH)),
    ("credit-overflows", SHRUNK, of_stream(wire.CREDIT, 2**64 - 1)),
    ("data-at-wrong-offset", OFFSET, lambda p: opened(p) + data(p, b"x", 1)),
    ("data-at-huge-offset", OFFSET, lambda p: opened(p) + data(p, b"x", 2**64 - 1)),
    ("data-again", OFFSET, lambda p: opened(p) + data(p, b"x") + data(p, b"x")),
    ("end-at-wrong-offset", OFFSET, of_stream(wire.END, 1)),
    ("done-before-end", OFFSET, of_stream(wire.DONE, 0)),
    ("data-after-end", AFTER_END, lambda p: opened(p) + end_of_stream(p) + data(p)),
    ("end-twice", AFTER_END, lambda p: opened(p) + end_of_stream(p) + end_of_stream(p)),
    ("ping-that-counts-too-much", LOST, session_frame(wire.PING, 1)),
    ("ping-that-counts-wildly", LOST, session_frame(wire.PING, 2**64 - 1)),
    ("joined-with-other-frames", LOST, lambda p: joined(p, 5)),
    ("ack-of-the-future", ACKED, session_frame(wire.ACK, 1 << 40)),
    ("ack-of-everything", ACKED, session_frame(wire.ACK, 2**64 - 1)),
    ("new-epoch", ANEW, with_next_epoch),
]

RELIABLE_CRIMES: list[tuple[str, str, Crime]] = [
    ("reset-at-beyond-what-came", OFFSET, of_stream(wire.RESET_AT, 1)),
    ("reset-at-before-what-came", OFFSET, lambda p: opened(p) + data(p, b"xx") + reset_at(p, 1)),
    ("reset-at-for-nobody", NEVER, lambda p: reset_at(p, 0)),
    ("reset-at-with-payload", LENGTH, lambda p: opened(p) + reset_at(p, 0, payload=b"x")),
    ("data-after-reset-at", NEVER, lambda p: opened(p) + reset_at(p, 0) + data(p)),
    ("end-after-reset-at", NEVER, lambda p: opened(p) + reset_at(p, 0) + end_of_stream(p)),
    ("reset-at-after-end-elsewhere", OFFSET, lambda p: opened(p) + end_of_stream(p) + reset_at(p, 1)),
]

SEALED_CRIMES: list[tuple[str, str, Crime]] = [
    ("trailer-changed", TRAILER, lambda p: opened(p)[:-1] + b"\0"),
    ("payload-changed", TRAILER, lambda p: opened(p) + with_byte(data(p, b"x" * 99), 60, 0)),
    ("byte-missing", TRAILER, lambda p: opened(p) + data(p, b"x" * 99)[:-1] + p.frame(wire.PONG)),
    ("byte-doubled", HEADER, lambda p: opened(p) + b"\0" + p.frame(wire.PONG)),
    ("payload-short-then-ping", LOST, torn_then_ping),
]


class Court:
    """One daemon with a channel for each crime, and one for an honest peer with an open stream."""

    def __init__(self, scene: Scene, crimes: int, *more: str) -> None:
        self.channels = [scene.addresses.unix() for _ in range(crimes)]
        honest, self.door = scene.addresses.unix(), scene.addresses.tcp()
        hole = scene.addresses.unix()
        scene.serve("sink-never", hole)
        args: list[str] = ["--max-streams", str(STREAMS), "--memory", "1G", *more]
        for index, channel in enumerate(self.channels):
            args += ["-c", f"unix-listen:{channel.spec}:{index}", *into("hole", hole, index)]
        args += ["-c", f"unix-listen:{honest.spec}:{crimes}", *out("echo", self.door, crimes)]
        self.daemon = scene.daemon(*args, name="court", channels=(crimes,))
        far = ["-c", f"unix-connect:{honest.spec}", *into("echo", scene.echo_service())]
        self.honest = scene.daemon(*far, name="honest")
        wait_for_echo(self.door)
        self.client = self.door.connect()
        scene.cleanup(self.client.close)
        echo(self.client)

    def try_all(self, crimes: list[tuple[str, str, Crime]], **greeting) -> None:
        for index, (name, text, crime) in enumerate(crimes):
            with HostilePeer(self.channels[index]) as peer:
                peer.greet(**greeting)
                self.daemon.wait_up(index)
                try:
                    peer.send(crime(peer))
                except OSError:
                    pass  # Cut off before it had said everything.
                pattern = rf"channel {index}: down: {re.escape(text)}(; \d+ streams? (is|are) reset)?$"
                try:
                    self.daemon.wait_for_log(pattern)
                except AssertionError as error:
                    raise AssertionError(f"{name}: {error}") from None
            echo(self.client)

    def check_all_serve_on(self) -> None:
        """Every channel takes a peer again, which behaves."""
        for index, channel in enumerate(self.channels):
            eventually(f"channel {index} takes the next peer", lambda c=channel: takes(c))
        echo(self.client)
        echo_once(self.door)


def takes(channel: Address) -> bool:
    try:
        with HostilePeer(channel) as peer:
            peer.greet()
            peer.send(peer.open_frame(0, "no-such"))
            return peer.wait_for(wire.RESET, number(0)).argument == wire.UNKNOWN_SERVICE
    except (OSError, EOFError):
        return False


def test_every_session_fault_is_named_and_ends_one_session(scene: Scene) -> None:
    court = Court(scene, len(CRIMES))
    court.try_all(CRIMES)
    court.check_all_serve_on()


def test_the_faults_of_a_reset_that_follows_data_are_named(scene: Scene) -> None:
    court = Court(scene, len(RELIABLE_CRIMES))
    court.try_all(RELIABLE_CRIMES, supported=3 | wire.RELIABLE_RESET)
    court.check_all_serve_on()


def test_the_faults_that_trailers_find_are_named(scene: Scene) -> None:
    court = Court(scene, len(SEALED_CRIMES))
    court.try_all(SEALED_CRIMES, wanted=wire.CHECKSUM)
    echo(court.client)


class Scenes:
    """A daemon with services for one hostile peer on channel 0."""

    def __init__(self, scene: Scene, *args: str) -> None:
        self.channel, self.door = scene.addresses.unix(), scene.addresses.tcp()
        never, missing = scene.addresses.tcp(), scene.addresses.unix()
        scene.serve("never-accept", never)
        services = {"echo": scene.echo_service(), "never": never, "closed": scene.addresses.tcp()}
        offered = [arg for name, at in services.items() for arg in into(name, at)]
        listen = ["-c", f"unix-listen:{self.channel.spec}", *out("theirs", self.door)]
        self.daemon = scene.daemon(*listen, *offered, *into("missing", missing), *args)


def answer_to(peer: HostilePeer, slot: int, service: str, **how) -> int:
    peer.send(peer.open_frame(slot, service, **how))
    return peer.wait_for(wire.RESET, number(slot)).argument


def test_every_stream_fault_travels_as_its_code(scene: Scene) -> None:
    scenes = Scenes(scene, "--max-streams", "4", "--connect-timeout", "0.3")
    daemon = scenes.daemon
    with HostilePeer(scenes.channel) as peer:
        peer.greet()
        assert answer_to(peer, 0, "no-such") == wire.UNKNOWN_SERVICE
        assert answer_to(peer, 1, "closed") == wire.REFUSED
        assert answer_to(peer, 2, "missing") in (wire.UNREACHABLE, wire.REFUSED)
        assert answer_to(peer, 3, "never") == wire.TIMED_OUT
        for slot in range(4):
            peer.send(peer.frame(wire.RESET, number(slot), 1, mine=True))
        daemon.wait_at_rest()
        # OPENs that cross: the daemon's own streams have taken the room.
        with scenes.door.connect() as first, scenes.door.connect() as second:
            seen = [next(f for f in peer.frames() if f.kind == wire.OPEN) for _ in range(2)]
            for slot in range(4):
                peer.send(peer.open_frame(slot, "echo", generation=2))
            for slot in (2, 3):
                reset = peer.wait_for(wire.RESET, number(slot, 2))
                assert reset.argument == wire.TOO_MANY
                peer.send(peer.frame(wire.RESET, number(slot, 2), 1, mine=True))
            # Codes of RESET that nobody knows are those of an abort.
            for frame, code, client in zip(seen, (0, 2**64 - 1), (first, second), strict=True):
                peer.send(peer.frame(wire.RESET, frame.stream, code))
                expect_reset(client, 5)
        # One stream stays open, so that the daemon has something to wait for when it is told to go.
        daemon.expected_death = True
        daemon.send_signal(15)
        next(f for f in peer.frames() if f.kind == wire.GOING_AWAY)
        peer.send(peer.open_frame(2, "echo", generation=3))
        assert peer.wait_for(wire.RESET, number(2, 3)).argument == wire.GOING
        for slot in (0, 1):
            peer.send(peer.frame(wire.RESET, number(slot, 2), 1, mine=True))
            peer.wait_for(wire.RESET, number(slot, 2))
        daemon.check_exit()


def test_the_largest_sealed_frame_is_taken(scene: Scene) -> None:
    """It is kept until all of it is there, and who asks for the seal is the peer."""
    scenes = Scenes(scene)
    with HostilePeer(scenes.channel) as peer:
        peer.greet(wanted=wire.CHECKSUM)
        largest, limit, size = peer.theirs.max_frame, peer.theirs.window, 0
        said, heard, read = b"", b"", 0
        peer.send(peer.open_frame(0, "echo", credit=wire.MOST_WINDOW))
        while size < largest:
            size = min(limit - len(said), largest)
            piece = os.urandom(size)
            peer.send(peer.frame(wire.DATA, number(0), len(said), piece, mine=True))
            said += piece
            # What is taken in time brings more credit each time.
            while len(heard) < len(said) or limit == len(said):
                frame = next(peer.frames())
                read += wire.HEADER_SIZE + (len(frame.payload) + 8 if frame.payload else 0)
                peer.send(peer.frame(wire.ACK, 0, read))
                heard += frame.payload if frame.kind == wire.DATA else b""
                limit = frame.argument if frame.kind == wire.CREDIT else limit
                assert frame.kind != wire.RESET
        assert heard == said


def test_odd_but_lawful_words_are_borne(scene: Scene) -> None:
    """Everything here is allowed, and an echo on the same channel goes on through all of it."""
    scenes = Scenes(scene)
    with HostilePeer(scenes.channel) as peer:
        hello = {"supported": 2**64 - 1, "padding": os.urandom(500), "max_frame": 256, "window": 1}
        peer.greet(**hello)
        speaker = Speaker(peer)
        odd_metadata = (b"\1", b"\2\1\2", b"\x03" * 20, b"\xff" * 128, bytes(9), b"\x1b[2J\n")
        odd_name = b"\x1b]0;\xff\xc2\x9b31m\n"
        for slot, metadata in enumerate(odd_metadata, 1):
            opening = {"metadata": metadata, "priority": slot % 3}
            peer.send(peer.open_frame(slot, odd_name, **opening))
            assert peer.wait_for(wire.RESET, number(slot)).argument == wire.UNKNOWN_SERVICE
            peer.send(peer.frame(wire.RESET, number(slot), 77, mine=True))
            # A second one meets a stream that is over.
            peer.send(peer.frame(wire.RESET, number(slot), 1, mine=True))
            speaker.echo()
        peer.send(wire.replace(peer.mine, flags=wire.PROBE, epoch=77).encode())
        peer.send(peer.mine.encode())
        assert peer.read_hello().flags & wire.JOINED
        speaker.echo()
        peer.send(joined(peer, peer.frames_sent))
        peer.send(peer.frame(wire.PING, 0, peer.frames_sent))
        assert peer.wait_for(wire.PONG, 0).argument == peer.frames_sent - 1
        for _ in range(100):
            peer.send(peer.frame(wire.PONG, 0, 2**64 - 1) + peer.frame(wire.ACK, 0, 0))
        peer.send(speaker.raise_limit(wire.MOST_WINDOW))
        speaker.echo()
        # DATA and END for a stream that the daemon has reset were on their way: they are skipped.
        peer.send(
            peer.open_frame(30, "no-such")
            + peer.frame(wire.DATA, number(30), 0, b"x" * 5000, mine=True)
            + peer.frame(wire.CREDIT, number(30), 65536, mine=True)
            + peer.frame(wire.END, number(30), 5000, mine=True)
        )
        speaker.echo()
        peer.send(peer.frame(wire.GOING_AWAY) * 3)
        scenes.daemon.wait_for_log("the other end is going away")
        speaker.echo()
    scenes.daemon.wait_down()
    asks = [line for line in scenes.daemon.err.lines() if "asks for service" in line]
    assert asks and all(line.replace("…", "").isascii() for line in asks), asks


class Speaker:
    """An open stream to the echo service, spoken by hand and within its credit."""

    def __init__(self, peer: HostilePeer, slot: int = 0) -> None:
        self.peer = peer
        self.stream = number(slot)
        self.sent = self.received = 0
        self.limit = 65536
        peer.send(peer.open_frame(slot, "echo", credit=self.limit))

    def raise_limit(self, window: int) -> bytes:
        self.limit = self.received + window
        return self.peer.frame(wire.CREDIT, self.stream, self.limit, mine=True)

    def echo(self, text: bytes = b"is anybody there?") -> float:
        """Asks and waits for the whole answer; returns the seconds that took."""
        begin = time.monotonic()
        self.peer.send(self.peer.frame(wire.DATA, self.stream, self.sent, text, mine=True))
        self.sent += len(text)
        answer = b""
        while len(answer) < len(text):
            frame = self.peer.wait_for(wire.DATA, self.stream)
            assert frame.argument == self.received + len(answer)
            answer += frame.payload
        assert answer == text
        self.received += len(answer)
        if self.limit - self.received < 32768:
            self.peer.send(self.raise_limit(65536))
        return time.monotonic() - begin


@pytest.mark.parametrize("fields", [{"versions": (3, 9)}, {"versions": (0, 1)}])
def test_a_peer_of_another_version_is_told_and_borne(scene: Scene, fields: dict) -> None:
    scenes = Scenes(scene)
    with HostilePeer(scenes.channel) as peer:
        theirs = peer.read_hello()
        stranger = wire.replace(peer.mine, echo=theirs.epoch, **fields)
        for _ in range(50):
            peer.send(stranger.encode())
        scenes.daemon.wait_for_log("the ends share no protocol version")
        peer.theirs = theirs
        assert peer.read_hello().versions == (2, 2)
    assert takes(scenes.channel)
    told = [line for line in scenes.daemon.err.lines() if "no protocol version" in line]
    assert len(told) < 10, told


def test_garbage_before_the_greeting_is_skipped(scene: Scene) -> None:
    draw = random.Random(SEED)
    scenes = Scenes(scene)
    nearly = wire.PREFIX + bytes(1024) + wire.MAGIC  # all but the check
    with HostilePeer(scenes.channel) as peer:
        for piece in (b"\0", draw.randbytes(100_000), wire.PREFIX, nearly * 20, nearly[:1043]):
            peer.send(piece)
        peer.greet()
        Speaker(peer).echo()


def test_random_bytes_at_any_place_never_harm_the_daemon(scene: Scene) -> None:
    """Garbage in the middle of a conversation, at a place and of a length drawn from the seed."""
    draw = random.Random(SEED)
    court = Court(scene, 60)
    print(f"seed {SEED}")
    for channel in court.channels:
        with HostilePeer(channel) as peer:
            try:
                peer.greet(wanted=draw.randrange(4))
                talk = opened(peer) + data(peer, draw.randbytes(draw.randrange(1, 9000)))
                at = draw.randrange(len(talk))
                talk = talk[:at] + draw.randbytes(draw.randrange(1, 300)) + talk[at:]
                peer.send(talk + draw.randbytes(draw.randrange(1, 70_000)))
                peer.sock.shutdown(socket.SHUT_WR)
                peer.wait_gone()
            except (ConnectionError, EOFError):
                pass
        echo(court.client)
    court.check_all_serve_on()
