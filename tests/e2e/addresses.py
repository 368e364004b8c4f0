"""Addresses that are free: TCP ports outside the ephemeral range, unix paths, abstract names."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
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


class PortRange:
    """Numbers of ports that no other test process has, for as long as this one lives.

    A number is free between its choice and the bind of the daemon that it is for: two processes that chose
    from one range could meet there. The kernel lets go of the lock when the process ends, however it ends.
    """

    # Below every usual ip_local_port_range, so that no outgoing connection takes one meanwhile.
    FIRST, LAST, SIZE = 20000, 32000, 200

    def __init__(self) -> None:
        folder = Path(tempfile.gettempdir()) / f"virtproxy-test-ports-{os.getuid()}"
        folder.mkdir(exist_ok=True)
        starts = list(range(self.FIRST, self.LAST, self.SIZE))
        random.Random(os.getpid()).shuffle(starts)
        for first in starts:
            # No child inherits the lock: a daemon that outlives the test must not keep the range.
            self._lock = os.open(folder / str(first), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._lock)
                continue
            self._first, self._count = first, 0
            return
        raise AssertionError(f"{len(starts)} test processes have all ranges of ports")

    def next(self) -> int:
        """The numbers of the range in turns."""
        number = self._first + self._count
        self._count = (self._count + 1) % self.SIZE
        return number


class Addresses:
    """Hands out addresses that nobody uses yet; one number comes again after all others of its range."""

    _ports: PortRange | None = None

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._count = 0

    def number(self) -> int:
        """A number good for a port of any kind."""
        cls = type(self)
        if cls._ports is None:
            cls._ports = PortRange()
        return cls._ports.next()

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
