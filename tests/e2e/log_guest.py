"""A guest that ships logs, written from core/logs/PROTOCOL.md alone, over a HostilePeer.

It keeps what is not acknowledged, as a guest has to, and sends it again on the next stream.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

import xxhash

from hostile_peer import ABORTED, ACK, CREDIT, DATA, END, PING, PONG, RESET, HostilePeer, number

SERVICE = "virtproxy.log"
HELLO, STATE, WANT, ACKED, REJECT = range(1, 6)
NEWEST, OLDEST, RATE, TOO_LARGE, KERNEL, CORRUPT, REJECTED, SHUTDOWN = range(8)
BASE = 1_700_000_000_000_000_000


def xxh3(data: bytes, seed: int = 0) -> int:
    return xxhash.xxh3_64_intdigest(data, seed)


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def record(kind: int, rest: bytes, time: int = 0) -> bytes:
    body = bytes([kind]) + varint(time << 1) + rest
    return varint(len(body)) + body


def line(text: bytes) -> bytes:
    return record(0, text)


def drop(reason: int, count: int, size: int) -> bytes:
    return record(2, bytes([reason]) + varint(count) + varint(size) + varint(0))


def message(kind: int, count: int, body: bytes) -> bytes:
    head = struct.pack("<IIHHI", 0x31434C56, len(body), kind, count, 0) + body
    return head + struct.pack("<Q", xxh3(head))


def mark(seq: int = 0, size: int = 0) -> bytes:
    return struct.pack("<QQ", seq, size)


def hello(log: bytes, position: int = 0, sources: Iterable[tuple[str, bytes, bytes]] = ()) -> bytes:
    """Of each source its name and the marks acked and start."""
    all_of = list(sources) or [("dev-log", mark(), mark())]
    body = struct.pack("<HHI", 1, 0, 0) + log + bytes(16) + struct.pack("<Q", position)
    for name, acked, start in all_of:
        encoded = name.encode()
        body += acked + start + bytes([len(encoded)]) + encoded.ljust(39, b"\0")
    return message(HELLO, len(all_of), body)


def state(log: bytes, marks: list[bytes], final: bool = True) -> bytes:
    return message(STATE, len(marks), log[:8] + struct.pack("<II", int(final), 0) + b"".join(marks))


def batch(
    log: bytes, position: int, first: tuple[int, int], records: list[bytes], source: int = 0,
    floating: bool = False,
) -> bytes:
    body = b"".join(records)
    head = struct.pack(
        "<IIHHI8sQQQQ", 0x31424C56, len(body), source, int(floating), len(records), log[:8],
        position, *first, BASE,
    )
    check = xxh3(body, xxh3(head, xxh3(log)))
    return head + struct.pack("<Q", check) + body


@dataclass
class Log:
    """A log of one source: what was numbered, and batches that are not acknowledged."""

    id: bytes = field(default_factory=lambda: os.urandom(16))
    next: tuple[int, int] = (0, 0)
    position: int = 0
    acked: int = 0  # a position
    kept: list[tuple[int, bytes]] = field(default_factory=list)  # position behind it, bytes
    starts: dict[int, tuple[int, int]] = field(default_factory=dict)  # marks, by that position
    finished: bool = False

    def add(self, lines: list[bytes]) -> bytes:
        data = batch(self.id, self.position, self.next, [line(text) for text in lines])
        self.starts[self.position + len(data)] = self.next
        self.next = (self.next[0] + len(lines), self.next[1] + sum(map(len, lines)))
        self.position += len(data)
        self.kept.append((self.position, data))
        return data


class LogGuest:
    """One session with a collecting daemon. `slot` names the stream; it has one at a time."""

    def __init__(self, peer: HostilePeer) -> None:
        self.peer = peer.greet(window=1 << 20, max_frame=65536)
        self.generation = 0
        self.stream = 0
        self.credit = 0  # what may be sent in all
        self.sent = 0
        self.granted = 0
        self.taken = 0
        self.read = self.told = 0  # bytes of frames, and what the daemon knows of it
        self.input = b""
        self.reset: int | None = None
        self.left = False  # this end has reset the stream

    def open(self) -> None:
        self.generation += 1
        self.stream = number(0, self.generation)
        self.credit, self.sent, self.taken, self.input, self.reset = self.peer.theirs.window, 0, 0, b"", None
        self.left = False
        self.granted = 1 << 20
        self.peer.send(self.peer.open_frame(0, SERVICE, self.generation, credit=self.granted))

    def pump(self) -> None:
        """Deals with one frame."""
        frame = next(self.peer.frames())
        self.read += 24 + len(frame.payload)
        if self.read - self.told >= 1 << 16:
            self.told = self.read
            self.peer.send(self.peer.frame(ACK, 0, self.read))
        if frame.kind == PING:
            self.peer.send(self.peer.frame(PONG, 0, frame.argument))
        if frame.kind not in (DATA, CREDIT, RESET, END) or frame.stream != self.stream or frame.by_sender:
            return
        if frame.kind == CREDIT:
            self.credit = max(self.credit, frame.argument)
        elif frame.kind == RESET:
            self.reset = frame.argument
            self.leave(frame.argument)
        elif frame.kind == END:
            self.leave(ABORTED)
        elif frame.kind == DATA:
            self.input += frame.payload
            self.taken += len(frame.payload)
            if self.granted - self.taken < 1 << 19:
                self.granted += 1 << 20
                self.peer.send(
                    self.peer.frame(CREDIT, self.stream, self.granted, mine=True))

    def leave(self, code: int) -> None:
        if not self.left:
            self.peer.send(self.peer.frame(RESET, self.stream, code, mine=True))
        self.left = True

    def send(self, data: bytes) -> bool:
        """False if the stream was reset meanwhile."""
        while data:
            if self.reset is not None:
                return False
            room = min(self.credit - self.sent, 65536, len(data))
            if room <= 0:
                self.pump()
                continue
            piece, data = data[:room], data[room:]
            self.peer.send(self.peer.frame(DATA, self.stream, self.sent, piece, mine=True))
            self.sent += room
        return True

    def message(self) -> tuple[int, bytes] | None:
        """The next message of the collector, or None when the stream was reset."""
        while True:
            if len(self.input) >= 16:
                _, length, kind, _, _ = struct.unpack_from("<IIHHI", self.input)
                if len(self.input) >= 24 + length:
                    whole, self.input = self.input[: 24 + length], self.input[24 + length :]
                    assert xxh3(whole[:-8]) == struct.unpack("<Q", whole[-8:])[0]
                    return kind, whole[16:-8]
            if self.reset is not None:
                return None
            self.pump()

    # --- an honest sender ----------------------------------------------------------------------

    def begin(self, log: Log) -> bool:
        """Opens a stream, and sends what the collector does not have yet."""
        self.open()
        start = log.kept[0][0] - len(log.kept[0][1]) if log.kept else log.position
        acked = mark(*log.starts[log.kept[0][0]] if log.kept else log.next)
        if not self.send(hello(log.id, start, [("dev-log", acked, acked)])):
            return False
        answer = self.message()
        if answer is None:
            return False
        assert answer[0] == WANT, answer
        flags, _, position = struct.unpack_from("<IIQ", answer[1], 8)
        wanted = position if flags & 1 else start
        return all(self.send(data) for end, data in list(log.kept) if end > wanted)

    def wait_acked(self, log: Log, position: int | None = None) -> bool:
        position = log.position if position is None else position
        while log.acked < position:
            answer = self.message()
            if answer is None:
                return False
            if answer[0] != ACKED:
                continue
            acked, _, flags = struct.unpack_from("<QII", answer[1], 8)
            log.acked = max(log.acked, acked)
            log.finished |= bool(flags & 1)
            log.kept = [(end, data) for end, data in log.kept if end > log.acked]
        return True
