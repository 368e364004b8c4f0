"""A TCP channel whose other machine is gone ends in time, idle or not, on either end; one whose
other machine answers stays, however long nothing is read there."""

import os
import signal
import socket
import time

import pytest

from harness import PATIENCE, Daemon, Scene, into, out
from networks import TwoMachines
from stage import ListeningService, echo, eventually, expect_reset, receive, wait_for_echo

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

LIMIT = 3.0  # the least that may be given


class Ends:
    """A TCP channel between two machines; each end has a door to the other one's services."""

    def __init__(self, scene: Scene, limit: str) -> None:
        self.network = TwoMachines(scene)
        self.services = [ListeningService(scene, "unix") for _ in range(2)]
        echo_address = scene.addresses.unix()
        scene.serve("echo", echo_address)
        self.doors = [scene.addresses.unix() for _ in range(2)]
        self.echo_doors = [scene.addresses.unix() for _ in range(2)]
        spec = f"{self.network.addresses[0]}:5000"
        methods = [f"tcp-listen:{spec}", f"tcp-connect:{spec}"]
        self.daemons: list[Daemon] = []
        for index, name in enumerate(("listening", "connecting")):
            args = ["-c", methods[index], "--peer-timeout", limit, "--allow-remote"]
            args += [*out("raw", self.doors[index]), *into("raw", self.services[index].address)]
            args += [*out("echo", self.echo_doors[index]), *into("echo", echo_address)]
            wrapper = self.network.wrappers[index]
            self.daemons.append(scene.daemon(*args, name=name, wrapper=wrapper))
        for daemon in self.daemons:
            daemon.wait_up()

    def stream_from(self, index: int) -> tuple[socket.socket, socket.socket]:
        """An open stream: the client at that end, the service at the other one."""
        client = self.doors[index].connect()
        client.sendall(b"!")
        service = self.services[1 - index].accept()
        assert receive(service, 1) == b"!"
        return client, service

    def wait_down(self, marks: list[int]) -> list[float]:
        """When each end had noticed, in seconds from now."""
        begin = time.monotonic()
        times = []
        for daemon, mark in zip(self.daemons, marks, strict=True):
            daemon.wait_down(since=mark, timeout=LIMIT + 3)
            times.append(time.monotonic() - begin)
        return times


def fill(sock: socket.socket) -> int:
    """Sends until no more is taken for half a second; returns how much was."""
    sent = 0
    sock.settimeout(0.5 * PATIENCE)
    try:
        while True:
            sent += sock.send(bytes(1 << 16))
    except TimeoutError:
        return sent


@pytest.mark.parametrize("in_flight", ["nothing", "from the listening end", "from the connecting end"])
def test_a_machine_that_is_gone_is_noticed_by_both_ends(scene: Scene, in_flight: str) -> None:
    ends = Ends(scene, f"{LIMIT:g}")
    sender = {"from the listening end": 0, "from the connecting end": 1}.get(in_flight)
    client, service = ends.stream_from(sender or 0)
    with client, service:
        marks = [daemon.mark() for daemon in ends.daemons]
        ends.network.cut()
        if sender is not None:
            client.sendall(bytes(100_000))
        times = ends.wait_down(marks)
        assert min(times) > LIMIT / 3, times
        expect_reset(client, 1)
        expect_reset(service, 1)
    ends.network.join()
    for door in ends.echo_doors:
        wait_for_echo(door)


def test_a_machine_that_answers_is_not_gone(scene: Scene) -> None:
    """Nothing is read there for twice the time, with data in flight and a closed window."""
    ends = Ends(scene, f"{LIMIT:g}:0")
    client, service = ends.stream_from(0)
    with client, service:
        stopped = ends.daemons[1]
        marks = [daemon.mark() for daemon in ends.daemons]
        stopped.send_signal(signal.SIGSTOP)
        sent = fill(client)
        # The promise is about time.
        time.sleep(2.5 * LIMIT)
        stopped.send_signal(signal.SIGCONT)
        service.settimeout(30 * PATIENCE)
        receive(service, sent)
        client.settimeout(30 * PATIENCE)
        for _ in range(3):
            client.sendall(b"still here")
            assert receive(service, 10) == b"still here"
    for daemon, mark in zip(ends.daemons, marks, strict=True):
        assert not [line for line in daemon.err.lines(mark) if "channel 0: down" in line]


def test_a_machine_that_stops_answering_while_its_window_is_closed(scene: Scene) -> None:
    ends = Ends(scene, f"{LIMIT:g}")
    client, service = ends.stream_from(0)
    with client, service:
        mark = ends.daemons[0].mark()
        ends.daemons[1].send_signal(signal.SIGSTOP)
        fill(client)
        ends.network.cut()
        # Probes come at growing intervals: the second one without an answer decides.
        ends.daemons[0].wait_down(since=mark, timeout=4 * LIMIT)
        expect_reset(client, 1)
        ends.daemons[1].send_signal(signal.SIGCONT)
    ends.network.join()
    for door in ends.echo_doors:
        wait_for_echo(door)


def test_without_a_limit_a_cut_is_outlived(scene: Scene) -> None:
    ends = Ends(scene, "0")
    marks = [daemon.mark() for daemon in ends.daemons]
    with ends.echo_doors[0].connect(30 * PATIENCE) as client:
        echo(client)
        ends.network.cut()
        client.sendall(b"later")
        time.sleep(2 * LIMIT)
        ends.network.join()
        assert receive(client, 5) == b"later"
    for daemon, mark in zip(ends.daemons, marks, strict=True):
        assert not [line for line in daemon.err.lines(mark) if "channel 0: down" in line]
    eventually("rest", lambda: ends.daemons[0].stats().at_rest())
