"""Things that stand between two daemons: a relay that cuts or spoils, and a character device."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable

from addresses import Address

TO_TARGET, TO_CLIENT = 0, 1


def _shut(*socks: socket.socket) -> None:
    for sock in socks:
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


class Relay:
    """Carries connections to a target; can cut one, or flip a bit, at an exact byte.

    `spoil` may change whatever is carried; `delay` are seconds that each piece takes.
    """

    def __init__(self, address: Address, target: Address) -> None:
        self._target = target
        self._listener = address.listen()
        self._lock = threading.Lock()
        self._connections: list[tuple[socket.socket, socket.socket]] = []
        self._cut: dict[int, int] = {}
        self._flip: dict[int, int] = {}
        self._stopped = False
        self._life = 0  # Leftovers of a connection that was cut do not count.
        self.accepted = 0
        self.cuts = 0
        self.spoil: Callable[[bytes], bytes] | None = None
        self.delay = 0.0
        self._listener.settimeout(0.2)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def cut_after(self, direction: int, count: int) -> None:
        """Cuts the connection after that many more bytes in the direction; the next is whole."""
        with self._lock:
            self._cut = {direction: count}

    def flip_after(self, direction: int, count: int) -> None:
        """Changes one bit of the byte that comes after that many more bytes in the direction."""
        with self._lock:
            self._flip = {direction: count}

    def cut_now(self, then: tuple[int, int] | None = None) -> None:
        """Cuts what is there; with `then`, as cut_after does, also what comes next."""
        with self._lock:
            self.cuts += 1
            self._life += 1
            self._cut = {then[0]: then[1]} if then else {}
            for pair in self._connections:
                _shut(*pair)
            self._connections.clear()

    def close(self) -> None:
        self._stopped = True
        self._thread.join(5)
        self._listener.close()
        self.cut_now()

    def _accept(self) -> None:
        while not self._stopped:
            try:
                client = self._listener.accept()[0]
            except TimeoutError:
                continue
            except OSError:
                return
            try:
                target = self._target.connect()
            except OSError:
                client.close()
                continue
            client.settimeout(None)
            target.settimeout(None)
            with self._lock:
                self.accepted += 1
                self._connections.append((client, target))
                life = self._life
            ways = ((TO_TARGET, client, target, life), (TO_CLIENT, target, client, life))
            for args in ways:
                threading.Thread(target=self._pump, args=args, daemon=True).start()

    def _alter(self, direction: int, data: bytes, life: int) -> tuple[bytes, bool]:
        """What is left of the data, and whether the cut comes after it."""
        if life != self._life:
            return data, False
        if direction in self._flip:
            at = self._flip[direction]
            self._flip[direction] = at - len(data)
            if at < len(data):
                data = data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]
                del self._flip[direction]
        if direction not in self._cut:
            return data, False
        left = self._cut[direction]
        if left > len(data):
            self._cut[direction] = left - len(data)
            return data, False
        del self._cut[direction]
        self.cuts += 1
        self._life += 1
        return data[:left], True

    def _pump(
        self, direction: int, source: socket.socket, sink: socket.socket, life: int
    ) -> None:
        try:
            while data := source.recv(1 << 16):
                with self._lock:
                    data, cut = self._alter(direction, data, life)
                if self.spoil:
                    data = self.spoil(data)
                if self.delay:
                    time.sleep(self.delay)
                sink.sendall(data)
                if cut:
                    _shut(source, sink)
                    return
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            _shut(source, sink)


class CharacterDevice:
    """Two ports joined back to back, as a serial line is. What a user had written when it went is
    read to its end first, as an emulator does.

    Neither port learns when the user of the other one leaves: bytes for an absent user stay in the
    pipe and are the first thing that the next user reads.
    """

    PIPE = 256 * 1024

    def __init__(self, ports: tuple[Address, Address]) -> None:
        self._listeners = [port.listen() for port in ports]
        self._users: list[socket.socket | None] = [None, None]
        self._pipes = [bytearray(), bytearray()]  # Indexed by the port that will read them.
        self._takes = [True, True]  # Whether the user can still be written to.
        self._stopped = False
        self.arrivals = [0, 0]
        self.stale_bytes = [0, 0]  # What each port's new users found in the pipe, in total.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopped = True
        self._thread.join(5)
        for sock in (*self._listeners, *self._users):
            if sock is not None:
                sock.close()

    def _run(self) -> None:
        while not self._stopped:
            readers: list[socket.socket] = list(self._listeners)
            writers: list[socket.socket] = []
            for port, user in enumerate(self._users):
                if user is None:
                    continue
                if len(self._pipes[1 - port]) < self.PIPE:
                    readers.append(user)
                if self._pipes[port] and self._takes[port]:
                    writers.append(user)
            readable, writable, _ = select.select(readers, writers, [], 0.2)
            for port in (0, 1):
                user = self._users[port]
                if user is not None and user in readable:
                    self._read(port, user)
                if self._users[port] is not None and user in writable:
                    self._write(port, user)
                if self._listeners[port] in readable:
                    self._arrive(port)

    def _arrive(self, port: int) -> None:
        while (old := self._users[port]) is not None:
            if not select.select([old], [], [], 0.2)[0]:
                old.close()
                break
            self._read(port, old)
        user = self._listeners[port].accept()[0]
        user.setblocking(False)
        # Small, so that most of what its user has not read yet stays in the pipe.
        user.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        self._users[port] = user
        self._takes[port] = True
        self.arrivals[port] += 1
        self.stale_bytes[port] += len(self._pipes[port])

    def _read(self, port: int, user: socket.socket) -> None:
        try:
            data = user.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._pipes[1 - port] += data
        else:
            user.close()
            self._users[port] = None

    def _write(self, port: int, user: socket.socket) -> None:
        try:
            count = user.send(self._pipes[port][:32768])
            del self._pipes[port][:count]
        except BlockingIOError:
            pass
        except OSError:
            self._takes[port] = False  # What it wrote before is still to be read.
