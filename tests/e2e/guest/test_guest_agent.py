"""virtagent in a real guest: its default port, two ports and isa-serial, both ends restarted, the guest paused."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_ends import Agent, Line, await_that, call, run
from harness import BIN, Scene

from .machine import Guest, Process

DEFAULT = "org.qemu.virtagent"
LIBVIRT = "org.qemu.guest_agent.0"


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    folder = tmp_path_factory.mktemp("g")
    ports = {name: folder / name for name in (DEFAULT, LIBVIRT, "one", "two")}
    with Guest(virtio_ports=ports, isa_serials=[folder / "isa"],
               extra_files={"/bin/virtagent": BIN / "virtagent-static"}) as guest:
        yield guest


def in_guest(guest: Guest, *args: str):
    return json.loads(guest.check(" ".join(["virtagent", "call", *args])))


def both_ways(guest: Guest, guest_local: str, host_local: Path) -> None:
    assert call(host_local, "guest-ping") == {}
    assert call(host_local, "guest-get-osinfo")["kernel-release"] == guest.check("uname -r").strip()
    assert in_guest(guest, guest_local, "host-ping") == {}
    assert in_guest(guest, guest_local, "host-log", "level=6", "tag=boot", "message=up") == {"dropped": 0}


def test_the_default_port(scene: Scene, guest: Guest) -> None:
    local = scene.directory / "local"
    agent: Process = guest.start("virtagent guest --local /default")
    host_args = ("host", "-c", f"unix-connect:{guest.virtio_ports[DEFAULT]}", "--local", local)
    host = Agent(scene, *host_args, name="host")
    host.log("the other end is virtagent", timeout=30)
    both_ways(guest, "/default", local)
    host.log('guest log 6 {"message":"up","tag":"boot"}')
    # The guest's agent is killed, and so is the host's.
    agent.kill(signal.SIGKILL)
    mark = host.mark()
    agent = guest.start("virtagent guest --local /default")
    host.log("the other end is virtagent", since=mark, timeout=30)
    both_ways(guest, "/default", local)
    host.process.kill()
    host = Agent(scene, *host_args, name="host")
    host.log("the other end is virtagent", timeout=30)
    both_ways(guest, "/default", local)
    # A guest that stands still: the call times out, and the next one is answered once it goes on.
    guest.vm_pause()
    done = run("call", local, "guest-ping", "--timeout", "60", timeout=60)
    guest.vm_resume()
    assert done.returncode == 1 and b"(timeout)" in done.stderr, done.stderr
    assert call(local, "guest-ping", "--timeout", "60", timeout=60) == {}
    assert in_guest(guest, "/default", "host-ping") == {}
    agent.kill()


@pytest.mark.parametrize("way", ["two-ports", "isa-serial"])
def test_other_ports(scene: Scene, guest: Guest, way: str) -> None:
    local = scene.directory / "local"
    if way == "two-ports":
        there = "--client virtio-serial:/dev/virtio-ports/one --server virtio-serial:/dev/virtio-ports/two"
        here = ["--client", f"unix-connect:{guest.virtio_ports['two']}",
                "--server", f"unix-connect:{guest.virtio_ports['one']}"]
    else:
        there = "-c isa-serial:/dev/ttyS1:115200"
        here = ["-c", f"unix-connect:{guest.isa_serials[0]}"]
    agent = guest.start(f"virtagent guest {there} --local /{way}")
    host = Agent(scene, "host", *here, "--local", local, name="host")
    host.log("the other end is virtagent", timeout=30)
    both_ways(guest, f"/{way}", local)
    agent.kill()


def test_in_place_of_qemu_ga(scene: Scene, guest: Guest) -> None:
    """What libvirt sends, over the port that it looks for."""
    agent = guest.start(f"virtagent -c virtio-serial:/dev/virtio-ports/{LIBVIRT}")
    guest.wait_for(f"grep open {agent.log_path}")
    with Line(guest.virtio_ports[LIBVIRT]) as line:
        line.send('{"execute":"guest-sync", "arguments":{"id":1690000000001}}\n')
        seen = line.message()
        while "event" in seen:
            seen = line.message()
        assert seen == {"return": 1690000000001}
        line.send('{"execute":"guest-get-osinfo"}\n')
        assert line.message()["return"]["kernel-release"] == guest.check("uname -r").strip()
    agent.kill()


def test_a_port_that_was_unplugged(scene: Scene, guest: Guest) -> None:
    """It is opened again once it is back. A port without a host is kept open and costs next to nothing."""
    path = scene.directory / "plugged"
    guest.qmp("chardev-add", id="plugged", backend={"type": "socket", "data": {
        "addr": {"type": "unix", "data": {"path": str(path)}}, "server": True, "wait": False}})

    def plug() -> None:
        guest.qmp("device_add", driver="virtserialport", id="plugged", bus="ports.0", chardev="plugged", name="plugged")
        guest.wait_for("link-ports > /dev/null; [ -c /dev/virtio-ports/plugged ]")

    def served() -> None:
        with Line(path) as line:
            line.send(b'\xff{"execute":"guest-sync-delimited","arguments":{"id":7}}\n')
            while line.message() != {"return": 7}:
                pass
            assert line.value("guest-ping") == {}

    def ticks() -> int:
        return sum(map(int, guest.check(f"cut -d' ' -f14,15 /proc/{agent.pid}/stat").split()))

    def spent(seconds: float) -> int:
        """Hundredths of a second of processor time in as many seconds. Three measurements, the least counts: one in
        which the machine stood still counts that as well."""
        found = []
        while len(found) < 3 and min(found, default=11) > 10:
            before = ticks()
            time.sleep(seconds)
            found.append(ticks() - before)
        return min(found)

    def lines(pattern: str) -> int:
        return len(re.findall(pattern, agent.log()))

    plug()
    agent = guest.start("exec virtagent guest -c virtio-serial:/dev/virtio-ports/plugged")
    guest.wait_for(f"grep open {agent.log_path}")
    served()
    assert spent(2) <= 10
    assert lines("closed") == 0
    served()
    for count in range(1, 3):
        guest.qmp("device_del", id="plugged")
        guest.check("rm /dev/virtio-ports/plugged")
        await_that("the agent lets go of it", lambda: lines("closed, the device is gone or has hung up") == count, 20)
        assert spent(1) <= 10
        plug()
        served()
    agent.kill()
    guest.qmp("device_del", id="plugged")
