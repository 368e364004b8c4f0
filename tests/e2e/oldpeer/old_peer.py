"""Runs the old peer in a test: processes, pairs of them, and a serial line made of two ptys."""

from __future__ import annotations

import os
import platform
import pty
import re
import select
import socket
import threading
import time
import tty
from collections.abc import Sequence
from pathlib import Path

from addresses import Address
from harness import BIN, PATIENCE, Scene
from old_wire import Wire
from processes import Process, deadline_after

KINDS = ("unix", "tcp", "pty")
_SYSCALLS = {"x86_64": {"write": 1, "connect": 42}, "aarch64": {"write": 64, "connect": 203}}


class OldPeer(Process):
    """One virtproxy-oldpeer process."""

    def __init__(self, args: Sequence[str | Path], name: str) -> None:
        super().__init__([BIN / "virtproxy-oldpeer", *args], name)

    def wait_log(self, pattern: str, timeout: float = 10, since: int = 0) -> re.Match[str]:
        return self.err.wait_for(pattern, timeout * PATIENCE, since)

    def mark(self) -> int:
        return self.err.count()

    def wait_ready(self) -> None:
        self.wait_log("^ready$")

    def wait_up(self, since: int = 0) -> None:
        self.wait_log("^channel up$", since=since)

    def wait_lost(self, since: int = 0) -> None:
        self.wait_log("^channel lost$", since=since)

    def packets(self) -> list[str]:
        """The lines of --log about packets."""
        return [line for line in self.err.lines() if line.startswith(("sent ", "received "))]

    def blocked_in(self, call: str) -> int | None:
        """The descriptor it waits for in a write or connect at the moment, or None."""
        words = Path(f"/proc/{self.pid}/syscall").read_text(encoding="ascii").split()
        if words[0] != str(_SYSCALLS[platform.machine()][call]):
            return None
        return int(words[1], 16)

    def wait_blocked_in(self, call: str, timeout: float = 30) -> int:
        """Waits until it has been seen in the call on one descriptor 20 times in a row."""
        deadline = deadline_after(timeout * PATIENCE)
        seen: list[int | None] = []
        while len(seen) < 20 or seen[-1] is None or len(set(seen[-20:])) != 1:
            assert time.monotonic() < deadline, f"{self.name} never blocked in {call}"
            time.sleep(0.02)
            seen.append(self.blocked_in(call))
        assert seen[-1] is not None
        return seen[-1]

    def descriptors(self) -> set[int]:
        """Those that the process has open."""
        return {int(name) for name in os.listdir(f"/proc/{self.pid}/fd")}

    def descriptor(self, number: int) -> str:
        """What a descriptor of the process is."""
        return os.readlink(f"/proc/{self.pid}/fd/{number}")


def start(scene: Scene, *args: str | Path, name: str = "old", log: bool = True) -> OldPeer:
    """Starts an old peer, with a log line for each packet if asked, and waits until it listens."""
    peer = OldPeer([*(["--log"] if log else []), *args], name)
    scene.processes.append(peer)
    peer.wait_ready()
    return peer


def channel(kind: str, address: Address) -> str:
    """The -c argument: kind is listen, connect or open."""
    if kind == "open":
        return f"virtserial-open:{address.place}:-"
    return f"{'tcp' if address.is_tcp else 'unix'}-{kind}:{address.spec}"


class SerialLine:
    """Two ptys joined back to back; both users open a path, and neither learns that one leaves."""

    _PIPE = 64 * 1024

    def __init__(self, scene: Scene) -> None:
        self._masters: list[int] = []
        self._slaves: list[int] = []
        self.ports: list[Address] = []
        for _ in (0, 1):
            master, slave = pty.openpty()
            tty.setraw(slave)
            os.set_blocking(master, False)
            self._masters.append(master)
            self._slaves.append(slave)
            self.ports.append(Address("unix", os.ttyname(slave)))
        self._wake = os.pipe()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        scene.cleanup_last(self.close)

    def close(self) -> None:
        os.close(self._wake[1])
        self._thread.join(10)
        for fd in (*self._masters, *self._slaves, self._wake[0]):
            os.close(fd)

    def _run(self) -> None:
        pipes = [bytearray(), bytearray()]  # Indexed by the port that will read them.
        while True:
            readers = [self._masters[i] for i in (0, 1) if len(pipes[1 - i]) < self._PIPE]
            writers = [self._masters[i] for i in (0, 1) if pipes[i]]
            readable, writable, _ = select.select([*readers, self._wake[0]], writers, [])
            if self._wake[0] in readable:
                return
            for port, master in enumerate(self._masters):
                if master in readable:
                    pipes[1 - port] += os.read(master, 1 << 16)
                if master in writable:
                    try:
                        del pipes[port][: os.write(master, pipes[port][:4096])]
                    except BlockingIOError:
                        pass


def start_pair(
    scene: Scene, kind: str, near: Sequence[str], far: Sequence[str], log: bool = True
) -> tuple[OldPeer, OldPeer]:
    """Two old peers over a channel that is up; over a socket `near` listens."""
    if kind == "pty":
        ports = SerialLine(scene).ports
        specs = [channel("open", port) for port in ports]
    else:
        address = scene.addresses.of_kind(kind)
        specs = [channel("listen", address), channel("connect", address)]
    first = start(scene, "-c", specs[0], *near, name="old near", log=log)
    second = start(scene, "-c", specs[1], *far, name="old far", log=log)
    first.wait_up()
    second.wait_up()
    return first, second


def start_scripted(scene: Scene, *args: str, kind: str = "unix") -> tuple[OldPeer, Wire, Address]:
    """An old peer that listens, with the test itself on the other end of its channel."""
    address = scene.addresses.of_kind(kind)
    peer = start(scene, "-c", channel("listen", address), *args)
    return peer, connect_to(scene, peer, address), address


def connect_to(scene: Scene, peer: OldPeer, address: Address) -> Wire:
    """The next channel of a listening old peer."""
    mark = peer.mark()
    wire = Wire(address.connect(10 * PATIENCE))
    scene.cleanup(wire.close)
    peer.wait_up(since=mark)
    return wire


def silent(sock: socket.socket) -> bool:
    """Whether nothing has arrived yet; ask after something later on the channel was answered."""
    sock.setblocking(False)
    try:
        sock.recv(1)
    except BlockingIOError:
        return True
    finally:
        sock.settimeout(10 * PATIENCE)
    return False
