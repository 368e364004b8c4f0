"""No wake-up of a virtio-serial port is missed for long: many small writes each way.

virtio-serial is known to lose wake-ups where QEMU has one processor and the guest two. Then a reader
or a writer of the port waits although there are bytes or room, until something looks again.

VIRTPROXY_WAKEUPS=N: as many writes each way instead of 2,000, and N lines over the bare port, whose
writer nothing wakes, for comparison.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from addresses import Address
from harness import PATIENCE, Scene, scaled
from stage import wait_for_echo

from .line import ECHO, Line, guest_with_services
from .machine import Guest

WRITES = int(os.environ.get("VIRTPROXY_WAKEUPS") or scaled(2_000, 200))
LONG = "VIRTPROXY_WAKEUPS" in os.environ
# A request is made anew after 0.25 to 0.5 s; the emulated processors share one with each other.
LONGEST_WAIT = 3.0
HUNG = 20.0


@pytest.fixture(scope="module", name="guest", params=["on", "off"])
def fixture_guest(request: pytest.FixtureRequest,
                  tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    folder = tmp_path_factory.mktemp("g")
    ports = {name: folder / f"{name}.sock" for name in ("line", "bare")}
    with guest_with_services(folder, [], virtio_ports=ports, cpus=2,
                             controller=f"ioeventfd={request.param}") as guest:
        guest.pin(min(os.sched_getaffinity(0)))
        yield guest


@pytest.fixture(name="line")
def fixture_line(scene: Scene, guest: Guest) -> Iterator[Line]:
    line = Line(scene, guest, f"unix-connect:{guest.virtio_ports['line']}:-",
                "virtio-serial:/dev/virtio-ports/line:-", {"echo": ECHO})
    wait_for_echo(line.doors["echo"])
    yield line
    line.guest_daemon.terminate()


class Waits:
    """How long something was waited for, and the longest of it."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.over = 0  # longer than a recheck takes at least
        self.total = 0

    def note(self, seconds: float) -> None:
        self.total += 1
        self.longest = max(self.longest, seconds)
        self.over += seconds > 0.2

    def __str__(self) -> str:
        return f"{self.total} waits, {self.over} above 0.2 s, the longest {self.longest * 1e3:.0f} ms"


def receive(sock: socket.socket, most: int, what: str) -> bytes:
    """Some bytes; none for a long time is a hang."""
    ready, _, _ = select.select([sock], [], [], HUNG * PATIENCE)
    assert ready, f"nothing has moved for {HUNG * PATIENCE:g} s: {what}"
    data = sock.recv(most)
    assert data, f"ended: {what}"
    return data


def talk(sock: socket.socket, count: int) -> Waits:
    """A question at a time: each is one write into the guest, and the answer one out of it."""
    waits = Waits()
    for number in range(count):
        question = b"line %d\n" % number
        sock.sendall(question)
        begin = time.monotonic()
        answer = b""
        while len(answer) < len(question):
            answer += receive(sock, 4096, f"question {number}")
        waits.note(time.monotonic() - begin)
        assert answer == question
    return waits


def pour(sock: socket.socket, count: int) -> Waits:
    """Lines one after another, each by a write of its own, while they come back."""
    waits = Waits()
    sock.setblocking(False)
    expected, received, number, rest = bytearray(), 0, 0, b""
    last = time.monotonic()
    while number < count or rest or received < len(expected):
        if number < count and not rest:
            rest = b"line %d\n" % number
            expected += rest
            number += 1
        wants = [sock] if rest else []
        readable, writable, _ = select.select([sock], wants, [], HUNG * PATIENCE)
        assert readable or writable, f"nothing has moved for {HUNG * PATIENCE:g} s: line {number}"
        if writable:
            rest = rest[sock.send(rest):]
        if readable:
            data = sock.recv(65536)
            assert data and data == expected[received:received + len(data)]
            received += len(data)
            waits.note(time.monotonic() - last)
            last = time.monotonic()
    return waits


@pytest.mark.parametrize("way", [talk, pour])
def test_small_writes_each_way(guest: Guest, line: Line, way,
                               capfd: pytest.CaptureFixture[str]) -> None:
    sessions = line.sessions()
    with line.doors["echo"].connect(60 * PATIENCE) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        begin = time.monotonic()
        waits = way(sock, WRITES)
        took = time.monotonic() - begin
    with capfd.disabled():
        print(f"\n{guest.controller}, {way.__name__}: {WRITES} writes each way in {took:.1f} s, "
              f"{waits}")
    assert waits.longest < LONGEST_WAIT * PATIENCE
    assert line.sessions() == sessions


@pytest.mark.skipif(not LONG, reason="for comparison: VIRTPROXY_WAKEUPS=N")
def test_the_bare_port(guest: Guest, capfd: pytest.CaptureFixture[str]) -> None:
    """What a program meets that waits in write(2), as most do. Nothing is promised of it."""
    with Address("unix", guest.virtio_ports["bare"]).connect(60 * PATIENCE) as sock:
        writer = guest.start(f"seq 1 {WRITES} | while read i; do echo \"line $i\"; done "
                             "> /dev/virtio-ports/bare")
        lines, hangs, waits = 0, 0, Waits()
        while lines < WRITES:
            begin = time.monotonic()
            if not select.select([sock], [], [], 5)[0]:
                hangs += 1
                break
            lines += sock.recv(65536).count(b"\n")
            waits.note(time.monotonic() - begin)
        where = guest.run("for p in /proc/[0-9]*; do grep -l wait_port $p/stack; done 2>/dev/null")
        if hangs:
            writer.kill(9)
    with capfd.disabled():
        print(f"\n{guest.controller}, the bare port: {lines} lines, "
              f"{'the writer hangs ' + where.output.strip() if hangs else 'no hang'}, {waits}")
