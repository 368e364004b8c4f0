"""A pair of daemons of two architectures over one channel, one of them under qemu-user: `cmake/cross` runs it."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

import pytest

from addresses import Address
from harness import Daemon, Scene, into, out
from stage import wait_for_echo

EMULATOR = os.environ.get("VIRTPROXY_CROSS_EMULATOR", "")
BIN = Path(os.environ.get("VIRTPROXY_CROSS_BIN", "."))
CROSS = os.environ.get("VIRTPROXY_CROSS", "")
STREAMS, SIZE = 4, 2 << 20

pytestmark = pytest.mark.skipif(not EMULATOR, reason="cmake/cross says which architecture")


def foreign(scene: Scene, *args: str) -> Daemon:
    """A daemon of the other architecture. seccomp does not exist under qemu-user, nor io_uring."""
    return scene.daemon(*args, "--sandbox", "off", name=CROSS, wrapper=[EMULATOR], program=BIN / "virtproxy-static")


def echo_all(door: Address, seed: int, wrong: list[str]) -> None:
    """Sends random bytes and compares what an echo service returns, both at once."""
    data = random.Random(seed).randbytes(SIZE)
    try:
        with door.connect(60) as sock:
            sender = threading.Thread(target=sock.sendall, args=(data,), daemon=True)
            sender.start()
            got = bytearray()
            while len(got) < SIZE and (piece := sock.recv(1 << 16)):
                got += piece
            sender.join(60)
    except OSError as error:
        wrong.append(f"stream {seed}: {error}")
        return
    if got != data:
        wrong.append(f"stream {seed}: {len(got)} bytes, and not the ones that were sent")


@pytest.mark.parametrize("protocol", [2, 1])
@pytest.mark.parametrize("integrity", [(), ("--integrity", "checksum")], ids=["plain", "checked"])
@pytest.mark.parametrize("foreign_listens", [True, False], ids=["it-listens", "it-connects"])
def test_bytes_are_exact_between_architectures(scene: Scene, protocol: int, integrity: tuple[str, ...],
                                               foreign_listens: bool) -> None:
    if protocol == 1 and integrity:
        pytest.skip("protocol 1 has no checksums")
    channel, service = scene.addresses.unix(), scene.echo_service()
    doors = {"near": scene.addresses.tcp(), "far": scene.addresses.tcp()}
    options = ["--protocol", str(protocol), "--driver", "epoll", *integrity]
    near = [*out("there", doors["near"]), *into("here", service), *options]
    far = [*out("here", doors["far"]), *into("there", service), *options]
    if foreign_listens:
        one = foreign(scene, "-c", f"unix-listen:{channel.spec}", *near)
        other = scene.daemon("-c", f"unix-connect:{channel.spec}", *far, name="native")
    else:
        one = scene.daemon("-c", f"unix-listen:{channel.spec}", *near, name="native")
        other = foreign(scene, "-c", f"unix-connect:{channel.spec}", *far)
    for daemon in (one, other):
        daemon.wait_up(protocol=protocol, timeout=60)
    for door in doors.values():
        wait_for_echo(door)
    wrong: list[str] = []
    threads = [threading.Thread(target=echo_all, args=(door, number, wrong), daemon=True)
               for door in doors.values() for number in range(STREAMS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "a stream has not ended"
    assert not wrong, wrong


def test_its_static_programs_start(scene: Scene) -> None:
    for program in ("virtproxy-static", "virtagent-static"):
        assert scene.run([EMULATOR, BIN / program, "--version"]).stdout().split()[-1] == "2.0.0"
    features = scene.run([EMULATOR, BIN / "virtproxy-static", "--features", "--driver", "auto"])
    assert features.stdout().startswith("driver epoll\n")
