"""Short of descriptors, of lockable memory, of io_uring: a message, less service, never a spin."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from addresses import Address
from harness import BIN, PATIENCE, Daemon, Pair, Scene, into, out
from stage import carry, comes_true, echo, echo_once, wait_for_echo

FEW = 64
MANY = 150
# What a message about them may say; a line of statistics is no message.
DESCRIPTORS = r"(?i)^(?!.*\bstats\b).*(descriptor|open files|nofile|EMFILE)"
MEASURED_SECONDS = 2.0


def crowd(door: Address, count: int) -> list[socket.socket]:
    """Clients who have all asked something and wait for the answer."""
    clients = []
    for _ in range(count):
        try:
            client = door.connect(10 * PATIENCE)
        except ConnectionResetError:
            continue  # Accepted and refused before connect(2) returned.
        try:
            client.sendall(b"?")
        except OSError:
            client.close()  # Refused. The error is reported once: a receive would show an end now.
            continue
        clients.append(client)
    return clients


def answered(clients: list[socket.socket], within: float) -> int:
    """How many have their answer by then; the others wait or were reset."""
    deadline = time.monotonic() + within * PATIENCE
    count = 0
    for client in clients:
        client.settimeout(max(0.01, deadline - time.monotonic()))
        try:
            count += client.recv(1) == b"?"
        except OSError:
            pass
    return count


def does_not_spin(daemon: Daemon) -> None:
    """Measures processor time over two seconds, which have to pass."""
    before = daemon.cpu_seconds()
    lines = daemon.mark()
    time.sleep(MEASURED_SECONDS)
    used = daemon.cpu_seconds() - before
    assert used < 0.25 * MEASURED_SECONDS, f"{daemon.name}: {used:.2f} s of processor time"
    assert daemon.mark() - lines < 100, f"{daemon.name}: the log is flooded"


def test_a_listener_out_of_descriptors_says_so_and_resumes(scene: Scene, kind: str) -> None:
    door = scene.addresses.tcp()
    few = {resource.RLIMIT_NOFILE: FEW}
    service = scene.echo_service()
    pair = Pair(scene, kind, out("echo", door), into("echo", service), near_limits=few)
    descriptors = pair.descriptors()
    with door.connect() as early:
        echo(early)
        mark = pair.near.mark()
        clients = crowd(door, MANY)
        pair.near.wait_for_log(DESCRIPTORS, since=mark)
        assert 0 < answered(clients, 3) < FEW
        does_not_spin(pair.near)
        echo(early, b"the old streams live on")
        for client in clients:
            client.close()
        wait_for_echo(door)
        echo(early)
    pair.wait_at_rest(descriptors)


def test_a_dialler_out_of_descriptors_refuses_and_resumes(scene: Scene, kind: str) -> None:
    door, service = scene.addresses.tcp(), scene.echo_service()
    pair = Pair(scene, kind, out("echo", door), into("echo", service))
    with door.connect() as early:
        echo(early)
        pair.far.limit_descriptors(FEW)
        mark = pair.far.mark()
        clients = crowd(door, MANY)
        pair.far.wait_for_log(DESCRIPTORS, since=mark)
        served = 0
        for client in clients:
            client.settimeout(5 * PATIENCE)
            try:
                data = client.recv(1)
                assert data == b"?", "the stream ended normally, but a reset was due"
                served += 1
            except (ConnectionResetError, BrokenPipeError):
                pass  # Refused at once. A time-out would be a hang, and fails.
        assert 0 < served < FEW
        does_not_spin(pair.far)
        echo(early, b"the old streams live on")
        for client in clients:
            client.close()
        wait_for_echo(door)
        echo(early)
    pair.wait_at_rest()


def as_nobody(program: Path) -> list[str]:
    """A prefix that gives up every privilege: for root the memory lock limit does not count."""
    if os.geteuid() != 0:
        return []
    prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]
    reachable = all(parent.stat().st_mode & 0o005 == 0o005 for parent in program.parents)
    if not reachable:
        pytest.skip(f"{program} cannot be run by an unprivileged user")
    return prefix


@pytest.mark.parametrize("driver", ["auto", "io_uring"])
@pytest.mark.parametrize("lockable", [0, 64 * 1024])
def test_hardly_any_lockable_memory_is_said_or_survived(
    scene: Scene, lockable: int, driver: str
) -> None:
    """Where even a small ring does not fit: epoll, or a message that tells what to do and exit code 1."""
    channel = scene.addresses.tcp()
    prefix = as_nobody(BIN / "virtproxy")
    command = [*prefix, BIN / "virtproxy", "-c", f"tcp-listen:{channel.spec}", "--driver", driver]
    daemon = scene.spawn(command, limits={resource.RLIMIT_MEMLOCK: lockable})
    if driver == "auto":
        daemon.err.wait_for(r"\bready\b", 10 * PATIENCE)
    else:
        daemon.err.wait_for(r"\bready\b|MEMLOCK", 10 * PATIENCE)
    if re.search(r"\bready\b", daemon.stderr()):
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(10 * PATIENCE) == 0, daemon.everything()
    else:
        assert daemon.wait(10 * PATIENCE) == 1, daemon.everything()
        assert len(daemon.stderr().splitlines()) <= 5, daemon.stderr()


@pytest.mark.parametrize("lockable", [1 << 20, 2 << 20, 8 << 20])
def test_little_lockable_memory_degrades_but_serves(scene: Scene, lockable: int) -> None:
    """8 MiB is what a user usually has; the charge is per user, so only one daemon is limited."""
    prefix = as_nobody(BIN / "virtproxy")
    channel, door, service = (scene.addresses.tcp() for _ in range(3))
    near_args = ["-c", f"tcp-listen:{channel.spec}", *out("x", door)]
    limits = {resource.RLIMIT_MEMLOCK: lockable}
    near = scene.daemon(*near_args, name="near", wrapper=prefix, limits=limits)
    far = scene.daemon("-c", f"tcp-connect:{channel.spec}", *into("x", service), name="far")
    for daemon in (near, far):
        daemon.wait_up()
    ends = ("--connect", door.traffic, "--listen", service.traffic)
    scene.traffic("exchange", *ends, "--streams", 20, "--bytes", "2M", "--kill", 5)
    near.wait_at_rest()
    far.wait_at_rest()


def test_without_io_uring_it_says_what_to_do(scene: Scene) -> None:
    script = Path(__file__).with_name("without_call.py")
    channel = scene.addresses.unix()
    command = [
        *(sys.executable, script, "io_uring_setup", BIN / "virtproxy"),
        *("-c", f"unix-listen:{channel.spec}", "--driver", "io_uring"),
    ]
    complaint = scene.run(command, timeout=10, expect=1).stderr()
    assert "io_uring" in complaint, complaint
    assert len(complaint.splitlines()) <= 5, complaint


def test_a_door_that_is_taken_is_an_error_at_the_start(scene: Scene) -> None:
    door = scene.addresses.tcp()
    with door.listen():
        channel = f"unix-listen:{scene.addresses.unix().spec}"
        command = [BIN / "virtproxy", "-c", channel, *out("x", door)]
        complaint = scene.run(command, timeout=10, expect=1).stderr()
    assert str(door.port) in complaint, complaint


def test_a_channel_address_that_is_taken_is_an_error_at_the_start(scene: Scene) -> None:
    channel = scene.addresses.tcp()
    with channel.listen():
        command = [BIN / "virtproxy", "-c", f"tcp-listen:{channel.spec}"]
        complaint = scene.run(command, timeout=10, expect=1).stderr()
    assert str(channel.port) in complaint, complaint


def test_a_thousand_streams_opened_and_closed_leave_no_descriptor(scene: Scene) -> None:
    pair, doors = carry(scene, "unix", {"echo": scene.echo_service()})
    echo_once(doors["echo"])
    descriptors = pair.descriptors()
    for _ in range(4):
        clients = crowd(doors["echo"], 250)
        assert answered(clients, 20) == 250
        for client in clients:
            client.close()
    pair.wait_at_rest(descriptors)


@pytest.mark.parametrize("method", ["listen", "connect"])
def test_a_channel_comes_back_while_clients_hold_every_descriptor(
    scene: Scene, method: str
) -> None:
    """The clients are another channel's: they must not keep this one's peer out, nor wait
    for it."""
    doors = [scene.addresses.tcp(), scene.addresses.tcp()]
    channels = [scene.addresses.unix(), scene.addresses.unix()]
    service = scene.echo_service()
    other = {"listen": "connect", "connect": "listen"}[method]
    near_args = ["-c", f"unix-listen:{channels[0].spec}:0"]
    near_args += ["-c", f"unix-{method}:{channels[1].spec}:1"]
    near_args += [*out("echo", doors[0], 0), *out("echo", doors[1], 1)]
    far_args = ["-c", f"unix-{other}:{channels[1].spec}", *into("echo", service)]
    few = {resource.RLIMIT_NOFILE: FEW}
    near = scene.daemon(*near_args, name="near", channels=(0, 1), limits=few)
    scene.daemon("-c", f"unix-connect:{channels[0].spec}", *into("echo", service), name="crowded")
    far = scene.daemon(*far_args, name="far")
    near.wait_up(0)
    near.wait_up(1)
    mark = near.mark()
    clients = crowd(doors[0], MANY)
    near.wait_for_log(DESCRIPTORS, since=mark)
    assert answered(clients[:1], 3) == 1
    for _ in range(3):
        mark = near.mark()
        far.kill9()
        near.wait_down(1, since=mark)
        time.sleep(0.5 * PATIENCE)  # in which whoever waits for a descriptor asks for one again
        echo(clients[0], b"nobody waits for a peer that is away")
        far = scene.daemon(*far_args, name="far again")
        near.wait_up(1, since=mark)
    for client in clients:
        client.close()
    wait_for_echo(doors[1])


# --- idle -----------------------------------------------------------------------------------------


def tasks_in_iowait() -> int:
    """As many as the kernel counts all the time, on the whole machine."""
    counts = []
    for _ in range(20):
        counts += re.findall(r"^procs_blocked (\d+)", Path("/proc/stat").read_text(), re.MULTILINE)
        time.sleep(0.01)
    return min(map(int, counts))


@pytest.mark.skipif(
    [int(part) for part in os.uname().release.split("-")[0].split(".")[:2]] < [6, 15],
    reason="this kernel accounts it as waiting for a disk",
)
def test_an_idle_daemon_is_not_accounted_as_waiting_for_a_disk(scene: Scene) -> None:
    channel = ("-c", f"unix-listen:{scene.addresses.unix().spec}")
    before = tasks_in_iowait()
    scene.daemon(*channel, "-o", f"a:{scene.addresses.unix().spec}")
    assert comes_true(lambda: tasks_in_iowait() <= before, 10)
    other = ("-c", f"unix-listen:{scene.addresses.unix().spec}", "--disable", "no-iowait")
    scene.daemon(*other, "--driver", "io_uring", "-o", f"a:{scene.addresses.unix().spec}")
    assert comes_true(lambda: tasks_in_iowait() > before, 10), "the measure shows nothing"
