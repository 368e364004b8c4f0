"""What several test files need on stage: services behind a pair, and small plays by hand."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import statistics
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from addresses import Address
from harness import BIN, PATIENCE, Daemon, Pair, Scene, into, out
from processes import Process, deadline_after

Doors = dict[str, Address]


def carry(
    scene: Scene,
    kind: str,
    services: dict[str, Address],
    door_kind: str = "tcp",
    near: tuple[str, ...] = (),
    far: tuple[str, ...] = (),
) -> tuple[Pair, Doors]:
    """A pair that carries the services; clients knock at the doors, on the near side."""
    doors = {name: scene.addresses.of_kind(door_kind) for name in services}
    near_args = [arg for name in services for arg in out(name, doors[name])]
    far_args = [arg for name, address in services.items() for arg in into(name, address)]
    pair = Pair(scene, kind, near=[*near_args, *near], far=[*far_args, *far])
    return pair, doors


def limit_ms(milliseconds: float) -> float:
    return milliseconds * PATIENCE


# Processor time of the work below on a machine where nothing was found slow.
KNOWN_WORK = 0.022


def slowness() -> float:
    """By how much this processor is slower now than the one that limits of work were found on; 1 at least.

    Machines that share a processor with others vary by a factor of two within hours. What a piece of work of the
    daemon or the kernel takes is held to a multiple of what a fixed one takes.
    """
    block = bytes(1 << 20)

    def work() -> float:
        begun = time.thread_time()
        for _ in range(20):
            hashlib.sha256(block).digest()
        sum(number * number for number in range(200_000))
        return time.thread_time() - begun

    return max(1.0, statistics.median(work() for _ in range(5)) / KNOWN_WORK)


def run_first(process: Process) -> None:
    """Lets the threads on the way of the echo run before all others: of a daemon, the worker alone."""
    for thread in Path(f"/proc/{process.pid}/task").iterdir():
        if isinstance(process, Daemon) and int(thread.name) == process.pid:
            continue
        try:
            os.sched_setscheduler(int(thread.name), os.SCHED_RR, os.sched_param(1))
        except ProcessLookupError:
            continue  # It has ended meanwhile.
        except PermissionError:
            return


def stolen_ms() -> list[float]:
    """How long the hypervisor has kept each processor of this machine from running what it had to run."""
    tick = 1000 / os.sysconf("SC_CLK_TCK")
    lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    return [int(line[8]) * tick for line in lines if re.fullmatch(r"cpu\d+", line[0])]


def most_stolen_ms(before: list[float]) -> float:
    """Of one processor, since stolen_ms() gave `before`."""
    return max(now - then for now, then in zip(stolen_ms(), before))


def comes_true(good: Callable[[], bool], timeout: float) -> bool:
    """Asks again and again until it is so, or there is no more time."""
    deadline = deadline_after(timeout * PATIENCE)
    while not good():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)
    return True


def eventually(what: str, good: Callable[[], bool], timeout: float = 15) -> None:
    assert comes_true(good, timeout), f"never came true: {what}"


def receive(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(min(count - len(data), 1 << 16))
        if not piece:
            raise EOFError(f"end of stream after {len(data)} of {count} bytes")
        data += piece
    return data


def receive_all(sock: socket.socket) -> bytes:
    pieces = []
    while piece := sock.recv(1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


def echo(sock: socket.socket, text: bytes = b"hello") -> None:
    """One question and its answer on an open echo stream."""
    sock.sendall(text)
    assert receive(sock, len(text)) == text


def echo_once(address: Address, timeout: float = 10) -> None:
    """A new connection, one answer, and the end in both directions."""
    with address.connect(timeout * PATIENCE) as sock:
        echo(sock)
        sock.shutdown(socket.SHUT_WR)
        assert receive_all(sock) == b""


def answers(address: Address) -> bool:
    """Whether the echo service can be reached at the moment."""
    try:
        echo_once(address, timeout=2)
    except (OSError, EOFError):
        return False
    return True


def wait_for_echo(address: Address, timeout: float = 20) -> None:
    eventually(f"an echo at {address.traffic}", lambda: answers(address), timeout)


def close_hard(sock: socket.socket) -> None:
    """Closes so that TCP sends RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def expect_reset(sock: socket.socket, within: float) -> float:
    """Reads until the reset, which must come in time; returns how long that took.

    A unix socket cannot always say "reset": there the end of the stream is right as well.
    """
    begin = time.monotonic()
    sock.settimeout(within * PATIENCE)
    try:
        while sock.recv(1 << 16):
            pass
    except (ConnectionResetError, BrokenPipeError):
        return time.monotonic() - begin
    except TimeoutError:
        raise AssertionError(f"no reset within {within * PATIENCE:g} s") from None
    assert sock.family == socket.AF_UNIX, "the stream ended normally, but a reset was due"
    return time.monotonic() - begin


def expect_client_reset(address: Address, within: float) -> float:
    """Connects and waits for the reset, which may be there before connect() returns."""
    begin = time.monotonic()
    try:
        client = address.connect(within * PATIENCE)
    except ConnectionResetError:
        return time.monotonic() - begin
    with client:
        expect_reset(client, within)
    return time.monotonic() - begin


def refused_or_reset(address: Address, within: float = 5) -> bool:
    """Whether a new client is turned away: refused, or reset without an answer."""
    try:
        with address.connect(within * PATIENCE) as sock:
            sock.sendall(b"?")
            return sock.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


class ListeningService:
    """A service played by hand: accept() gives the far end of what a client has opened."""

    def __init__(self, scene: Scene, kind: str = "tcp", backlog: int = 256) -> None:
        self.address = scene.addresses.of_kind(kind)
        self.listener = self.address.listen(backlog)
        scene.cleanup(self.listener.close)

    def accept(self, timeout: float = 10) -> socket.socket:
        self.listener.settimeout(timeout * PATIENCE)
        sock = self.listener.accept()[0]
        sock.settimeout(timeout * PATIENCE)
        return sock


class Controlled:
    """A daemon that can be asked."""

    def __init__(self, scene: Scene, name: str, *args: str, **options) -> None:
        self.path = scene.addresses.unix().place
        self.daemon: Daemon = scene.daemon(*args, "--control", self.path, name=name, **options)

    def ctl(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / "virtproxyctl", command[0], "--control", self.path, *command[1:]],
            capture_output=True, text=True, timeout=10 * PATIENCE, check=False,
        )

    def ask(self, *command: str):
        done = self.ctl(*command, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    def stall_of(self, service: str, reason: str) -> dict | None:
        """The longest one of the service for that reason."""
        rows = [row for row in self.ask("why") if row["service"] == service]
        return next((row for row in rows if row["waits_for"] == reason), None)
