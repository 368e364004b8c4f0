"""virtagent behind virtproxy in a real guest: 64 clients beside bulk, the guest paused, and each party killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from addresses import Address
from agent_ends import Agent, call, run
from agent_ends import Line as Lines
from harness import BIN, PATIENCE, Scene, scaled
from processes import Process
from stage import eventually

from .line import MIB, Line, Page, content, guest_with_services, serve_files
from .machine import Guest
from .machine import Process as GuestProcess

PAGE = Page("page", content(17, 8 * MIB))
CLIENTS = 64
# p99 of a call beside bulk: 50 ms on a machine with nothing else to do, see ../../README.md. Others run beside, and
# what the emulated processor has left shows in the p99 of calls without a pause, with nothing beside them.
PING_MS = 500.0
TIMES_ALONE = 4
STREAMS, PORT = "virtproxy", "org.qemu.virtagent"
AGENT_SOCKET, AGENT_LOCAL, ENDLESS = "/run/agent", "/run/agent-local", "/tmp/files/endless"


class Machines:
    """One guest after the other on the same sockets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._life = ExitStack()
        self.hook = folder / "wait-hook"
        self.hook.write_text("#!/bin/sh\nexec sleep 600\n")
        self.hook.chmod(0o755)
        self.guest = self.boot()

    def boot(self) -> Guest:
        self.guest = self._life.enter_context(guest_with_services(
            self.folder, [PAGE], virtio_ports={name: self.folder / name for name in (STREAMS, PORT)},
            extra_files={"/bin/virtagent": BIN / "virtagent-static", "/bin/wait-hook": self.hook}))
        # Zeros without end, that take no memory.
        self.guest.check(f"mkdir {Path(ENDLESS).parent} && truncate -s 1024G {ENDLESS}")
        return self.guest

    def kill_qemu(self) -> None:
        os.kill(self.guest.pid, signal.SIGKILL)

    def close(self) -> None:
        self._life.close()


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    machines = Machines(tmp_path_factory.mktemp("g"))
    yield machines
    machines.close()


class Ends:
    """Both agents, on streams behind the daemons and on a port of their own."""

    def __init__(self, scene: Scene, machines: Machines) -> None:
        self.scene, self.machines = scene, machines
        guest = machines.guest
        self.served = scene.addresses.unix()
        self.local = scene.directory / "local"
        self.host = Agent(scene, "host", "--listen", self.served.place, "-c",
                          f"unix-connect:{guest.virtio_ports[PORT]}", "--local", self.local, name="host agent")
        self.guest_agent = self.start_agent()
        self.line = Line(scene, guest, f"unix-connect:{guest.virtio_ports[STREAMS]}:-",
                         f"virtio-serial:/dev/virtio-ports/{STREAMS}:-", {"virtagent": AGENT_SOCKET},
                         {"virtagent-host": self.served, "web": serve_files(scene, machines.folder)})
        self.works()

    def start_agent(self) -> GuestProcess:
        agent = self.machines.guest.start(
            f"exec virtagent guest --listen {AGENT_SOCKET} -c virtio-serial:/dev/virtio-ports/{PORT} "
            f"--local {AGENT_LOCAL} --allow-read {Path(ENDLESS).parent} --hook wait=/bin/wait-hook")
        self.machines.guest.wait_for(f"grep ready {agent.log_path}")
        return agent

    @property
    def door(self) -> Address:
        return self.line.doors["virtagent"]

    def works(self) -> None:
        """Calls both ways, on streams and on the port."""
        guest = self.machines.guest
        assert call(self.door.place, "guest-get-osinfo")["kernel-release"] == guest.check("uname -r").strip()
        assert call(self.local, "guest-ping", "--timeout", "60", timeout=60) == {}
        for door in (self.line.guest_doors["virtagent-host"], AGENT_LOCAL):
            assert guest.check(f"virtagent call {door} host-ping").strip() == "{}"

    def end(self) -> None:
        self.guest_agent.kill()
        assert self.guest_agent.wait(20 * PATIENCE) == 0, self.guest_agent.log()
        self.line.guest_daemon.terminate()


@pytest.fixture
def ends(scene: Scene, machines: Machines) -> Iterator[Ends]:
    ends = Ends(scene, machines)
    yield ends
    ends.end()


class Pinger(threading.Thread):
    """A client of the guest's agent: each call is a stream of its own."""

    def __init__(self, door: Address, calls: int, pause: float, delay: float = 0) -> None:
        super().__init__(daemon=True)
        self._door, self._calls, self._pause, self._delay = door, calls, pause, delay
        self.milliseconds: list[float] = []
        self.ending = ""
        self.start()

    def run(self) -> None:
        try:
            time.sleep(self._delay)
            for _ in range(self._calls):
                begun = time.monotonic()
                with Lines(self._door.connect()) as line:
                    assert line.value("guest-ping") == {}
                self.milliseconds.append((time.monotonic() - begun) * 1e3)
                time.sleep(self._pause)
        except TimeoutError as error:
            self.ending = f"left waiting: {error}"
        except (EOFError, OSError):
            self.ending = "cut"
        except BaseException as error:  # pylint: disable=broad-except
            self.ending = repr(error)


def pings(door: Address, calls: int, pause: float) -> tuple[float, float, float, float]:
    """Median, p99 and longest of all clients' calls in milliseconds, and calls a second.

    With a pause the calls are spread over it.
    """
    begun = time.monotonic()
    clients = [Pinger(door, calls, pause, pause * number / CLIENTS) for number in range(CLIENTS)]
    for client in clients:
        client.join()
    seconds = time.monotonic() - begun
    assert [client.ending for client in clients] == [""] * CLIENTS
    taken = sorted(each for client in clients for each in client.milliseconds)
    return taken[len(taken) // 2], taken[len(taken) * 99 // 100], taken[-1], len(taken) / seconds


def test_64_clients_beside_bulk(scene: Scene, ends: Ends, capfd: pytest.CaptureFixture[str]) -> None:
    """Each client makes a call a second, beside files that are sent without end over the same channel."""
    guest, line = ends.machines.guest, ends.line
    said = []

    def measure(what: str, calls: int, pause: float) -> float:
        before = line.host.stats()
        begun = time.monotonic()
        median, p99, longest, rate = pings(ends.door, calls, pause)
        seconds = time.monotonic() - begun
        after = line.host.stats()
        out, into = ((after.total(key) - before.total(key)) / seconds / 1e6 for key in ("received_bytes", "sent_bytes"))
        said.append(f"{what}: {rate:.0f} calls a second: median {median:.1f} ms, p99 {p99:.1f} ms, longest "
                    f"{longest:.1f} ms; {out:.0f} MB/s out of the guest, {into:.0f} MB/s into it")
        return p99

    calls = scaled(10, 3)
    measure("alone", calls, 1)
    busy = measure("alone, without a pause", 3 * calls, 0)
    download = scene.spawn([BIN / "virtagent", "get", ends.door.place, ENDLESS, "/dev/null"])
    one_way = measure("beside a file out of the guest", calls, 1)
    upload = guest.start(f"while wget -q -O /dev/null http://{line.guest_doors['web']}{PAGE.path}; do :; done")
    both_ways = measure("beside a file each way", calls, 1)
    assert upload.alive() and download.poll() is None, "the bulk has ended"
    upload.kill()
    # It takes what the agent sends as soon as it is sent: a turn of the agent is as long as it can be.
    guest.check(f"cd /proc/{line.guest_daemon.process.pid}/task && for thread in *; do renice -n -10 -p $thread; done")
    measure("beside a file, the guest's daemon preferred", scaled(3, 2), 1)
    download.kill()
    with capfd.disabled():
        print("", *said, sep="\n")
    assert max(one_way, both_ways) < max(PING_MS * PATIENCE, TIMES_ALONE * busy), said


def test_a_paused_guest(ends: Ends) -> None:
    """A call ends with its time, and nothing is lost: the next ones are answered when the guest goes on."""
    sessions = ends.line.sessions()
    ends.machines.guest.vm_pause()
    try:
        done = run("call", ends.door.place, "guest-ping", "--timeout", "1")
        assert done.returncode == 1 and b"(timeout)" in done.stderr, done.stderr
    finally:
        ends.machines.guest.vm_resume()
    ends.works()
    assert ends.line.sessions() == sessions


class Flight:
    """Calls that are not over when something is killed: hooks, a file, pings without end.

    `more` are further places of calls.
    """

    HOOKS = 8

    def __init__(self, ends: Ends, *more: Path) -> None:
        scene, door = ends.scene, ends.door.place

        def client(*args: str | Path) -> Process:
            return scene.spawn([BIN / "virtagent", *args])

        places = [door] * self.HOOKS + [str(each) for each in more]
        self.hooks = [client("call", place, "va-hook", "name=wait", "--timeout", "120") for place in places]
        self.file = client("get", door, ENDLESS, "/dev/null")
        guest = ends.machines.guest
        guest.start(f"while virtagent call {ends.line.guest_doors['virtagent-host']} host-ping; do :; done")
        guest.wait_for(f"[ $(pidof sleep | wc -w) -eq {len(places)} ]")
        self.pingers = [Pinger(ends.door, 1_000_000, 0) for _ in range(CLIENTS)]
        eventually("pings and bytes go on", lambda: all(each.milliseconds for each in self.pingers) and
                   ends.line.host.stats().total("received_bytes") > MIB)

    def check_ended(self) -> None:
        """Each client has its end long before its own time is over, and says so in one line."""
        for client in (*self.hooks, self.file):
            assert client.wait(15 * PATIENCE) == 1, client.everything()
            assert len(client.err.lines()) == 1 and client.err.lines()[0].startswith("virtagent: "), client.everything()
        for pinger in self.pingers:
            pinger.join(15 * PATIENCE)
            assert pinger.ending == "cut", pinger.ending


def test_the_guest_daemon_is_killed(ends: Ends) -> None:
    descriptors, fds = ends.line.host.fds(), ends.host.fds()
    flight = Flight(ends)
    ends.line.guest_daemon.kill9()
    ends.line.restart_guest()
    flight.check_ended()
    ends.works()
    ends.line.host.wait_at_rest(descriptors)
    eventually("the host's agent has no more than before", lambda: ends.host.fds() <= fds)


def test_the_host_daemon_is_killed(ends: Ends) -> None:
    fds = ends.host.fds()
    flight = Flight(ends)
    ends.line.host.kill9()
    flight.check_ended()
    ends.line.restart_host()
    ends.line.wait_up()
    ends.works()
    eventually("the host's agent has no more than before", lambda: ends.host.fds() <= fds)


def test_qemu_is_killed(ends: Ends) -> None:
    """The host's daemon and agent stay, and serve the next guest on the same sockets."""
    descriptors, fds = ends.line.host.fds(), ends.host.fds()
    flight = Flight(ends, ends.local)
    mark = ends.line.host.mark()
    ends.machines.kill_qemu()
    flight.check_ended()
    ends.line.host.wait_down(since=mark)
    ends.line.host.wait_at_rest(descriptors)
    eventually("the host's agent has no more than before", lambda: ends.host.fds() <= fds)
    ends.line.guest = ends.machines.boot()
    ends.guest_agent = ends.start_agent()
    ends.line.restart_guest()
    ends.line.host.wait_up(since=mark, timeout=30)
    ends.works()
    assert ends.line.host.alive() and ends.host.process.alive()
