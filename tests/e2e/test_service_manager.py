"""systemd's protocols: readiness, status, watchdog, passed sockets, and listeners that are stored over
a restart. The manager is one of the test's own; tests/e2e/test_units.py runs the real one."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from addresses import Address
from harness import PATIENCE, SANITIZED, Pair, Scene, into, out
from manager import Manager, threads
from stage import eventually

PERIOD = 0.6 if not SANITIZED else 4.0  # seconds of the watchdog


def channel(scene: Scene) -> list[str]:
    return ["-c", f"unix-listen:{scene.addresses.unix().spec}"]


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_ready_status_and_stopping(scene: Scene, abstract: bool) -> None:
    """READY=1 comes when every listener can be connected to, STOPPING=1 before the streams end."""
    manager = Manager(scene, abstract)
    address = scene.addresses.tcp()
    echo = scene.echo_service()
    link = scene.addresses.unix()
    scene.daemon("-c", f"unix-connect:{link.spec}", *into("echo", echo))
    daemon = manager.start(
        "-c", f"unix-listen:{link.spec}", *out("echo", address), "--drain-timeout", "7", wait=False
    )
    first = manager.wait_key("READY")
    assert first == {
        "READY": "1",
        "STATUS": "ready: channels 1, listening for 1 services, offering 0",
    }
    with address.connect() as client:
        client.sendall(b"ping")
        assert client.recv(4) == b"ping"
        daemon.expected_death = True
        daemon.send_signal(signal.SIGTERM)
        last = manager.wait_key("STOPPING")
        assert last["STATUS"] == "stopping: open streams may finish"
        assert int(last["EXTEND_TIMEOUT_USEC"]) == 24_000_000
        client.sendall(b"pong")
        assert client.recv(4) == b"pong"
    daemon.check_exit()
    assert [m for m in manager.messages if "WATCHDOG" in m] == []


def test_what_cannot_start_is_not_ready(scene: Scene) -> None:
    manager = Manager(scene)
    daemon = manager.start(*channel(scene), "-o", "x:/nowhere/x.sock:-", wait=False)
    daemon.check_exit(code=1)
    assert manager.receive(0.01) is None


def test_programs_see_no_variable_of_the_manager(scene: Scene) -> None:
    """Without a manager's variables nothing changes; those for another process are not acted on."""
    env = {"LISTEN_PID": "1", "LISTEN_FDS": "5", "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}
    manager = Manager(scene)
    manager.start(*channel(scene), "-i", "x:127.0.0.1:9", env=env)
    manager.wait_key("READY")


@pytest.mark.parametrize(
    ("env", "line"),
    [
        ({"NOTIFY_SOCKET": "notify"}, r"NOTIFY_SOCKET=notify is neither an absolute path nor @NAME"),
        ({"NOTIFY_SOCKET": "/nowhere/notify"}, r"NOTIFY_SOCKET=/nowhere/notify: No such file"),
        ({"WATCHDOG_USEC": "0"}, r"WATCHDOG_USEC=0 is no number of microseconds"),
        ({"WATCHDOG_USEC": "soon"}, r"WATCHDOG_USEC=soon is no number of microseconds"),
        ({"FDSTORE": "-1"}, r"FDSTORE=-1 is no number of descriptors"),
    ],
)
def test_variables_that_are_wrong(scene: Scene, env: dict[str, str], line: str) -> None:
    daemon = Manager(scene).start(*channel(scene), "-i", "x:127.0.0.1:9", env=env, wait=False)
    daemon.check_exit(code=1)
    daemon.wait_for_log(line)


# --- watchdog -------------------------------------------------------------------------------------

_LIBC = ctypes.CDLL(None, use_errno=True)
_SEIZE, _INTERRUPT, _DETACH = 0x4206, 0x4207, 17
_WALL = 0x40000000


@contextmanager
def stopped_thread(thread: int) -> Iterator[None]:
    """One thread stands still, and no other."""

    def trace(request: int) -> None:
        if _LIBC.ptrace(request, thread, None, None) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    try:
        trace(_SEIZE)
    except PermissionError:
        pytest.skip("ptrace is forbidden here")
    trace(_INTERRUPT)
    os.waitpid(thread, _WALL)
    try:
        yield
    finally:
        trace(_DETACH)


def test_one_worker_that_hangs_is_noticed(scene: Scene) -> None:
    manager = Manager(scene)
    daemon = manager.start(
        *channel(scene), *channel(scene), "-i", "x:127.0.0.1:9:0", "-i", "x:127.0.0.1:9:1",
        "--threads", "2", env={"WATCHDOG_USEC": str(int(PERIOD * 1e6))},
    )  # fmt: skip
    manager.wait_key("READY")
    for _ in range(3):
        manager.wait_key("WATCHDOG")
    for worker in threads(daemon.pid)[:2]:
        with stopped_thread(worker):
            # The last report may have been under way. A manager that gets none for so long kills.
            while manager.receive(0) is not None:
                pass
            manager.receive(PERIOD / 4)
            assert manager.receive(PERIOD) is None
        manager.wait_key("WATCHDOG")


def test_a_drain_keeps_the_watchdog_quiet(scene: Scene) -> None:
    """The loop goes on while open streams finish."""
    manager = Manager(scene)
    address = scene.addresses.tcp()
    echo = scene.echo_service()
    pair = Pair(scene, near=["-i", "x:127.0.0.1:9"], far=into("echo", echo))
    pair.near.terminate()
    link = pair.address
    daemon = manager.start(
        "-c", f"unix-listen:{link.spec}", *out("echo", address), "--drain-timeout", "60",
        env={"WATCHDOG_USEC": str(int(PERIOD * 1e6))},
    )  # fmt: skip
    with address.connect() as client:
        client.sendall(b"ping")
        assert client.recv(4) == b"ping"
        daemon.expected_death = True
        daemon.send_signal(signal.SIGTERM)
        manager.wait_key("STOPPING")
        for _ in range(3):
            manager.wait_key("WATCHDOG")
    daemon.check_exit()


# --- passed sockets -------------------------------------------------------------------------------


def echo_over(scene: Scene, link: Address) -> None:
    """The other end, with an echo service."""
    echo = scene.echo_service()
    scene.daemon("-c", f"unix-connect:{link.spec}", *into("echo", echo))


def ping(address: Address) -> None:
    with address.connect(20 * PATIENCE) as client:
        client.sendall(b"ping")
        assert client.recv(4) == b"ping"


@pytest.mark.parametrize("kind", ["tcp", "tcp6", "unix", "abstract", "name"])
def test_a_forward_listens_on_a_passed_socket(scene: Scene, kind: str) -> None:
    manager = Manager(scene)
    address, link = scene.addresses.of_kind(kind), scene.addresses.unix()
    echo_over(scene, link)
    with address.listen() as sock, link.listen() as own:
        sock.setblocking(False)  # what another process left: the flag stays with the socket
        daemon = manager.start(
            "-c", f"unix-listen:{link.spec}", *out("echo", address), passed=[("echo", sock), ("@0", own)]
        )
        daemon.wait_up()
        ping(address)
        daemon.terminate()
        if kind == "unix":
            assert os.path.exists(address.place), "a path of the manager was removed"
        # A client waits for the next process.
        with address.connect() as client:
            client.sendall(b"ping")
            manager.start(
                "-c", f"unix-listen:{link.spec}", *out("echo", address),
                passed=[("echo@0", sock), ("unknown", own)],
            )  # fmt: skip
            client.settimeout(20 * PATIENCE)
            assert client.recv(4) == b"ping"


def test_the_address_decides_between_listeners_of_one_name(scene: Scene) -> None:
    manager = Manager(scene)
    addresses = [scene.addresses.tcp() for _ in range(3)]
    link = scene.addresses.unix()
    echo_over(scene, link)
    with addresses[1].listen() as one, addresses[0].listen() as other:
        daemon = manager.start(
            "-c", f"unix-listen:{link.spec}",
            *(arg for address in addresses for arg in out("echo", address)),
            passed=[("echo", one), ("virtproxy.socket", other)],
        )  # fmt: skip
        daemon.wait_up()
        for address in addresses:
            ping(address)


@pytest.mark.parametrize(
    ("name", "passed", "line"),
    [
        ("ssh", "here", r"the passed socket ssh listens on {here}, and there is nothing of that name: "
                        r"FileDescriptorName= is SERVICE of an -o, SERVICE@CHANNEL, or @CHANNEL"),
        ("echo@1", "here", r"the passed socket echo@1 listens on {here}, and there is nothing"),
        ("echo", "elsewhere", r"the passed socket echo listens on {elsewhere}, and -o echo:{here} says "
                              r"otherwise: give both the same address"),
        ("x.socket", "elsewhere", r"the passed socket x.socket listens on {elsewhere}, which is the "
                                  r"address of no -o and no listening -c"),
        ("echo", "datagram", r"the passed descriptor 3 \(echo\) is no listening stream socket: use "
                             r"ListenStream= with Accept=no"),
        ("echo", "deaf", r"the passed descriptor 3 \(echo\) is no listening stream socket"),
    ],
)  # fmt: skip
def test_passed_sockets_that_are_wrong(scene: Scene, name: str, passed: str, line: str) -> None:
    manager = Manager(scene)
    here, elsewhere = scene.addresses.tcp(), scene.addresses.tcp()
    sockets = {
        "here": here.listen,
        "elsewhere": elsewhere.listen,
        "datagram": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
        "deaf": here.socket,
    }
    with sockets[passed]() as sock:
        daemon = manager.start(*channel(scene), *out("echo", here), passed=[(name, sock)], wait=False)
        daemon.check_exit(code=1)
    places = {"here": re.escape(here.spec), "elsewhere": re.escape(elsewhere.spec)}
    daemon.wait_for_log(line.format(**places))
    assert len([one for one in daemon.err.lines() if " error " in one]) == 1


@pytest.mark.parametrize("count", ["", "-1", "1x", "65537", "99999999999"])
def test_a_count_that_is_none(scene: Scene, count: str) -> None:
    address = scene.addresses.tcp()
    with address.listen() as sock:
        daemon = Manager(scene).start(
            *channel(scene), *out("echo", address), passed=[("echo", sock)],
            env={"LISTEN_FDS": count}, wait=False,
        )  # fmt: skip
        daemon.check_exit(code=1)
    daemon.wait_for_log(rf"LISTEN_FDS={count} is no number of descriptors from 0 to 65536")


def test_more_descriptors_than_there_are(scene: Scene) -> None:
    address = scene.addresses.tcp()
    with address.listen() as sock:
        daemon = Manager(scene).start(
            *channel(scene), *out("echo", address), passed=[("echo", sock)],
            env={"LISTEN_FDS": "2"}, wait=False,
        )  # fmt: skip
        daemon.check_exit(code=1)
    daemon.wait_for_log(r"the passed descriptor 4 \(\) ")


def test_a_passed_socket_is_under_the_rule_for_remote_addresses(scene: Scene) -> None:
    with socket.socket() as sock:
        sock.bind(("0.0.0.0", 0))
        sock.listen()
        port = sock.getsockname()[1]
        daemon = Manager(scene).start(
            *channel(scene), "-o", f"echo:0.0.0.0:{port}", passed=[("echo", sock)], wait=False
        )
        assert daemon.wait(15 * PATIENCE) == 1
        daemon.expected_death = True
        daemon.wait_for_log("start with --allow-remote")


# --- the store ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("death", [signal.SIGTERM, signal.SIGKILL], ids=["restart", "killed"])
def test_a_restart_refuses_no_client(scene: Scene, kind: str, death: signal.Signals) -> None:
    """Clients that come while there is no daemon wait for the next one."""
    manager = Manager(scene)
    address, link = scene.addresses.of_kind(kind), scene.addresses.unix()
    echo_over(scene, link)
    args = ["-c", f"unix-listen:{link.spec}", *out("echo", address)]
    daemon = manager.start(*args, env={"FDSTORE": "8"})
    manager.wait_key("READY")
    for _ in range(3):
        assert len(manager.stored) == 2, "the forward and the channel"
        ping(address)
        daemon.expected_death = True
        daemon.send_signal(death)
        daemon.wait(15 * PATIENCE)
        clients = [address.connect() for _ in range(50)]
        for client in clients:
            client.sendall(b"ping")
        daemon = manager.start(*args, env={"FDSTORE": "8"})
        for client in clients:
            with client:
                client.settimeout(20 * PATIENCE)
                assert client.recv(4) == b"ping"
        manager.wait_key("READY")


def test_what_is_stored_and_not_wanted_is_given_up(scene: Scene) -> None:
    manager = Manager(scene)
    before, after = scene.addresses.tcp(), scene.addresses.tcp()
    link = scene.addresses.unix()
    echo_over(scene, link)
    daemon = manager.start("-c", f"unix-listen:{link.spec}", *out("echo", before), env={"FDSTORE": "8"})
    manager.wait_key("READY")
    daemon.terminate()
    daemon = manager.start("-c", f"unix-listen:{link.spec}", *out("echo", after), env={"FDSTORE": "8"})
    daemon.wait_for_log(rf"the listener on {re.escape(before.spec)} of an earlier process is closed")
    manager.wait_key("READY")
    daemon.wait_up()
    ping(after)
    places = sorted(str(sock.getsockname()) for sock in manager.stored)
    assert places == sorted([str(("127.0.0.1", after.port)), link.place])
    with pytest.raises(ConnectionRefusedError):
        before.connect()


def test_a_path_that_was_removed_is_bound_again(scene: Scene) -> None:
    manager = Manager(scene)
    address, link = scene.addresses.unix(), scene.addresses.unix()
    echo_over(scene, link)
    args = ["-c", f"unix-listen:{link.spec}", *out("echo", address)]
    daemon = manager.start(*args, env={"FDSTORE": "8"})
    manager.wait_key("READY")
    daemon.terminate()
    os.unlink(address.place)
    manager.start(*args, env={"FDSTORE": "8"}).wait_up()
    ping(address)
    manager.wait_key("READY")
    assert len(manager.stored) == 2


def test_nothing_is_stored_unasked(scene: Scene) -> None:
    manager = Manager(scene)
    address = scene.addresses.unix()
    daemon = manager.start(*channel(scene), *out("echo", address))
    manager.wait_key("READY")
    daemon.terminate()
    eventually("the path is removed", lambda: not os.path.exists(address.place))
    assert manager.stored == []
