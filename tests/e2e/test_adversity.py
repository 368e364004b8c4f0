"""What a hostile review of the driver found: crowds, several threads and channels, odd endings."""

from __future__ import annotations

import os
import random
import resource
import select
import signal
import socket
import threading
import time

import pytest

from harness import PATIENCE, Pair, Scene, into, out
from stage import (
    ListeningService,
    carry,
    close_hard,
    eventually,
    expect_client_reset,
    receive,
    receive_all,
    wait_for_echo,
)

CHANNELS = 64
CROWD = 9000
LINK = 80 << 10  # bytes, less than may be in flight where small messages are all that was sent
FIRST = 43  # windows that fill the link's socket, but not half of what may be on its way


def test_a_thread_that_is_done_does_not_hurry_the_others(scene: Scene) -> None:
    """Two channels on two threads; only one of them has a stream that wants time to finish."""
    idle, busy, door = (scene.addresses.unix() for _ in range(3))
    service = ListeningService(scene, "unix")
    channels = ["-c", f"unix-listen:{idle.spec}:0", "-c", f"unix-listen:{busy.spec}:1"]
    near = scene.daemon(*channels, *out("x", door, 1), "--threads", "2", channels=(0, 1))
    scene.daemon("-c", f"unix-connect:{busy.spec}", *into("x", service.address))
    near.wait_up(1)
    with door.connect() as client, service.accept() as far_end:
        client.sendall(b"question")
        assert receive(far_end, 8) == b"question"
        near.expected_death = True
        threads = f"/proc/{near.pid}/task"
        before = len(os.listdir(threads))
        near.send_signal(signal.SIGTERM)
        eventually("the idle thread is done", lambda: len(os.listdir(threads)) < before)
        far_end.sendall(b"late answer")
        assert receive(client, 11) == b"late answer"
    near.check_exit()


@pytest.mark.parametrize("threads", [1, 4])
def test_many_channels_in_one_process(scene: Scene, threads: int) -> None:
    """More than the kernel completes at once; with no limit given there is memory for each."""
    service = scene.echo_service()
    channels = [scene.addresses.unix() for _ in range(CHANNELS)]
    doors = [scene.addresses.unix() for _ in range(CHANNELS)]
    near_args: list[str] = ["--threads", str(threads)]
    far_args: list[str] = ["--threads", str(threads)]
    for number, (channel, door) in enumerate(zip(channels, doors, strict=True)):
        near_args += ["-c", f"unix-listen:{channel.spec}:{number}", *out("echo", door, number)]
        far_args += ["-c", f"unix-connect:{channel.spec}:{number}", *into("echo", service, number)]
    near, far = scene.daemon(*near_args, name="near"), scene.daemon(*far_args, name="far")
    for door in (doors[0], doors[-1]):
        wait_for_echo(door)
    for number in range(CHANNELS):
        near.wait_up(number)
    for daemon in (near, far):
        daemon.terminate()
    assert not any(os.path.exists(address.place) for address in (*channels, *doors))


def test_a_crowd_that_says_little_and_ends_at_once(scene: Scene) -> None:
    """Thousands of small frames, each with its stream's end behind it, ready for one batch."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 2 * CROWD + 1000:
        pytest.skip("too few descriptors for the crowd")
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    service = ListeningService(scene, "unix", backlog=4096)
    door = scene.addresses.unix()
    near = [*out("x", door), "--memory", "1G"]
    pair = Pair(scene, "unix", near=near, far=into("x", service.address))
    clients, far_ends = [], []
    for _ in range(CROWD):
        clients.append(door.connect())
        far_ends.append(service.accept())
    pair.far.send_signal(signal.SIGSTOP)
    # What the link takes before it blocks; the crowd's bytes pile up behind it.
    first, crowd = clients[:FIRST], clients[FIRST:]
    for client in first:
        client.setblocking(False)
        client.send(b"x" * 60000)
    pair.near.wait_stats("the link is full", lambda s: s.total("in_flight") > LINK)
    for client in crowd:
        client.sendall(b"y")
        client.shutdown(socket.SHUT_WR)
    # Some may have gone into the batch that the link has not taken yet.
    pair.near.wait_stats("the crowd is heard", lambda s: s.total("send_bytes") >= len(crowd) // 2)
    pair.far.send_signal(signal.SIGCONT)
    for far_end in far_ends[len(first) :]:
        assert receive(far_end, 1) == b"y"
    for sock in (*clients, *far_ends):
        sock.close()
    pair.wait_at_rest()


def test_a_reset_after_the_end_of_input_reaches_the_service(scene: Scene, kind: str) -> None:
    service = ListeningService(scene)
    _, doors = carry(scene, kind, {"x": service.address})
    with doors["x"].connect() as client, service.accept() as far_end:
        client.sendall(b"?")
        client.shutdown(socket.SHUT_WR)
        assert receive(far_end, 1) == b"?"
        assert far_end.recv(1) == b""
        close_hard(client)
        watch = select.poll()
        watch.register(far_end, 0)
        assert watch.poll(5000 * PATIENCE), "the service waits for a client that is gone"


def test_a_client_that_was_reset_before_its_service_was_dialed_is_no_end_for_it(
    scene: Scene,
) -> None:
    """The far end reads that the stream is opened and that it is reset, often in one piece. The
    service then hears of it as a reset or not at all."""
    service = ListeningService(scene, "tcp")
    pair, doors = carry(scene, "unix", {"x": service.address})
    pair.far.send_signal(signal.SIGSTOP)
    client = doors["x"].connect()
    client.sendall(b"a request")
    pair.near.wait_stats("the request has left", lambda s: s.total("in_flight") > 9)
    close_hard(client)
    pair.near.wait_stats("the client is gone", lambda s: s.total("connections") == 0)
    pair.far.send_signal(signal.SIGCONT)
    with doors["x"].connect() as second:
        second.sendall(b"another")
        second.shutdown(socket.SHUT_WR)
        data, was_reset = conversation(service)
        if was_reset:
            assert b"a request".startswith(data)
            data, was_reset = conversation(service)
        assert (data, was_reset) == (b"another", False)


def conversation(service: ListeningService) -> tuple[bytes, bool]:
    """What the next client says, and whether a reset ends it."""
    data = b""
    with service.accept() as far_end:
        try:
            while piece := far_end.recv(100):
                data += piece
        except ConnectionResetError:
            return data, True
    return data, False


def test_a_socket_of_somebody_else_is_not_removed(scene: Scene) -> None:
    """Its path was taken over while the daemon ran."""
    channel, door = scene.addresses.unix(), scene.addresses.unix()
    daemon = scene.daemon("-c", f"unix-listen:{channel.spec}", *out("x", door))
    for address in (channel, door):
        os.unlink(address.place)
    with channel.listen(), door.listen():
        daemon.terminate()
        for address in (channel, door):
            assert os.path.exists(address.place), f"{address.place} was somebody else's"


def test_refused_dials_do_not_flood_the_log(scene: Scene) -> None:
    pair, doors = carry(scene, "unix", {"nobody": scene.addresses.unix()})
    mark = pair.far.mark()
    begin = time.monotonic()
    for _ in range(500):
        expect_client_reset(doors["nobody"], 5)
    seconds = time.monotonic() - begin
    assert pair.far.mark() - mark < 20 * (seconds + 1)
    pair.wait_at_rest()


URGENT_AFTER = 8 << 20  # bytes: by then they are spliced
REST = 1 << 20


@pytest.mark.parametrize("sender", ["client", "service"])
def test_an_urgent_byte_keeps_its_place_in_bulk(scene: Scene, kind: str, sender: str) -> None:
    """The kernel splices up to it and then says that nothing is there, or that this is the end."""
    service = ListeningService(scene)
    pair, doors = carry(scene, kind, {"x": service.address})
    content = random.Random(1).randbytes(URGENT_AFTER + 1 + REST)
    with doors["x"].connect(30 * PATIENCE) as client, service.accept(30) as far_end:
        source, sink = (client, far_end) if sender == "client" else (far_end, client)

        def send() -> None:
            source.sendall(content[:URGENT_AFTER])
            source.send(content[URGENT_AFTER : URGENT_AFTER + 1], socket.MSG_OOB)
            source.sendall(content[URGENT_AFTER + 1 :])
            source.shutdown(socket.SHUT_WR)

        sending = threading.Thread(target=send)
        sending.start()
        try:
            got = receive_all(sink)
        finally:
            sending.join()
        assert len(got) == len(content), f"{len(content) - len(got)} bytes are missing"
        assert got == content
    pair.wait_at_rest()
