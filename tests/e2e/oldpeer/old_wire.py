"""The format of 2010 by literal offsets; shares code with nothing."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

SIZE = 1044
MAGIC = b"\x59\x40\x37\x1f"
CONTROL, CLIENT, SERVER = 1, 2, 3
INIT, ACK, CLOSE = 1, 2, 3


@dataclass
class Packet:
    """One decoded packet; what a type does not have stays None."""

    type: int
    message: int | None = None
    client: int | None = None
    server: int | None = None
    service: str | None = None
    data: bytes | None = None


def _number(packet: bytes, offset: int) -> int:
    return struct.unpack_from("<i", packet, offset)[0]


def decode(packet: bytes) -> Packet:
    """Decodes strictly: magic, field ranges, and zeros wherever nothing is."""
    assert len(packet) == SIZE
    assert packet[1040:1044] == MAGIC, packet[1040:1044]
    kind = _number(packet, 0)
    if kind == CONTROL:
        message, client = _number(packet, 4), _number(packet, 8)
        if message == INIT:
            assert packet[43] == 0 and not any(packet[44:1040])
            service = packet[12:44].rstrip(b"\0")
            assert b"\0" not in service
            return Packet(kind, INIT, client, service=service.decode())
        assert message in (ACK, CLOSE), message
        assert not any(packet[16:1040])
        return Packet(kind, message, client, _number(packet, 12))
    assert kind in (CLIENT, SERVER), kind
    count = _number(packet, 12)
    assert 1 <= count <= 1024, count
    assert not any(packet[16 + count : 1040])
    data = packet[16 : 16 + count]
    return Packet(kind, client=_number(packet, 4), server=_number(packet, 8), data=data)


def _packet(kind: int, payload: bytes) -> bytes:
    return struct.pack("<i", kind) + payload.ljust(1036, b"\0") + MAGIC


def init(client: int, service: str) -> bytes:
    return _packet(CONTROL, struct.pack("<ii", INIT, client) + service.encode())


def control(message: int, client: int, server: int) -> bytes:
    return _packet(CONTROL, struct.pack("<iii", message, client, server))


def ack(client: int, server: int) -> bytes:
    return control(ACK, client, server)


def close(client: int, server: int) -> bytes:
    return control(CLOSE, client, server)


def data(kind: int, client: int, server: int, content: bytes) -> bytes:
    return _packet(kind, struct.pack("<iii", client, server, len(content)) + content)


class Wire:
    """The other end of a channel, played by hand over a socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def send(self, *packets: bytes) -> None:
        self.sock.sendall(b"".join(packets))

    def raw(self, count: int = SIZE) -> bytes:
        got = b""
        while len(got) < count:
            piece = self.sock.recv(count - len(got))
            if not piece:
                raise EOFError(f"the channel ended after {len(got)} of {count} bytes")
            got += piece
        return got

    def next(self) -> Packet:
        return decode(self.raw())

    def ended(self) -> bool:
        """Whether the other end closes without another byte."""
        return self.sock.recv(1) == b""

    def close(self) -> None:
        self.sock.close()
