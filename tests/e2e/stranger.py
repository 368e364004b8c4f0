"""A client, or the other end of a channel, that speaks the protocol by hand (core/PROTOCOL.md)."""

from __future__ import annotations

import ctypes
import os
import socket
import struct

_XXHASH = ctypes.CDLL("libxxhash.so.0")
_XXHASH.XXH3_64bits_withSeed.restype = ctypes.c_uint64
_XXHASH.XXH3_64bits_withSeed.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]

OPEN, DATA, END, DONE, RESET, CREDIT = range(0x10, 0x16)
REFUSED, UNKNOWN_SERVICE = 2, 3
_HELLO_SIZE, _HEADER = 1044, struct.Struct("<BBHIIIQ")
_JOINED = 2


def _hash(data: bytes, seed: int = 0) -> int:
    return _XXHASH.XXH3_64bits_withSeed(data, len(data), seed)


def _hello(epoch: int, echo: int, flags: int = 0) -> bytes:
    head = struct.pack(
        "<IIQHHIQQQQIIIIQ",
        *(1, 0x32585056, 0x9D3F1BE2C45A7086, 2, 2, flags, 0, 0, epoch, echo),
        *(4096, 65536, 65536, 0, 0),
    ).ljust(1032, b"\0")
    return head + struct.pack("<QI", _hash(head), 0x1F374059)


class Stranger:
    """One session over a connected socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._streams = 0
        self._epoch = struct.unpack("<Q", os.urandom(8))[0] | 1
        sock.sendall(_hello(self._epoch, 0))
        while True:
            hello = self._read(_HELLO_SIZE)
            peer, echo = struct.unpack_from("<QQ", hello, 40)
            sock.sendall(_hello(self._epoch, peer, _JOINED if echo == self._epoch else 0))
            if echo == self._epoch:
                break
        self._key = _hash(struct.pack("<QQ", self._epoch, peer))

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self._sock.recv(count - len(data))
            if not piece:
                raise EOFError("the channel was closed")
            data += piece
        return data

    def _write(self, kind: int, flags: int, stream: int, argument: int, payload: bytes) -> None:
        bare = _HEADER.pack(kind, flags, 0, stream, len(payload), 0, argument)
        check = _hash(bare, self._key) & 0xFFFFFFFF
        self._sock.sendall(
            _HEADER.pack(kind, flags, 0, stream, len(payload), check, argument) + payload
        )

    def open(self, service: bytes) -> int:
        """Asks for a service; returns the stream."""
        stream = self._streams | 1 << 20
        self._streams += 1
        payload = bytes((1, len(service) & 0xFF, 0, 0)) + service
        self._write(OPEN, 1, stream, 65536, payload)
        return stream

    def send(self, stream: int, offset: int, data: bytes) -> None:
        self._write(DATA, 1, stream, offset, data)

    def frame(self) -> tuple[int, int, int, bytes]:
        """The next frame that is no greeting: type, stream, argument, payload."""
        while True:
            first = self._read(1)
            if first == b"\1":
                self._read(_HELLO_SIZE - 1)
                continue
            kind, _, _, stream, length, _, argument = _HEADER.unpack(first + self._read(23))
            return kind, stream, argument, self._read(length)

    def answer(self, stream: int) -> tuple[int, int | bytes]:
        """What becomes of a stream: (RESET, code) or (DATA, bytes)."""
        while True:
            kind, of, argument, payload = self.frame()
            if of == stream and kind == RESET:
                return kind, argument
            if of == stream and kind == DATA:
                return kind, payload
