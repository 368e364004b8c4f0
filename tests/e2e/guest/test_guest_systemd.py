"""The Debian package in a real guest that boots systemd, and on a host of the same Debian.

Both have the user, the units and the directories as apt installs them, and an administrator's files.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Iterator

import pytest

from addresses import Address
from harness import PATIENCE
from stage import wait_for_echo
from systemd_machine import needs_machine
from talkers import Talkers

from .debian import why_not
from .site import DOORS, GUEST_TOML, INSTALL, Site, debian_site

pytestmark = [needs_machine, pytest.mark.skipif(bool(why_not()), reason=why_not() or "-")]

TALKERS = 16


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with debian_site() as site:
        yield site


@pytest.fixture
def carried(site: Site) -> Site:
    """The channel is up, and a client is answered."""
    wait_for_echo(site.doors["echo"], 60)
    return site


def test_the_port_starts_the_service(site: Site) -> None:
    guest, host = site.guest, site.host
    host.check(INSTALL, 120)
    guest.check(INSTALL, 300)
    assert guest.run("systemctl is-active virtproxy-guest").output.strip() == "inactive"
    guest.check("cat >>/etc/virtproxy/guest.toml", stdin=GUEST_TOML.encode())
    site.write_host_toml(*DOORS)
    host.check("systemctl enable --now virtproxy@vm1")
    assert site.host_property("ActiveState") == "active"
    site.attach()
    guest.wait_for("systemctl is-active virtproxy-guest", 60)
    host.wait_for("journalctl -u virtproxy@vm1 | grep 'channel vm1: up, protocol 2'", 60)
    wait_for_echo(site.doors["echo"], 60)
    main = site.guest_property("MainPID")
    assert "virtproxy" in guest.check(f"stat -c %U /proc/{main}")
    assert guest.check(f"grep ^CapEff: /proc/{main}/status").split()[1].strip("0") == ""
    assert guest.check("stat -Lc '%G %a' /dev/virtio-ports/virtproxy") == "virtproxy 660\n"


def test_the_service_ends_with_the_port_and_comes_with_it(carried: Site) -> None:
    host, guest = carried.host, carried.guest
    talkers = Talkers(carried.doors["echo"], 2)
    host.check("virtproxyctl detach --vm vm1 --qmp /run/vm1.qmp")
    talkers.wait_endings("reset")
    guest.wait_for("! systemctl is-active virtproxy-guest", 60)
    assert guest.run("systemctl is-failed virtproxy-guest").output.strip() == "inactive"
    carried.attach()
    guest.wait_for("systemctl is-active virtproxy-guest", 60)
    wait_for_echo(carried.doors["echo"], 60)


def test_ssh_and_curl_into_the_guest(carried: Site) -> None:
    host, guest = carried.host, carried.guest
    login = f"ssh -p {carried.doors['ssh'].port} root@127.0.0.1"
    boot = guest.check("cat /proc/sys/kernel/random/boot_id")
    assert boot in host.check(f"{login} cat /proc/sys/kernel/random/boot_id", 60)
    data = random.Random(3).randbytes(4 << 20)
    said = host.check(f"{login} 'cat >/var/www/html/page; sha256sum </var/www/html/page'", 120, stdin=data)
    assert said.split()[0] == hashlib.sha256(data).hexdigest()
    page = host.outside("/root/page")
    host.check(f"curl --silent --show-error --fail -o /root/page http://{carried.doors['http'].spec}/page", 120)
    assert page.read_bytes() == data


def test_a_reload_of_either_end_keeps_every_stream(carried: Site) -> None:
    host, guest, second = carried.host, carried.guest, carried.doors["second"]
    mains = carried.host_property("MainPID"), carried.guest_property("MainPID")
    talkers = Talkers(carried.doors["echo"], TALKERS)
    guest.check("cp /etc/virtproxy/guest.toml /root/guest.toml")
    for _ in range(3):
        # The guest offers a service more, and the host listens for it.
        guest.check("cat >>/etc/virtproxy/guest.toml", stdin=b'[channel.host.offer.second]\nto = "127.0.0.1:7001"\n')
        guest.check("systemctl reload virtproxy-guest")
        carried.write_host_toml(*DOORS, "second")
        host.check("systemctl reload virtproxy@vm1")
        wait_for_echo(second, 60)
        talkers.wait_progress()
        carried.write_host_toml(*DOORS)
        host.check("systemctl reload virtproxy@vm1")
        with pytest.raises(ConnectionRefusedError):
            second.connect(10).close()
        guest.check("cp /root/guest.toml /etc/virtproxy/guest.toml && systemctl reload virtproxy-guest")
        talkers.wait_progress()
    assert talkers.endings() == {None}
    assert mains == (carried.host_property("MainPID"), carried.guest_property("MainPID"))
    print(f"{talkers.bytes() >> 20} MiB echoed over 6 reloads of each end")
    talkers.close()


class Callers(threading.Thread):
    """Clients that connect, one after the other. None may be refused; one in the last moment is reset."""

    def __init__(self, address: Address) -> None:
        super().__init__(daemon=True)
        self.address, self.count, self.refused, self.over = address, 0, 0, False
        self.start()

    def run(self) -> None:
        while not self.over:
            try:
                self.address.connect(60 * PATIENCE).close()
            except ConnectionResetError:
                pass
            except ConnectionRefusedError:
                self.refused += 1
            self.count += 1
            time.sleep(0.02)

    def stop(self) -> None:
        self.over = True
        self.join(60 * PATIENCE)
        assert self.count > 0 and self.refused == 0, (self.count, self.refused)


ENDS = ("host", "guest")


def unit(site: Site, end: str):
    """The unit of an end, what runs commands there, and what asks for its properties."""
    if end == "host":
        return "virtproxy@vm1", site.host, site.host_property
    return "virtproxy-guest", site.guest, site.guest_property


@pytest.mark.parametrize("how", ["restart", "kill -s KILL"])
@pytest.mark.parametrize("end", ENDS)
def test_streams_are_reset_and_no_client_is_refused(carried: Site, end: str, how: str) -> None:
    name, machine, value = unit(carried, end)
    before, restarts = value("MainPID"), int(value("NRestarts"))
    talkers, callers = Talkers(carried.doors["echo"], TALKERS), Callers(carried.doors["echo"])
    machine.check(f"systemctl {how} {name}", 60)
    talkers.wait_endings("reset")
    wait_for_echo(carried.doors["echo"], 60)
    callers.stop()
    machine.wait_for(f"systemctl is-active {name}", 60)
    assert value("MainPID") not in (before, "0")
    if how != "restart":
        assert int(value("NRestarts")) == restarts + 1


@pytest.mark.parametrize("end", ENDS)
def test_a_signal_to_end_is_obeyed(carried: Site, end: str) -> None:
    """systemctl kill without a signal: the host's process stays away until it is started; a guest's comes back."""
    name, machine, value = unit(carried, end)
    before = value("MainPID")
    talkers = Talkers(carried.doors["echo"], TALKERS)
    machine.check(f"systemctl kill {name}")
    talkers.wait_endings("reset")
    if end == "host":
        machine.wait_for(f"! systemctl is-active {name}", 60)
        assert value("Result") == "success" and value("ExecMainStatus") == "0"
        with pytest.raises(ConnectionRefusedError):
            carried.doors["echo"].connect(10).close()
        machine.check(f"systemctl start {name}")
    wait_for_echo(carried.doors["echo"], 60)
    assert value("MainPID") not in (before, "0")


def test_a_guest_that_boots_has_its_service(carried: Site) -> None:
    """The package is there already, and the machine begins with the port."""
    host, guest = carried.host, carried.guest
    talkers = Talkers(carried.doors["echo"], 2)
    guest.power_off()
    # The guest's services are stopped first, and so the echo itself may end them.
    talkers.wait_endings("reset", "end")
    with carried.boot_again() as booted:
        carried.let_daemon_connect()
        booted.wait_booted()
        assert booted.check("systemctl is-active virtproxy-guest").strip() == "active"
        login = f"ssh -p {carried.doors['ssh'].port} root@127.0.0.1"
        assert host.wait_for(f"{login} hostname", 60).endswith("debian\n")
