"""Addresses that are free: TCP ports outside the ephemeral range, unix paths, abstract names."""

from __future__ import annotations

import os
import random
import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Address:
    """Where a listener is: kind is tcp (IPv4), tcp6, name (localhost), unix or abstract."""

    kind: str
    place: str
    port: int = 0

    @property
    def is_tcp(self) -> bool:
        return self.kind in ("tcp", "tcp6", "name")

    @property
    def spec(self) -> str:
        """ADDR:PORT as the daemon's command line takes it."""
        if not self.is_tcp:
            return f"{self.place}:-"
        return f"[{self.place}]:{self.port}" if self.kind == "tcp6" else f"{self.place}:{self.port}"

    @property
    def traffic(self) -> str:
        """The address as the traffic tool takes it."""
        return self.spec if self.is_tcp else self.place

    @property
    def _sockaddr(self) -> tuple[str, int] | str:
        if self.is_tcp:
            return ("127.0.0.1" if self.kind == "name" else self.place, self.port)
        return "\0" + self.place[1:] if self.kind == "abstract" else self.place

    def socket(self, timeout: float = 10) -> socket.socket:
        family = socket.AF_UNIX
        if self.is_tcp:
            family = socket.AF_INET6 if self.kind == "tcp6" else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.settimeout(timeout)
        return sock

    def connect(self, timeout: float = 10) -> socket.socket:
        sock = self.socket(timeout)
        try:
            sock.connect(self._sockaddr)
        except BaseException:
            sock.close()
            raise
        return sock

    def listen(self, backlog: int = 64) -> socket.socket:
        sock = self.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(self._sockaddr)
        sock.listen(backlog)
        return sock


class Addresses:
    """Hands out addresses that nobody uses yet; none is handed out twice."""

    # Below every usual ip_local_port_range, so that no outgoing connection takes one meanwhile.
    _FIRST, _LAST = 20000, 32000
    _next_port = random.Random(os.getpid()).randrange(_FIRST, _LAST)

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._count = 0

    def number(self) -> int:
        """A number good for a port of any kind, not handed out before."""
        cls = type(self)
        cls._next_port = cls._next_port + 1 if cls._next_port < cls._LAST else cls._FIRST
        return cls._next_port

    def _port(self, family: int, host: str) -> int:
        for _ in range(1000):
            port = self.number()
            with socket.socket(family, socket.SOCK_STREAM) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    sock.bind((host, port))
                    sock.listen(1)
                    return port
                except OSError:
                    continue
        raise AssertionError("no free TCP port")

    def tcp(self) -> Address:
        return Address("tcp", "127.0.0.1", self._port(socket.AF_INET, "127.0.0.1"))

    def tcp6(self) -> Address:
        return Address("tcp6", "::1", self._port(socket.AF_INET6, "::1"))

    def name(self) -> Address:
        return Address("name", "localhost", self._port(socket.AF_INET, "127.0.0.1"))

    def unix(self) -> Address:
        self._count += 1
        return Address("unix", str(self._directory / f"s{self._count}"))

    def abstract(self) -> Address:
        self._count += 1
        return Address("abstract", f"@{self._directory.name}-{self._count}")

    def of_kind(self, kind: str) -> Address:
        return getattr(self, kind)()
