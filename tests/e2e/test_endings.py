"""What both applications see when one of them, or a daemon, goes in the middle of something.

Early answers: a service that answers with bytes of the request unread and closes, or a client that does
the same. Everything that it sent reaches the other one, and then a reset.

Killed daemons: no transfer that was cut off ends like a complete one.
"""

from __future__ import annotations

import array
import fcntl
import hashlib
import socket
import termios
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from addresses import Address
from harness import PATIENCE, Daemon, Scene, into, out, scaled
from stage import ListeningService, carry, eventually, expect_reset, receive, receive_all

BLOB = hashlib.sha256(b"endings").digest() * 65536  # 2 MiB
TIMES = 20

END, RESET = "end", "reset"


@dataclass
class Heard:
    """What a reader got, and how that ended."""

    data: bytes
    ended: str


class Sender(threading.Thread):
    """Sends, and remembers whether that ended by a reset."""

    def __init__(self, sock: socket.socket, data: bytes) -> None:
        super().__init__(daemon=True)
        self._sock, self._data = sock, data
        self.saw_reset = False

    def run(self) -> None:
        try:
            self._sock.sendall(self._data)
        except ConnectionResetError:
            self.saw_reset = True
        except OSError:
            pass


SENDERS: weakref.WeakKeyDictionary[socket.socket, Sender] = weakref.WeakKeyDictionary()


def hear(sock: socket.socket, piece: int = 1 << 16, pause: float = 0) -> Heard:
    sock.settimeout(20 * PATIENCE)
    data = bytearray()
    while True:
        try:
            got = sock.recv(piece)
        except (ConnectionResetError, BrokenPipeError):
            return Heard(bytes(data), RESET)
        if not got:
            # The kernel reports a reset once: to the thread that sends, where that calls first.
            sender = SENDERS.get(sock)
            if sender:
                sender.join(20 * PATIENCE)
            return Heard(bytes(data), RESET if sender and sender.saw_reset else END)
        data += got
        if pause:
            time.sleep(pause)


def send_all(sock: socket.socket, data: bytes) -> None:
    """Until the other side's kernel has everything: a close drops what it has not.

    That happens with unread bytes on TCP when the first window is full before the next one is there.
    """
    sock.sendall(data)
    unsent = array.array("i", [1])

    def gone() -> bool:
        fcntl.ioctl(sock, termios.TIOCOUTQ, unsent)
        return unsent[0] == 0

    if sock.family != socket.AF_UNIX:
        eventually("the kernel sends it", gone)


def say(sock: socket.socket, data: bytes) -> Sender:
    """Sends in the background, as far as the other side lets it."""
    sender = Sender(sock, data)
    SENDERS[sock] = sender
    sender.start()
    return sender


def keep_busy(scene: Scene, door: Address, sink: ListeningService) -> None:
    """Sends on one stream without an end."""
    flow = door.connect(20 * PATIENCE)
    taken = sink.accept()
    for sock in (flow, taken):
        sock.settimeout(None)

    def pour() -> None:
        try:
            while True:
                flow.sendall(BLOB)
        except OSError:
            pass

    def drain() -> None:
        try:
            while taken.recv(1 << 18):
                pass
        except OSError:
            pass

    for run in (pour, drain):
        threading.Thread(target=run, daemon=True).start()

    def stop() -> None:
        for sock in (flow, taken):
            sock.shutdown(socket.SHUT_RDWR)

    scene.cleanup(stop)


def two_daemons(
    scene: Scene, service: Address, kind: str, clients: str, protocol: int, busy: bool = False
) -> tuple[Daemon, Daemon, Address]:
    """Both daemons, and where clients come in: at the end that is named."""
    door = scene.addresses.of_kind(kind)
    here, there = out("s", door), into("s", service)
    if busy:
        sink, busy_door = ListeningService(scene), scene.addresses.tcp()
        # The same way as the answers.
        here, there = here + into("busy", sink.address), there + out("busy", busy_door)
    near_args, far_args = (here, there) if clients == "near" else (there, here)
    options = () if protocol == 2 else ("--protocol", "1")
    channel = scene.addresses.unix().spec
    near = scene.daemon("-c", f"unix-listen:{channel}", *near_args, *options, name="near")
    far = scene.daemon("-c", f"unix-connect:{channel}", *far_args, *options, name="far")
    for daemon in (near, far):
        daemon.wait_up(protocol=protocol)
    if busy:
        keep_busy(scene, busy_door, sink)
    return near, far, door


@pytest.mark.parametrize("beside", ["alone", "beside-bulk", "slow-reader"])
@pytest.mark.parametrize("protocol", [2, 1])
@pytest.mark.parametrize("clients", ["near", "far"])
@pytest.mark.parametrize("size", [1_000, 100_000])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_an_early_answer_arrives_whole(
    scene: Scene, kind: str, size: int, clients: str, protocol: int, beside: str
) -> None:
    service = ListeningService(scene, kind)
    busy = beside == "beside-bulk"
    near, far, door = two_daemons(scene, service.address, kind, clients, protocol, busy)
    slow = beside == "slow-reader"
    answer = BLOB[:size]
    for body in (20_000, len(BLOB)):
        for turn in range(scaled(TIMES if body == 20_000 else TIMES // 4)):
            with door.connect(20 * PATIENCE) as client:
                say(client, BLOB[:body])
                with service.accept() as server:
                    server.recv(1000)
                    send_all(server, answer)
                heard = hear(client, *((4096, 0.002) if slow else ()))
            what = f"{body} bytes asked, turn {turn}: {len(heard.data)} bytes, then {heard.ended}"
            assert heard.data == answer, what
            # Neither a unix socket nor protocol 1 has a reset of its own.
            assert heard.ended == RESET or kind == "unix" or protocol == 1, what
    if not busy:
        near.wait_at_rest()
        far.wait_at_rest()


@pytest.mark.parametrize("protocol", [2, 1])
@pytest.mark.parametrize("size", [1_000, 100_000])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_what_a_client_sent_before_it_left_arrives_whole(
    scene: Scene, kind: str, size: int, protocol: int
) -> None:
    service = ListeningService(scene, kind)
    near, far, door = two_daemons(scene, service.address, kind, "near", protocol)
    for turn in range(scaled(TIMES)):
        with door.connect(20 * PATIENCE) as client:
            client.sendall(b"?")
            server = service.accept()
            say(server, BLOB[:50_000])
            assert client.recv(10) != b""
            send_all(client, BLOB[:size])
        with server:
            heard = hear(server)
        assert heard.data == b"?" + BLOB[:size], f"turn {turn}: {len(heard.data)}, {heard.ended}"
        assert heard.ended == RESET or kind == "unix" or protocol == 1
    near.wait_at_rest()
    far.wait_at_rest()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_reader_that_stands_still_holds_an_early_answer_for_some_seconds(
    scene: Scene, kind: str
) -> None:
    service = ListeningService(scene, kind)
    near, far, door = two_daemons(scene, service.address, kind, "near", 2)
    with door.connect(20 * PATIENCE) as client:
        client.sendall(b"?" * 1000)
        with service.accept() as server:
            server.recv(10)
            # More than all buffers hold: the rest lies in the service's socket.
            server.settimeout(1)
            try:
                server.sendall(BLOB * 4)
            except TimeoutError:
                pass
        # 5 s until the service's end gives up, 5 s more until the client's does.
        near.wait_at_rest(timeout=15)
        far.wait_at_rest(timeout=15)
        heard = hear(client)
        assert BLOB.startswith(heard.data[: len(BLOB)]) and len(heard.data) < 4 * len(BLOB)
        assert heard.ended == RESET or kind == "unix"


# Bytes that a client's receive buffer (128 KiB) and the daemon's send buffer to it (256 KiB) hold for certain:
# how much more depends on the pieces in which it comes.
WHAT_SOCKETS_HOLD = 300_000


def test_an_orderly_end_leaves_time_to_read(scene: Scene) -> None:
    """The daemon has closed its socket long before the client reads."""
    service = ListeningService(scene)
    pair, doors = carry(scene, "unix", {"service": service.address})
    with doors["service"].connect(20 * PATIENCE) as client:
        client.shutdown(socket.SHUT_WR)
        with service.accept() as server:
            assert server.recv(1) == b""
            server.sendall(BLOB[:WHAT_SOCKETS_HOLD])
        pair.wait_at_rest()
        assert hear(client) == Heard(BLOB[:WHAT_SOCKETS_HOLD], END)


# --- killed daemons ------------------------------------------------------------------------------


class Stage:
    """A client, a service, and two daemons between them."""

    def __init__(self, scene: Scene, kind: str) -> None:
        self.scene = scene
        self.kind = kind
        self.listener = ListeningService(scene, kind)
        self.pair, doors = carry(scene, "unix", {"service": self.listener.address}, kind)
        self.client = doors["service"].connect(20 * PATIENCE)
        scene.cleanup(self.client.close)
        self.server: socket.socket | None = None

    def accept(self) -> socket.socket:
        self.server = self.listener.accept()
        self.scene.cleanup(self.server.close)
        return self.server


def early_data(stage: Stage) -> None:
    stage.client.sendall(BLOB[:1000])
    # All of it is in the service's backlog.
    eventually("it arrives", lambda: stage.pair.far.stats().total("connections") == 1)
    stage.pair.far.wait_stats("it is sent", lambda stats: stats.total("held_bytes") == 0)


def in_a_download(stage: Stage) -> None:
    say(stage.accept(), BLOB)
    assert len(receive(stage.client, 100_000)) == 100_000


def in_an_upload(stage: Stage) -> None:
    say(stage.client, BLOB)
    assert len(receive(stage.accept(), 100_000)) == 100_000


def client_ended(stage: Stage) -> None:
    stage.client.shutdown(socket.SHUT_WR)
    assert stage.accept().recv(1) == b""
    say(stage.server, BLOB)
    assert len(receive(stage.client, 100_000)) == 100_000


def service_ended(stage: Stage) -> None:
    stage.accept().shutdown(socket.SHUT_WR)
    assert stage.client.recv(1) == b""
    say(stage.client, BLOB)
    assert len(receive(stage.server, 100_000)) == 100_000


def not_taken_yet(stage: Stage) -> None:
    """Everything was sent, the end too, but the service has not taken it: no DONE."""
    say(stage.client, BLOB[:1_000_000]).join(10 * PATIENCE)
    stage.client.shutdown(socket.SHUT_WR)
    stage.accept()
    stage.pair.far.wait_stats("it is held", lambda stats: stats.total("held_bytes") > 0)


def drained(stage: Stage) -> None:
    stage.client.sendall(BLOB[:1000])
    stage.client.shutdown(socket.SHUT_WR)
    assert receive_all(stage.accept()) == BLOB[:1000]
    stage.server.sendall(BLOB[:1000])
    stage.server.shutdown(socket.SHUT_WR)
    stage.pair.wait_at_rest()


# What the client and the service read after the kill on TCP. A direction that had ended before is over.
STATES: dict[Callable[[Stage], None], tuple[str, str]] = {
    early_data: (RESET, RESET),
    in_a_download: (RESET, RESET),
    in_an_upload: (RESET, RESET),
    client_ended: (RESET, END),
    service_ended: (END, RESET),
    not_taken_yet: (RESET, RESET),
    drained: (END, END),
}


@pytest.mark.parametrize("victim", ["near", "far"])
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_killed_daemon_never_makes_a_transfer_look_complete(
    scene: Scene, kind: str, state: Callable[[Stage], None], victim: str
) -> None:
    stage = Stage(scene, kind)
    state(stage)
    near, far = stage.pair.near, stage.pair.far
    killed, left = (near, far) if victim == "near" else (far, near)
    killed.kill9()
    # Until it knows, it delivers what it has to whoever reads: all of it, perhaps, and the end.
    left.wait_down()
    client, server = stage.client, stage.server or stage.accept()
    heard = hear(client), hear(server)
    expected = STATES[state]
    # On a unix socket, what is read depends on whether the daemon had bytes unread.
    if kind == "tcp" or state is drained:
        assert tuple(got.ended for got in heard) == expected, [len(got.data) for got in heard]
    if state is drained:
        assert heard[0].data == BLOB[:1000]
    if state is not_taken_yet:
        assert len(heard[1].data) < 1_000_000
    # Whoever saw the end of one direction is told when it goes on in the other.
    for sock, got, due in zip((client, server), heard, expected, strict=True):
        if due == END and state is not drained:
            with pytest.raises(OSError):
                deadline = time.monotonic() + 10 * PATIENCE
                while time.monotonic() < deadline:
                    sock.send(b"?")


@pytest.mark.parametrize("victim", ["near", "far"])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_daemon_that_is_killed_while_it_connects_resets_its_client(
    scene: Scene, kind: str, victim: str
) -> None:
    service = scene.addresses.of_kind(kind)
    scene.serve("never-accept", service)
    pair, doors = carry(scene, "unix", {"service": service}, kind)
    with doors["service"].connect(20 * PATIENCE) as client:
        client.sendall(b"?" * 1000)
        pair.far.wait_stats("it dials", lambda stats: stats.total("connecting") == 1)
        (pair.near if victim == "near" else pair.far).kill9()
        expect_reset(client, 10)
