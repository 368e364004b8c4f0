"""vsock inside a real guest, over its loopback: two daemons there and a request through both."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness import Scene

from .line import (ECHO, HTTP, MIB, GuestDaemon, Line, Page, content, guest_with_services, wget)
from .machine import Guest

PAGE = Page("page", content(21, 4 * MIB))
CHANNEL = 5000


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    with guest_with_services(tmp_path_factory.mktemp("g"), [PAGE]) as guest:
        yield guest


class Couple:
    """The listening daemon has the services, the connecting one the doors."""

    def __init__(self, scene: Scene, guest: Guest, cid: str, *listen_args: str,
                 wait: bool = True) -> None:
        self.scene, self.guest = scene, guest
        self.door = Line.guest_address("tcp").spec
        self._listen_args = ["-c", f"vsock-listen:any:{CHANNEL}", "-i", f"http:127.0.0.1:{HTTP}",
                             "-i", f"echo:127.0.0.1:{ECHO}"]
        self._connect_args = ["-c", f"vsock-connect:{cid}:{CHANNEL}", "-o", f"http:{self.door}"]
        self.connecting = self._start(self._connect_args, "connecting daemon")
        self.restart_listening(*listen_args)
        if wait:
            self.connecting.wait_up()
            self.listening.wait_up()

    def _start(self, args: list[str], name: str) -> GuestDaemon:
        daemon = GuestDaemon(self.guest, args, name)
        self.scene.processes.append(daemon)
        return daemon

    def restart_listening(self, *more: str) -> None:
        self.listening = self._start([*self._listen_args, *more], "listening daemon")

    def restart_connecting(self) -> None:
        self.connecting = self._start(self._connect_args, "connecting daemon")


@pytest.mark.parametrize("cid", ["1", "local"])
def test_http_over_vsock(scene: Scene, guest: Guest, cid: str) -> None:
    couple = Couple(scene, guest, cid)
    for _ in range(3):
        wget(guest, couple.door, PAGE)
    # The socket tells when the other end goes.
    mark = couple.connecting.mark()
    couple.listening.kill9()
    couple.connecting.wait_down(since=mark)
    couple.restart_listening()
    couple.connecting.wait_up(since=mark)
    wget(guest, couple.door, PAGE)
    mark = couple.listening.mark()
    couple.connecting.kill9()
    couple.listening.wait_down(since=mark)
    couple.restart_connecting()
    couple.listening.wait_up(since=mark)
    wget(guest, couple.door, PAGE)
    for daemon in (couple.connecting, couple.listening):
        daemon.wait_at_rest()
        daemon.terminate()


def test_the_end_of_a_daemon_is_seen_at_once(scene: Scene, guest: Guest) -> None:
    """Its socket must not live on in its ring: kernel 6.1 keeps registered files for a second."""
    couple = Couple(scene, guest, "local")
    couple.connecting.terminate()
    couple.listening.wait_down()
    times = [couple.listening.wait_for_log(rf"T[\d:]+:([\d.]+)Z .*channel 0: {what}").group(1)
             for what in ("the other end is going away", "down")]
    seconds = (float(times[1]) - float(times[0])) % 60
    assert seconds < 0.7, f"{seconds:.3f} s"
    couple.listening.terminate()


def test_only_listed_cids_get_the_channel(scene: Scene, guest: Guest) -> None:
    """The loopback's CID is 1."""
    couple = Couple(scene, guest, "local", "--channel-allow-cid", "3,7", wait=False)
    couple.listening.wait_for_log(r"peer refused: vsock 1:\d+ is not on the list")
    assert not [line for line in couple.connecting.lines() if "channel 0: up" in line]
    couple.listening.terminate()
    couple.restart_listening("--channel-allow-cid", "3,local")
    couple.connecting.wait_up()
    wget(guest, couple.door, PAGE)
