"""Either daemon is killed in mid-traffic and comes back: the other one, untouched, serves again.

A virtio-serial port tells neither end that the other was replaced, and keeps bytes of the earlier
life on both sides of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import PATIENCE, Scene, scaled
from stage import echo, expect_reset, wait_for_echo

from .getters import Getter, GuestGetter
from .line import (ECHO, HTTP, MIB, TRAFFIC, Line, Page, content, curl, guest_with_services,
                   serve_files, wget)
from .machine import Guest

PAGE, SMALL = Page("page", content(3, 8 * MIB)), Page("small", content(4, 256 << 10))
ROUNDS = scaled(10, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("g")


@pytest.fixture(scope="module")
def guest(folder: Path) -> Iterator[Guest]:
    with guest_with_services(folder, [PAGE, SMALL],
                             virtio_ports={"vp": folder / "vp.sock"}) as guest:
        yield guest


@pytest.fixture
def line(scene: Scene, guest: Guest, folder: Path) -> Iterator[Line]:
    to_guest = {"http": HTTP, "echo": ECHO}
    to_host = {"web": serve_files(scene, folder), "exchange": scene.addresses.tcp()}
    line = Line(scene, guest, f"unix-connect:{guest.virtio_ports['vp']}:-",
                "virtio-serial:/dev/virtio-ports/vp:-", to_guest, to_host)
    wait_for_echo(line.doors["echo"])
    yield line
    line.guest_daemon.terminate()


class Traffic:
    """Both ways flat out, an open stream that rests, and one whose echo nobody reads."""

    def __init__(self, scene: Scene, guest: Guest, line: Line) -> None:
        # Streams that send both ways and compare every byte, from a client in the guest. They are
        # far too long to come to an end.
        options = ("--streams", "2", "--bytes", "4G", "--seed", "5")
        self.service = scene.hold("ready", "exchange", "--listen", line.to_host["exchange"].spec,
                                  *options)
        self.client = guest.start([TRAFFIC, "exchange", "--connect", line.guest_doors["exchange"],
                                   *options])
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

    def check_cut_on_the_host(self) -> None:
        """Those on the host see a reset, and what came before it was right."""
        assert [download.end() for download in self.downloads] == ["reset", "reset"]
        for sock in (self.resting, self.unread):
            expect_reset(sock, 10)
        assert self.service.wait(20 * PATIENCE) == 1
        check_complaint(self.service.stderr())

    def check_cut_in_the_guest(self) -> None:
        """Those in the guest see a reset, and what came before it was right."""
        assert self.client.wait(20 * PATIENCE) == 1
        check_complaint(self.client.log())
        # busybox's wget tells a reset from an end only now and then.
        self.upload.check_cut()

    def close(self) -> None:
        """Ends what is left on the host, where the daemon that was killed had the sockets."""
        for download in self.downloads:
            assert download.end() in ("reset", "end")
        for sock in (self.resting, self.unread):
            sock.close()
        self.service.kill()


def check_complaint(text: str) -> None:
    """What the traffic tool says of a stream that was reset: no word of a wrong byte."""
    assert "ECONNRESET" in text or "EPIPE" in text, text


def works(scene: Scene, guest: Guest, line: Line) -> float:
    """New connections both ways; the seconds until the first one was served."""
    began = time.monotonic()
    wait_for_echo(line.doors["echo"], 30)
    seconds = time.monotonic() - began
    curl(scene, line.doors["http"], SMALL)
    wget(guest, line.guest_doors["web"], SMALL)
    return seconds


def test_the_guest_daemon_is_killed_again_and_again(scene: Scene, guest: Guest, line: Line) -> None:
    survivor, descriptors = line.host, line.descriptors()[0]
    seen = []
    for _ in range(ROUNDS):
        traffic = Traffic(scene, guest, line)
        mark = survivor.mark()
        line.guest_daemon.kill9()
        # The host does not know yet: what its clients send now waits in the port.
        traffic.push()
        line.restart_guest()
        began = time.monotonic()
        survivor.wait_down(since=mark)
        down = survivor.wait_for_log("channel 0: down: (.*)", since=mark).group(1)
        survivor.wait_up(since=mark)
        seen.append(f"{time.monotonic() - began:.2f} s ({down})")
        traffic.check_cut_on_the_host()
        traffic.close()
        traffic.upload.check_cut()
        works(scene, guest, line)
        survivor.wait_at_rest(descriptors)
    assert survivor.alive() and line.host is survivor
    print("until the session after a restart of the guest's daemon:", *seen, sep="\n")
    line.guest_daemon.wait_at_rest()


def test_the_host_daemon_is_killed_again_and_again(scene: Scene, guest: Guest, line: Line) -> None:
    survivor, descriptors = line.guest_daemon, line.descriptors()[1]
    seen = []
    for _ in range(ROUNDS):
        traffic = Traffic(scene, guest, line)
        line.host.kill9()
        traffic.check_cut_in_the_guest()
        traffic.close()
        line.restart_host()
        seen.append(f"{works(scene, guest, line):.2f} s")
        survivor.wait_at_rest(descriptors)
    assert survivor.alive() and line.guest_daemon is survivor
    print("until the first answer after a restart of the host's daemon:", *seen, sep="\n")
    line.host.wait_at_rest()
