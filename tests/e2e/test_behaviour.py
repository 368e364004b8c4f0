"""How single streams live and end: half-close, reset, refusal, early data, slow dials."""

from __future__ import annotations

import hashlib
import socket
import threading
import time

import pytest

from addresses import Address
from harness import PATIENCE, Pair, Scene, into, out
from stage import (
    ListeningService,
    carry,
    close_hard,
    echo_once,
    expect_client_reset,
    expect_reset,
    limit_ms,
    receive,
    receive_all,
)

BLOB = hashlib.sha256(b"blob").digest() * 8192  # 256 KiB
AT_ONCE = 1.0


@pytest.fixture(name="kinds", params=["tcp-tcp", "tcp-unix", "unix-tcp", "unix-unix"])
def fixture_kinds(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Kinds of the clients' door and of the service."""
    door, service = request.param.split("-")
    return door, service


def both_ends(scene: Scene, kinds: tuple[str, str]) -> tuple[Pair, socket.socket, socket.socket]:
    """A client and what its service accepted."""
    service = ListeningService(scene, kinds[1])
    pair, doors = carry(scene, "unix", {"service": service.address}, kinds[0])
    client = doors["service"].connect(20 * PATIENCE)
    return pair, client, service.accept()


def send_in_background(sock: socket.socket, data: bytes) -> threading.Thread:
    thread = threading.Thread(target=sock.sendall, args=(data,), daemon=True)
    thread.start()
    return thread


def test_a_request_that_ended_still_gets_its_response(
    scene: Scene, kinds: tuple[str, str]
) -> None:
    pair, client, service = both_ends(scene, kinds)
    with client, service:
        sending = send_in_background(client, BLOB)
        assert receive(service, len(BLOB)) == BLOB
        sending.join()
        client.shutdown(socket.SHUT_WR)
        assert service.recv(1) == b""
        service.sendall(b"late response")
        assert receive(client, 13) == b"late response"
        sending = send_in_background(service, BLOB)
        assert receive(client, len(BLOB)) == BLOB
        sending.join()
        service.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    pair.wait_at_rest()


def test_a_service_that_ended_still_hears_its_client(
    scene: Scene, kinds: tuple[str, str]
) -> None:
    pair, client, service = both_ends(scene, kinds)
    with client, service:
        service.sendall(b"banner")
        service.shutdown(socket.SHUT_WR)
        assert receive_all(client) == b"banner"
        sending = send_in_background(client, BLOB)
        assert receive(service, len(BLOB)) == BLOB
        sending.join()
        client.shutdown(socket.SHUT_WR)
        assert service.recv(1) == b""
    pair.wait_at_rest()


@pytest.mark.parametrize("killer", ["client", "service"])
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_a_reset_arrives_as_a_reset(scene: Scene, killer: str, busy: bool) -> None:
    pair, client, service = both_ends(scene, ("tcp", "tcp"))
    client.sendall(b"hello")
    assert receive(service, 5) == b"hello"
    dies, lives = (client, service) if killer == "client" else (service, client)
    if busy:
        dies.sendall(BLOB[:65536])
        lives.sendall(BLOB[:65536])
    close_hard(dies)
    expect_reset(lives, 5)
    lives.close()
    pair.wait_at_rest()


@pytest.mark.parametrize("killer", ["client", "service"])
def test_an_end_is_not_taken_for_a_reset(scene: Scene, killer: str) -> None:
    """Whoever closes normally after its last byte gives the other side an end, not an error."""
    pair, client, service = both_ends(scene, ("tcp", "tcp"))
    closes, reads = (client, service) if killer == "client" else (service, client)
    closes.sendall(b"last words")
    closes.close()
    assert receive_all(reads) == b"last words"
    reads.close()
    pair.wait_at_rest()


@pytest.mark.parametrize("door_kind", ["tcp", "unix"])
@pytest.mark.parametrize("service_kind", ["tcp", "unix"])
def test_a_refused_service_resets_its_client_at_once(
    scene: Scene, door_kind: str, service_kind: str
) -> None:
    nobody = scene.addresses.of_kind(service_kind)
    pair, doors = carry(scene, "unix", {"nobody": nobody}, door_kind)
    for _ in range(20):
        expect_client_reset(doors["nobody"], AT_ONCE)
    pair.wait_at_rest()


def test_an_unknown_service_resets_its_client_at_once(scene: Scene, kind: str) -> None:
    door = scene.addresses.tcp()
    pair = Pair(scene, kind, near=out("unheard-of", door), far=into("x", scene.addresses.tcp()))
    for _ in range(20):
        expect_client_reset(door, AT_ONCE)
    pair.wait_at_rest()


def test_a_dial_that_times_out_resets_its_client(scene: Scene) -> None:
    never = scene.addresses.tcp()
    scene.serve("never-accept", never)
    pair, doors = carry(scene, "unix", {"never": never}, far=("--connect-timeout", "1"))
    with doors["never"].connect() as client:
        took = expect_reset(client, 5)
    assert took > 0.5, f"given up after {took:.2f} s, but a second was granted"
    pair.wait_at_rest()


def test_data_sent_before_the_service_answers_is_not_lost(
    scene: Scene, kinds: tuple[str, str]
) -> None:
    service = ListeningService(scene, kinds[1])
    pair, doors = carry(scene, "unix", {"service": service.address}, kinds[0])
    with doors["service"].connect() as client:
        client.sendall(BLOB[:16384])
        client.shutdown(socket.SHUT_WR)
        with service.accept() as far_end:
            assert receive_all(far_end) == BLOB[:16384]
            far_end.sendall(b"thanks")
        assert receive_all(client) == b"thanks"
    pair.wait_at_rest()


def test_data_waits_for_a_service_whose_backlog_was_full(scene: Scene) -> None:
    """The dial hangs at first: the kernel drops the SYN until the service accepts again."""
    service = ListeningService(scene, backlog=0)
    fillers = []
    while True:
        filler = service.address.socket(0.3)
        fillers.append(filler)
        try:
            filler.connect((service.address.place, service.address.port))
        except TimeoutError:
            break
    pair, doors = carry(scene, "unix", {"service": service.address})
    with doors["service"].connect() as client:
        client.sendall(BLOB[:16384])
        client.shutdown(socket.SHUT_WR)
        pair.far.wait_stats("the dial", lambda stats: stats.total("connecting") == 1)
        for filler in fillers:
            filler.close()
        found = False
        while not found:
            with service.accept(20) as far_end:
                found = receive_all(far_end) == BLOB[:16384]
    pair.wait_at_rest()


def test_a_client_that_left_before_the_dial_was_done_leaves_nothing(scene: Scene) -> None:
    never = scene.addresses.tcp()
    scene.serve("never-accept", never)
    services = {"never": never, "echo": scene.echo_service()}
    pair, doors = carry(scene, "unix", services, far=("--connect-timeout", "60"))
    descriptors = pair.descriptors()
    clients = [doors["never"].connect() for _ in range(10)]
    for client in clients:
        client.sendall(b"anybody there?")
    pair.far.wait_stats("the dials", lambda stats: stats.total("connecting") == len(clients))
    for client in clients:
        close_hard(client)
    # What they sent is owed to the service for as long as nothing of it moves, 5 s.
    pair.wait_at_rest(descriptors)
    echo_once(doors["echo"])


def test_a_slow_dial_never_delays_another_service(scene: Scene) -> None:
    never = scene.addresses.tcp()
    scene.serve("never-accept", never)
    services = {"never": never, "echo": scene.echo_service()}
    pair, doors = carry(scene, "tcp", services, far=("--connect-timeout", "60"))
    waiting = [doors["never"].connect() for _ in range(4)]
    pair.far.wait_stats("four dials", lambda stats: stats.total("connecting") == 4)
    for _ in range(50):
        begin = time.monotonic()
        echo_once(doors["echo"])
        took = 1000 * (time.monotonic() - begin)
        assert took < limit_ms(250), f"an echo took {took:.0f} ms"
    for client in waiting:
        client.close()


def test_a_client_that_aborts_a_download_kills_no_daemon(scene: Scene) -> None:
    """SIGPIPE never matters."""
    pour = scene.addresses.tcp()
    scene.serve("pour", pour)
    services = {"pour": pour, "echo": scene.echo_service()}
    pair, doors = carry(scene, "unix", services)
    for index in range(20):
        client = doors["pour"].connect()
        receive(client, 100_000)
        if index % 2 == 0:
            close_hard(client)
        else:
            client.close()
    pair.wait_at_rest()
    echo_once(doors["echo"])


def test_a_service_that_aborts_an_upload_kills_no_daemon(scene: Scene) -> None:
    service = ListeningService(scene)
    services = {"service": service.address, "echo": scene.echo_service()}
    pair, doors = carry(scene, "unix", services)
    for _ in range(20):
        with doors["service"].connect() as client:
            client.sendall(BLOB[:100_000])
            close_hard(service.accept())
            expect_reset(client, 5)
    pair.wait_at_rest()
    echo_once(doors["echo"])


def test_every_stream_finds_its_own_service(scene: Scene) -> None:
    services = {f"service-{index}": ListeningService(scene) for index in range(5)}
    addresses: dict[str, Address] = {name: item.address for name, item in services.items()}
    _, doors = carry(scene, "unix", addresses)
    for name, service in services.items():
        with doors[name].connect() as client:
            client.sendall(name.encode())
            with service.accept() as far_end:
                assert receive(far_end, len(name)) == name.encode()
