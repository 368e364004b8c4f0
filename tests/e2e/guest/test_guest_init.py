"""A guest without systemd and udev: busybox init keeps the daemon running, from the port's appearance on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import BIN, Scene
from stage import wait_for_echo

from .line import ECHO, TRAFFIC
from .machine import Guest

SCRIPT = Path(__file__).resolve().parents[3] / "uring" / "daemon" / "init" / "virtproxy-guest"
FILES = {
    "/usr/local/bin/virtproxy": BIN / "virtproxy-static",
    "/usr/local/bin/virtproxy-guest": SCRIPT,
    TRAFFIC: BIN / "virtproxy-traffic-static",
}


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    with Guest(extra_files=FILES, virtio_ports={"virtproxy": tmp_path / "vp.sock"}) as guest:
        guest.start([TRAFFIC, "echo", "--listen", f"127.0.0.1:{ECHO}"])
        yield guest


def pid_of_daemon(guest: Guest) -> str:
    return guest.wait_for("pidof virtproxy").split()[0]


def test_busybox_init_starts_it_and_starts_it_again(scene: Scene, guest: Guest) -> None:
    guest.check("rm -f /dev/virtio-ports/virtproxy && mkdir -p /etc/virtproxy")
    guest.check(f"echo 'ARGS=-i echo:127.0.0.1:{ECHO}' > /etc/virtproxy/guest.env")
    guest.check("echo '::respawn:/usr/local/bin/virtproxy-guest' > /etc/inittab")
    # Process 1 of a namespace; that of the guest is the test's own.
    guest.start(["unshare", "-p", "-f", "busybox", "init"])
    door = scene.addresses.tcp()
    scene.daemon("-c", f"unix-connect:{guest.virtio_ports['virtproxy']}:-", "-o", f"echo:{door.spec}")
    first = pid_of_daemon(guest)
    wait_for_echo(door)
    def status(field: str) -> int:
        return int(guest.check(f"awk '/^{field}:/ {{print $2}}' /proc/{first}/status"))

    assert status("Uid") == 65534
    resident = status("VmRSS")
    print(f"resident, idle: {resident} KiB")
    assert resident <= 5 << 10
    guest.check(f"kill -9 {first}")
    guest.wait_for(f"pid=$(pidof virtproxy) && [ \"$pid\" != {first} ]")
    wait_for_echo(door)
