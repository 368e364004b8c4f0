"""The imitation of the 2010 daemon is faithful: its bytes, its habits, its faults."""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "oldpeer"))
pytest.register_assert_rewrite("flood", "old_wire", "old_peer", "wire_checks", "fault_checks")

from fault_checks import *  # noqa: F403
from flood import Flood
from harness import PATIENCE, Scene, into, out, scaled
from old_peer import KINDS, silent, start_pair
from stage import ListeningService, echo, receive, receive_all
from wire_checks import *  # noqa: F403

MIB = 1024 * 1024


@pytest.fixture(params=KINDS)
def line(request: pytest.FixtureRequest) -> str:
    """The kind of channel between two old peers."""
    return request.param


@pytest.mark.parametrize("clients", ["near", "far"])
def test_echo(scene: Scene, line: str, clients: str) -> None:
    # One direction at a time: with equal numbers one stream's end makes another one hang.
    door = scene.addresses.of_kind("unix" if clients == "far" else "tcp")
    ends = [out("echo", door), into("echo", scene.echo_service())]
    start_pair(scene, line, *(ends if clients == "near" else reversed(ends)))
    for size in (1, 1023, 1024, 1025, 100_000):
        with door.connect(10 * PATIENCE) as first, door.connect(10 * PATIENCE) as second:
            for sock in (first, second):
                echo(sock, os.urandom(size))


def test_http(scene: Scene, line: str) -> None:
    web, door = scene.addresses.tcp(), scene.addresses.tcp()
    page = os.urandom(300_000)
    (scene.directory / "page").write_bytes(page)
    server = scene.spawn(
        [sys.executable, "-u", "-m", "http.server", str(web.port), "--bind", "127.0.0.1"],
        name="http.server",
        cwd=scene.directory,
    )
    server.out.wait_for("Serving HTTP", 20 * PATIENCE)
    start_pair(scene, line, out("http", door), into("http", web))
    for count in range(3):
        got = scene.directory / f"got{count}"
        limit = str(60 * PATIENCE)
        url = f"http://{door.spec}/page"
        scene.run(["curl", "-sS", "--fail", "--max-time", limit, "-o", got, url])
        assert got.read_bytes() == page


def test_sixteen_mib_each_way(scene: Scene, line: str) -> None:
    service, door = ListeningService(scene), scene.addresses.tcp()
    start_pair(scene, line, out("bulk", door), into("bulk", service.address), log=False)
    content = [hashlib.sha256(b"%d" % i).digest() * (16 * MIB // 32) for i in (0, 1)]
    with door.connect(120 * PATIENCE) as client, service.accept() as server:
        server.settimeout(120 * PATIENCE)
        for source, sink, sent in ((client, server, content[0]), (server, client, content[1])):
            sender = threading.Thread(target=source.sendall, args=(sent,), daemon=True)
            sender.start()
            got = receive(sink, len(sent))
            sender.join(10)
            assert hashlib.sha256(got).digest() == hashlib.sha256(sent).digest()


# Four are just enough; in the large buffers of TCP that takes long to build up.
@pytest.mark.parametrize(("kind", "streams"), [("unix", 4), ("unix", 8), ("tcp", 8)])
def test_floods_both_ways_deadlock_for_good(scene: Scene, kind: str, streams: int) -> None:
    service, door = ListeningService(scene), scene.addresses.tcp()
    near, far = out("flood", door), into("flood", service.address)
    pair = start_pair(scene, kind, near, far, log=False)
    flood = Flood(scene, door, service, uploads=streams, downloads=streams)
    # Both write to the channel: near's first descriptor after two listeners, far's first of all.
    stuck = [peer.wait_blocked_in("write", 120) for peer in pair]
    assert stuck == [5, 3], [peer.descriptor(fd) for peer, fd in zip(pair, stuck)]
    received = flood.received()
    flood.close()  # Nobody is left to wait for; only the two wait for each other.
    assert [peer.wait_blocked_in("write") for peer in pair] == stuck
    assert flood.received() == received


def test_floods_do_not_deadlock_without_blocking_writes(scene: Scene) -> None:
    service, door = ListeningService(scene), scene.addresses.tcp()
    switch = "--nonblocking-writes"
    near, far = [*out("flood", door), switch], [*into("flood", service.address), switch]
    start_pair(scene, "unix", near, far, log=False)
    Flood(scene, door, service, uploads=8, downloads=8, amount=4 * MIB).finish(120)


@pytest.mark.parametrize("streams", [1, 3])
def test_few_floods_do_not_deadlock(scene: Scene, streams: int) -> None:
    service, door = ListeningService(scene), scene.addresses.tcp()
    near, far = out("flood", door), into("flood", service.address)
    start_pair(scene, "unix", near, far, log=False)
    amount = scaled(32 * MIB)
    Flood(scene, door, service, uploads=streams, downloads=streams, amount=amount).finish(120)


@pytest.mark.parametrize("faulty", [True, False], ids=["original", "nonblocking"])
def test_a_service_that_never_reads_stops_the_others(scene: Scene, faulty: bool) -> None:
    doors = [scene.addresses.tcp(), scene.addresses.tcp()]
    sink = ListeningService(scene)
    near = [*out("sink", doors[0]), *out("echo", doors[1])]
    far = [*into("sink", sink.address), *into("echo", scene.echo_service())]
    if not faulty:
        far.append("--nonblocking-writes")
    _, far_peer = start_pair(scene, "unix", near, far, log=False)
    with doors[0].connect(60 * PATIENCE) as client, doors[1].connect(60 * PATIENCE) as other:
        echo(other)
        server = sink.accept()
        sender = threading.Thread(target=client.sendall, args=(b"x" * 32 * MIB,), daemon=True)
        sender.start()
        if faulty:
            far_peer.wait_blocked_in("write")
            other.sendall(b"?")
            other.settimeout(1)
            with pytest.raises(TimeoutError):
                other.recv(1)
            other.settimeout(60 * PATIENCE)
            receive(server, 32 * MIB)
            assert receive(other, 1) == b"?"
        else:
            sender.join(60 * PATIENCE)
            echo(other)
        server.close()


def test_a_half_close_loses_the_late_response(scene: Scene, line: str) -> None:
    service, door = ListeningService(scene), scene.addresses.tcp()
    start_pair(scene, line, out("late", door), into("late", service.address))
    with door.connect(30 * PATIENCE) as client, service.accept() as server:
        client.sendall(b"request")
        client.shutdown(socket.SHUT_WR)
        assert receive_all(server) == b"request"
        try:
            server.sendall(b"response")
        except OSError:
            pass
        assert receive_all(client) == b""


def test_with_half_close_the_late_response_arrives(scene: Scene) -> None:
    service, door = ListeningService(scene), scene.addresses.tcp()
    near, far = out("late", door), into("late", service.address)
    start_pair(scene, "unix", [*near, "--half-close"], [*far, "--half-close"])
    with door.connect(30 * PATIENCE) as client, service.accept() as server:
        client.sendall(b"request")
        client.shutdown(socket.SHUT_WR)
        assert receive(server, 7) == b"request"
        server.sendall(b"response")
        assert receive(client, 8) == b"response"


@pytest.mark.parametrize("trouble", ["unknown", "refused"])
@pytest.mark.parametrize("refuses", [False, True], ids=["original", "refusing"])
def test_a_client_without_a_service_hangs(scene: Scene, trouble: str, refuses: bool) -> None:
    doors = [scene.addresses.tcp(), scene.addresses.tcp()]
    near = [*out("wanted", doors[0]), *out("echo", doors[1])]
    far = into("echo", scene.echo_service())
    if trouble == "refused":
        far += into("wanted", scene.addresses.tcp())
    if refuses:
        far += ["--refuse-unknown-service", "--refuse-failed-dial"]
    near_peer, _ = start_pair(scene, "unix", near, far)
    with doors[0].connect(10 * PATIENCE) as client:
        number = near_peer.wait_log(r"sent CONTROL INIT client=(\d+) service=wanted").group(1)
        if refuses:
            assert client.recv(1) == b""
            return
        with doors[1].connect(10 * PATIENCE) as other:
            echo(other)  # What there is to say of the first client has been said by now.
        assert silent(client)
        near_peer.wait_log("received SERVER")
        failed = f"received CONTROL ACK client={number} server=-1"
        assert (failed in near_peer.packets()) == (trouble == "refused")


@pytest.mark.parametrize("shared", [True, False], ids=["original", "own-lookups"])
def test_equal_numbers_make_the_other_stream_hang(scene: Scene, shared: bool) -> None:
    """One stream each way with the same client number; when the first ends the second stops."""
    services = [ListeningService(scene), ListeningService(scene)]
    doors = [scene.addresses.tcp(), scene.addresses.tcp()]
    switch = [] if shared else ["--no-shared-lookup"]
    near = [*out("there", doors[0]), *into("here", services[0].address), *switch]
    far = [*out("here", doors[1]), *into("there", services[1].address), *switch]
    near_peer, far_peer = start_pair(scene, "unix", near, far)
    with doors[0].connect(10 * PATIENCE) as first, services[1].accept() as first_server:
        first.sendall(b"a")
        assert receive(first_server, 1) == b"a"
        with doors[1].connect(10 * PATIENCE) as second, services[0].accept() as second_server:
            second.sendall(b"b")
            assert receive(second_server, 1) == b"b"
            numbers = [
                peer.wait_log(r"sent CONTROL INIT client=(\d+)").group(1)
                for peer in (near_peer, far_peer)
            ]
            assert numbers[0] == numbers[1]
            first_server.close()
            assert first.recv(1) == b""
            second_server.sendall(b"answer")
            if not shared:
                assert receive(second, 6) == b"answer"
                return
            near_peer.wait_log("removed the record of another connection")
            second.sendall(b"c")  # The other direction still goes by the number alone.
            assert receive(second_server, 1) == b"c"
            assert silent(second)


def test_an_aborted_download_kills_both_unless_sigpipe_is_ignored(scene: Scene) -> None:
    service, door = scene.addresses.tcp(), scene.addresses.unix()
    scene.serve("pour", service)
    switch = "--die-of-sigpipe"
    near, far = [*out("pour", door), switch], [*into("pour", service), switch]
    pair = start_pair(scene, "unix", near, far, log=False)
    with door.connect(10 * PATIENCE) as client:
        receive(client, MIB)
        for peer in pair:
            peer.wait_blocked_in("write")
    assert [peer.wait(20 * PATIENCE) for peer in pair] == [-13, -13]
