"""A peer written from core/PROTOCOL.md alone: it greets well and then says whatever it is told to.

Nothing here keeps a rule: frames have right checks unless asked otherwise, and any contents.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import xxhash

from addresses import Address
from harness import PATIENCE

PREFIX = struct.pack("<IIQ", 1, 0x32585056, 0x9D3F1BE2C45A7086)
MAGIC = struct.pack("<I", 0x1F374059)
HELLO_SIZE = 1044
HEADER_SIZE = 24

OPEN, DATA, END, DONE, RESET, CREDIT, PING, PONG, GOING_AWAY, ACK, RESET_AT = range(0x10, 0x1B)

ABORTED, REFUSED, UNKNOWN_SERVICE, TIMED_OUT, UNREACHABLE, TOO_MANY, NO_RESOURCES, GOING = range(1, 9)

PROBE, JOINED = 1, 2
COMMIT, CHECKSUM, RELIABLE_RESET = 1, 2, 8
MOST_WINDOW = 1 << 30
MOST_OFFSET = 1 << 62


def xxh3(data: bytes, seed: int = 0) -> int:
    return xxhash.xxh3_64_intdigest(data, seed)


def number(slot: int, generation: int = 1) -> int:
    return slot | (generation & 0xFFF) << 20


@dataclass(frozen=True)
class Hello:
    epoch: int
    echo: int = 0
    versions: tuple[int, int] = (2, 2)
    flags: int = 0
    supported: int = 3
    wanted: int = 0
    max_streams: int = 4096
    window: int = 65536
    max_frame: int = 65536
    frames: int = 0
    padding: bytes = b""

    def encode(self) -> bytes:
        body = PREFIX + struct.pack(
            "<HHIQQQQIIIIQ",
            *self.versions,
            self.flags,
            self.supported,
            self.wanted,
            self.epoch,
            self.echo,
            self.max_streams,
            self.window,
            self.max_frame,
            0,
            self.frames,
        )
        body = (body + self.padding).ljust(1032, b"\0")
        return body + struct.pack("<Q", xxh3(body)) + MAGIC

    @staticmethod
    def decode(data: bytes) -> Hello:
        assert data[:16] == PREFIX and data[1040:] == MAGIC, "this is no greeting"
        assert xxh3(data[:1032]) == struct.unpack_from("<Q", data, 1032)[0], "its check is wrong"
        low, high, flags, supported, wanted, epoch, echo, streams, window, frame, _, frames = (
            struct.unpack_from("<HHIQQQQIIIIQ", data, 16)
        )
        return Hello(
            epoch, echo, (low, high), flags, supported, wanted, streams, window, frame, frames
        )


@dataclass(frozen=True)
class Frame:
    kind: int
    stream: int
    by_sender: bool
    argument: int
    payload: bytes = field(repr=False, default=b"")


class HostilePeer:
    """One connection to a channel of the daemon under attack: made here, or by the daemon."""

    def __init__(self, channel: Address | socket.socket, timeout: float = 10) -> None:
        made = isinstance(channel, socket.socket)
        self.sock = channel if made else channel.connect(timeout * PATIENCE)
        self.sock.settimeout(timeout * PATIENCE)
        self.mine = Hello(int.from_bytes(os.urandom(8), "little") | 1)
        self.theirs = Hello(0)
        self.frames_sent = 0
        self._inbox = b""
        self._send_key = self._receive_key = 0
        self._sealed = 0

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> HostilePeer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- greetings ---------------------------------------------------------------------------

    def greet(self, **fields) -> HostilePeer:
        """Section 4, the short way: answers the first greeting and is established by the next."""
        self.mine = replace(self.mine, **fields)
        self.theirs = self.read_hello()
        self.mine = replace(self.mine, echo=self.theirs.epoch)
        self.send(self.mine.encode())
        while self.theirs.echo != self.mine.epoch:
            self.theirs = self.read_hello()
        pair = (self.mine.epoch, self.theirs.epoch)
        self._send_key = xxh3(struct.pack("<QQ", *pair))
        self._receive_key = xxh3(struct.pack("<QQ", *reversed(pair)))
        self._sealed = (self.mine.wanted | self.theirs.wanted) & self.mine.supported & 3
        self.frames_sent = 0
        return self

    def read_hello(self) -> Hello:
        return Hello.decode(self._take(HELLO_SIZE))

    # --- writing -----------------------------------------------------------------------------

    def frame(
        self,
        kind: int,
        stream: int = 0,
        argument: int = 0,
        payload: bytes = b"",
        mine: bool = False,
        length: int | None = None,
        flags: int = 0,
        reserved: int = 0,
    ) -> bytes:
        """A frame with a right check; `length` lies about the payload."""
        size = len(payload) if length is None else length
        flags |= int(mine)
        bare = struct.pack("<BBHIIIQ", kind, flags, reserved, stream, size, 0, argument)
        check = xxh3(bare, self._send_key) & 0xFFFFFFFF
        header = bare[:12] + struct.pack("<I", check) + bare[16:]
        self.frames_sent += 1
        if not (payload and self._sealed):
            return header + payload
        covered = header + payload if self._sealed & CHECKSUM else header
        return header + payload + struct.pack("<Q", xxh3(covered, self._send_key ^ (2**64 - 1)))

    def open_frame(
        self,
        slot: int,
        service: str | bytes,
        generation: int = 1,
        credit: int = 65536,
        priority: int = 1,
        metadata: bytes = b"",
    ) -> bytes:
        name = service.encode() if isinstance(service, str) else service
        payload = struct.pack("<BBBB", priority, len(name), len(metadata), 0) + name + metadata
        return self.frame(OPEN, number(slot, generation), credit, payload, mine=True)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def send_what_goes(self, data: bytes, until: float) -> int:
        """Sends for as long as the daemon takes it, and drops what comes; returns how much went."""
        sent = 0
        view = memoryview(data)
        timeout = self.sock.gettimeout()
        self.sock.setblocking(False)
        while sent < len(data) and time.monotonic() < until:
            self._drop()
            try:
                sent += self.sock.send(view[sent : sent + (1 << 18)])
            except BlockingIOError:
                select.select([self.sock], [self.sock], [], 0.1)
        self.sock.settimeout(timeout)
        return sent

    # --- reading -----------------------------------------------------------------------------

    def _take(self, size: int) -> bytes:
        while len(self._inbox) < size:
            piece = self.sock.recv(1 << 18)
            if not piece:
                raise EOFError("the daemon closed the channel")
            self._inbox += piece
        taken, self._inbox = self._inbox[:size], self._inbox[size:]
        return taken

    def read(self) -> Frame | Hello:
        first = self._take(1)
        if first == b"\1":
            return Hello.decode(first + self._take(HELLO_SIZE - 1))
        header = first + self._take(HEADER_SIZE - 1)
        kind, flags, _, stream, length, check, argument = struct.unpack("<BBHIIIQ", header)
        bare = header[:12] + b"\0\0\0\0" + header[16:]
        assert xxh3(bare, self._receive_key) & 0xFFFFFFFF == check, "a header of another session"
        payload = self._take(length)
        if self._sealed and length:
            self._take(8)
        return Frame(kind, stream, flags == 1, argument, payload)

    def frames(self) -> Iterator[Frame]:
        while True:
            one = self.read()
            if isinstance(one, Frame):
                yield one

    def wait_for(self, kind: int, stream: int) -> Frame:
        return next(one for one in self.frames() if (one.kind, one.stream) == (kind, stream))

    def drop_input(self) -> None:
        """Throws away what has arrived."""
        timeout = self.sock.gettimeout()
        self.sock.setblocking(False)
        self._drop()
        self.sock.settimeout(timeout)

    def _drop(self) -> None:
        self._inbox = b""
        try:
            while self.sock.recv(1 << 18):
                pass
        except BlockingIOError:
            return
        raise EOFError("the daemon closed the channel")

    def wait_gone(self) -> None:
        """Until the daemon has closed this connection."""
        try:
            while self.sock.recv(1 << 18):
                pass
        except ConnectionError:
            pass
