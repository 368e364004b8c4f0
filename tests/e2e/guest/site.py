"""A host and a guest, each a Debian with systemd in which the package of virtproxy is installed by apt.

The host is a namespace with systemd as its process 1. QEMU is this machine's, and runs with the host's /run as root.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from addresses import Address
from debian_packages import build_packages
from harness import BIN, Scene
from systemd_machine import Machine

from .debian import DebianGuest, debian_root
from .line import TRAFFIC

INSTALL = "apt-get install -y -q /root/virtproxy_*.deb 2>&1"
SOCKET = "/run/virtproxy/vm1.sock"  # QEMU's, by the units' convention
DOORS = ("ssh", "http", "echo")
GUEST_TOML = """
[channel.host.offer.ssh]
to = "127.0.0.1:22"
[channel.host.offer.http]
to = "127.0.0.1:80"
[channel.host.offer.echo]
to = "127.0.0.1:7001"
"""


class Site:
    """A host and a guest whose channel is up."""

    def __init__(self, scene: Scene, more: Sequence[str] = ()) -> None:
        root = debian_root()
        package = build_packages(scene.directory / "packages", "virtproxy")["virtproxy"]
        self.scene = scene
        self.doors: dict[str, Address] = {name: scene.addresses.tcp() for name in (*DOORS, "second")}
        self.host = Machine(scene, root.tree, more)
        self.host.check("ip link set lo up")
        shutil.copy(package, self.host.outside("/root"))
        self.root, self.disk = root, root.copy_of_disk(scene.directory / "disk")
        qmp = ["-qmp", "unix:/run/vm1.qmp,server=on,wait=off"]
        self.guest = DebianGuest(root, self.disk, self.host.wrapper(), qemu_arguments=qmp)
        self.package = package

    def boot_again(self) -> DebianGuest:
        """The same disk in a new QEMU, which has the port from its start."""
        self.guest.close()
        self.guest = DebianGuest(self.root, self.disk, self.host.wrapper(), virtio_ports={"virtproxy": SOCKET})
        return self.guest

    def prepare_guest(self) -> None:
        self.guest.wait_booted()
        self.guest.put(self.package, f"/root/{self.package.name}")
        self.guest.put(BIN / "virtproxy-traffic-static", TRAFFIC)
        self.guest.start([TRAFFIC, "echo", "--listen", "127.0.0.1:7001"])

    def attach(self) -> None:
        """Adds the port to the machine that runs."""
        self.host.check("virtproxyctl attach --vm vm1 --qmp /run/vm1.qmp")
        self.let_daemon_connect()

    def let_daemon_connect(self) -> None:
        """The QEMU of this test runs as root, and not with the group of the daemon: LIBVIRT.md, who owns the socket."""
        self.host.check(f"chgrp virtproxy {SOCKET} && chmod g+w {SOCKET}")

    def host_toml(self, *services: str) -> str:
        listeners = (f'[channel.vm1.listen.{name}]\nat = "{self.doors[name].spec}"\n' for name in services)
        return f'[channel.vm1]\ntransport = "unix-connect:{SOCKET}"\n{"".join(listeners)}'

    def write_host_toml(self, *services: str) -> None:
        text = self.host_toml(*services).encode()
        self.host.check("mkdir -p /etc/virtproxy/vm; cat >/etc/virtproxy/vm/vm1.toml", stdin=text)

    def host_property(self, name: str) -> str:
        return self.host.check(f"systemctl show --value -p {name} virtproxy@vm1").strip()

    def guest_property(self, name: str) -> str:
        return self.guest.check(f"systemctl show --value -p {name} virtproxy-guest").strip()


@contextmanager
def debian_site(*more: str) -> Iterator[Site]:
    """Both have booted, and have the package in a file. The host has `more` namespaces of its own."""
    scene = Scene()
    try:
        site = Site(scene, more)
        with site.guest:
            site.prepare_guest()
            yield site
        site.guest.close()
    finally:
        scene.close(graceful=False)
