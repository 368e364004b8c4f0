"""Either daemon is killed in mid-traffic and comes back: the other one, untouched, serves again.

A virtio-serial port tells neither end that the other was replaced, and keeps bytes of the earlier
life on both sides of it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Scene
from stage import echo, expect_reset, wait_for_echo

from .line import (ECHO, HTTP, MIB, Getter, GuestGetter, Line, Page, content, curl,
                   guest_with_services, serve_files, wget)
from .machine import Guest

PAGE = Page("page", content(3, 8 * MIB))
ROUNDS = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("g")


@pytest.fixture(scope="module")
def guest(folder: Path) -> Iterator[Guest]:
    with guest_with_services(folder, [PAGE], virtio_ports={"vp": folder / "vp.sock"}) as guest:
        yield guest


@pytest.fixture
def line(scene: Scene, guest: Guest, folder: Path) -> Iterator[Line]:
    to_guest = {"http": HTTP, "echo": ECHO}
    to_host = {"web": serve_files(scene, folder)}
    line = Line(scene, guest, f"unix-connect:{guest.virtio_ports['vp']}:-",
                "virtio-serial:/dev/virtio-ports/vp:-", to_guest, to_host)
    wait_for_echo(line.doors["echo"])
    yield line
    line.guest_daemon.terminate()


class Traffic:
    """Both ways flat out, an open stream that rests, and one whose echo nobody reads."""

    def __init__(self, guest: Guest, line: Line) -> None:
        self.resting = line.doors["echo"].connect()
        echo(self.resting)
        self.unread = line.doors["echo"].connect()
        self.unread.setblocking(False)
        self.push()
        self.downloads = [Getter(line.doors["http"], PAGE) for _ in range(2)]
        self.upload = GuestGetter(guest, line.guest_doors["web"], PAGE)
        for download in self.downloads:
            download.wait_received(MIB)
        self.upload.wait_received(MIB)

    def push(self) -> None:
        """Writes what goes without waiting."""
        try:
            while self.unread.send(b"unread " * 10_000):
                pass
        except OSError:
            pass

    def sockets(self) -> tuple[socket.socket, socket.socket]:
        return self.resting, self.unread

    def close(self) -> None:
        for sock in self.sockets():
            sock.close()


def works(scene: Scene, guest: Guest, line: Line) -> None:
    """New connections both ways."""
    wait_for_echo(line.doors["echo"], 30)
    curl(scene, line.doors["http"], PAGE)
    wget(guest, line.guest_doors["web"], PAGE)


def test_the_guest_daemon_is_killed_ten_times(scene: Scene, guest: Guest, line: Line) -> None:
    survivor, descriptors = line.host, line.descriptors()[0]
    for turn in range(ROUNDS):
        traffic = Traffic(guest, line)
        mark = survivor.mark()
        line.guest_daemon.kill9()
        # The host does not know yet: what its clients send now waits in the port.
        traffic.push()
        print(f"round {turn}: wget said {traffic.upload.check_cut()!r}")
        line.restart_guest()
        survivor.wait_down(since=mark)
        assert [download.end() for download in traffic.downloads] == ["reset", "reset"]
        for sock in traffic.sockets():
            expect_reset(sock, 10)
        traffic.close()
        works(scene, guest, line)
        survivor.wait_at_rest(descriptors)
    assert survivor.alive() and line.host is survivor
    line.guest_daemon.wait_at_rest()


def test_the_host_daemon_is_killed_ten_times(scene: Scene, guest: Guest, line: Line) -> None:
    survivor, descriptors = line.guest_daemon, line.descriptors()[1]
    for turn in range(ROUNDS):
        traffic = Traffic(guest, line)
        line.host.kill9()
        for download in traffic.downloads:
            assert download.end() in ("reset", "end")  # The kernel closes them: nothing to prove.
        said = traffic.upload.check_cut()
        print(f"round {turn}: wget said {said!r}")
        assert "reset" in said
        traffic.close()
        line.restart_host()
        works(scene, guest, line)
        survivor.wait_at_rest(descriptors)
    assert survivor.alive() and line.guest_daemon is survivor
    line.host.wait_at_rest()
