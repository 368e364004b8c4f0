"""What a client gets while the channel is down: reset, refused, or held. With curl and rsyslog."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys

import pytest

from addresses import Address
from harness import BIN, PATIENCE, Daemon, Scene
from stage import echo, eventually, receive

WAIT = 20 * PATIENCE
REFUSED, RESET = "Connection refused", "reset by peer"  # as curl -v tells them


class Stage:
    """The near end listens with a policy; the far end and its services come and go."""

    def __init__(self, scene: Scene, policy: str, kind: str = "tcp") -> None:
        self.scene = scene
        self.link = scene.addresses.unix()
        self.door = scene.addresses.of_kind(kind)
        self.control = scene.addresses.unix().place
        self.file = scene.directory / "near.toml"
        self.write(policy)
        self.near: Daemon = scene.daemon("--config", self.file, "--control", self.control, name="near",
                                         channels=("vm1",))
        self.descriptors = self.near.fds()  # without a client

    def wait_accepted(self, clients: int) -> None:
        eventually("clients are accepted", lambda: self.near.fds() >= self.descriptors + clients)

    def write(self, policy: str) -> None:
        at = self.door.spec if self.door.is_tcp else f"unix:{self.door.place}"
        self.file.write_text(
            f'[channel.vm1]\ntransport = "unix-connect:{self.link.place}"\n'
            f'[channel.vm1.listen.web]\nat = "{at}"\nwhen-down = "{policy}"\n', encoding="ascii")

    def start_far(self, service: Address) -> Daemon:
        mark = self.near.mark()
        far = self.scene.daemon("-c", f"unix-listen:{self.link.spec}", "-i", f"web:{service.spec}", name="far")
        self.near.wait_up("vm1", since=mark)
        return far

    def stop(self, far: Daemon) -> None:
        mark = self.near.mark()
        far.kill9()
        self.near.wait_down("vm1", since=mark)

    def reload(self) -> None:
        subprocess.run([BIN / "virtproxyctl", "reload", "--control", self.control], check=True, timeout=WAIT)


PAGE = "a page\n"


def web_server(scene: Scene) -> Address:
    address = scene.addresses.tcp()
    (scene.directory / "page").write_text(PAGE, encoding="ascii")
    scene.spawn([sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory",
                 scene.directory, str(address.port)], name="web")
    eventually("the server listens", lambda: _connects(address))
    return address


def _connects(address: Address) -> bool:
    try:
        address.connect(1).close()
    except OSError:
        return False
    return True


def curl(stage: Stage) -> subprocess.Popen[str]:
    return subprocess.Popen(["curl", "-sv", "--max-time", str(int(WAIT)), f"http://{stage.door.spec}/page"],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def outcome(process: subprocess.Popen[str]) -> str:
    """A reset may come before or after curl sees the connection: its exit code is 7 or 56."""
    page, told = process.communicate(timeout=WAIT)
    if process.returncode == 0:
        return page
    return REFUSED if REFUSED in told else RESET if RESET in told else told


def get(stage: Stage) -> str:
    return outcome(curl(stage))


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@needs_curl
def test_curl_is_reset_or_refused(scene: Scene) -> None:
    """The policy follows the channel, and changes with a reload in either state of it."""
    stage = Stage(scene, "reset")
    web = web_server(scene)
    assert get(stage) == RESET
    stage.write("close")
    stage.reload()
    assert get(stage) == REFUSED
    for _ in range(3):
        far = stage.start_far(web)
        assert get(stage) == PAGE
        stage.stop(far)
        assert get(stage) == REFUSED
    # The port is kept meanwhile.
    with socket.socket() as other, pytest.raises(OSError):
        other.bind(("127.0.0.1", stage.door.port))
    stage.write("reset")
    stage.reload()
    assert get(stage) == RESET
    stage.start_far(web)
    stage.write("close")
    stage.reload()
    assert get(stage) == PAGE


@needs_curl
def test_curl_is_held(scene: Scene) -> None:
    stage = Stage(scene, f"hold {int(WAIT)}s")
    web = web_server(scene)
    for _ in range(2):
        waiting = [curl(stage) for _ in range(3)]
        stage.wait_accepted(3)
        assert all(process.poll() is None for process in waiting)
        far = stage.start_far(web)
        for process in waiting:
            assert outcome(process) == PAGE
        assert get(stage) == PAGE
        stage.stop(far)
    # Those that wait are reset in time, also if that is another one meanwhile, or with another policy.
    for policy in ("hold 10ms", "reset"):
        waiting = [curl(stage)]
        stage.wait_accepted(1)
        stage.write(policy)
        stage.reload()
        assert outcome(waiting[0]) == RESET
        assert get(stage) == RESET
        stage.write(f"hold {int(WAIT)}s")
        stage.reload()


def test_a_held_client_ends_with_the_daemon(scene: Scene) -> None:
    stage = Stage(scene, "hold 3600s", kind="unix")
    with stage.door.connect(WAIT) as client:
        client.sendall(b"x")
        stage.wait_accepted(1)
        stage.near.terminate()
        with pytest.raises((ConnectionResetError, EOFError)):
            receive(client, 1)  # A unix socket has no reset of its own.


def test_a_held_client_loses_nothing(scene: Scene) -> None:
    """What it sent before the channel was up arrives, on a path too."""
    stage = Stage(scene, "hold 3600s", kind="unix")
    service = scene.echo_service()
    with stage.door.connect(WAIT) as client:
        client.sendall(b"early")
        stage.start_far(service)
        assert receive(client, 5) == b"early"
        echo(client, b"x" * 100_000)


RSYSLOG = """
module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="{source}" RateLimit.Interval="0")
action(type="omfwd" Target="127.0.0.1" Port="{port}" Protocol="tcp" action.resumeRetryCount="-1"
       action.resumeInterval="1" queue.type="LinkedList" template="RSYSLOG_TraditionalForwardFormat")
"""


@pytest.mark.skipif(shutil.which("rsyslogd") is None, reason="rsyslog is not installed")
def test_rsyslog_keeps_its_lines(scene: Scene) -> None:
    """It is refused, so it keeps every line until the channel is there."""
    stage = Stage(scene, "close")
    source = scene.directory / "log"
    config = scene.directory / "rsyslog.conf"
    config.write_text(RSYSLOG.format(source=source, port=stage.door.port), encoding="ascii")
    scene.spawn(["rsyslogd", "-n", "-f", config, "-i", scene.directory / "rsyslog.pid"], name="rsyslog")
    eventually("rsyslog listens", source.exists)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(WAIT)
        sock.connect(str(source))
        for number in range(300):
            sock.send(f"<13>test: line {number} of it".encode())
    service = scene.addresses.tcp()
    receiver = service.listen()
    receiver.settimeout(WAIT)
    stage.start_far(service)
    connection, _ = receiver.accept()
    connection.settimeout(WAIT)
    data = b""
    while data.count(b" of it") < 300:
        piece = connection.recv(1 << 16)
        assert piece, data[-200:]
        data += piece
    places = [data.index(f"line {number} of it".encode()) for number in range(300)]
    assert places == sorted(places)
    connection.close()
    receiver.close()
