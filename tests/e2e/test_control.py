"""The control socket, virtproxyctl and the metrics, beside streams that carry data."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from harness import BIN, PATIENCE, Daemon, Scene, into, out
from stage import echo, eventually, wait_for_echo

WAIT = 10 * PATIENCE


class Operated:
    """A pair with an echo service; the near end is operated."""

    def __init__(self, scene: Scene, *extra: str) -> None:
        service = scene.addresses.unix()
        scene.serve("echo", service)
        self.door = scene.addresses.unix()
        channel = scene.addresses.unix()
        self.path = scene.addresses.unix().place
        self.metrics = scene.addresses.tcp()
        self.far = scene.daemon("-c", f"unix-listen:{channel.spec}", *into("echo", service), name="far")
        self.near: Daemon = scene.daemon(
            *("-c", f"unix-connect:{channel.spec}", *out("echo", self.door)),
            *("--control", self.path, "--metrics", self.metrics.spec, *extra),
            name="near",
        )
        self.near.wait_up()
        wait_for_echo(self.door)

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(WAIT)
        sock.connect(self.path)
        return sock

    def ask(self, line: bytes) -> str:
        with self.connect() as sock:
            sock.sendall(line)
            return read_answer(sock)

    def ctl(self, *args: str) -> subprocess.CompletedProcess[str]:
        command = [BIN / "virtproxyctl", args[0], "--control", self.path, *args[1:]]
        return subprocess.run(command, capture_output=True, text=True, timeout=WAIT, check=False)

    def ctl_json(self, *args: str):
        done = self.ctl(*args, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)


def read_answer(sock: socket.socket) -> str:
    data = b""
    while not data.endswith(b"\n\n"):
        piece = sock.recv(1 << 16)
        if not piece:
            raise EOFError(data)
        data += piece
    return data.decode()


def test_the_commands_tell_what_is_so(scene: Scene) -> None:
    stage = Operated(scene)
    with stage.door.connect(WAIT) as client:
        echo(client, b"x" * 1000)
        status = stage.ctl_json("status")
        assert status["pid"] == stage.near.pid
        assert (status["state"], status["channels"], status["channels_up"]) == ("serving", 1, 1)
        assert status["streams"] == 1
        (channel,) = stage.ctl_json("channels")
        assert (channel["channel"], channel["state"], channel["protocol"]) == ("0", "up", 2)
        assert channel["sent"] >= 1000 and channel["received"] >= 1000
        (forward,) = stage.ctl_json("forwards")
        assert (forward["service"], forward["role"]) == ("echo", "listen")
        assert forward["opened"] >= 1 and forward["failed"] == 0
    text = stage.ctl("channels").stdout.splitlines()
    assert text[0].split()[:3] == ["channel", "state", "protocol"]
    assert text[1].split()[:3] == ["0", "up", "2"]
    assert stage.ctl("log-level", "debug").stdout.split() == ["log_level", "debug"]
    assert stage.ctl_json("log-level") == {"log_level": "debug"}


def test_what_is_wrong_is_one_line(scene: Scene) -> None:
    stage = Operated(scene)
    for line, error in (
        (b"\n", "error: no command; try help\n\n"),
        (b"strea\x07ms\n", "error: there is no command 'strea\\x07ms'; try help\n\n"),
        (b"status now\n", "error: status: what is 'now'? Try help\n\n"),
        (b"log-level loud\n",
         "error: there is no level 'loud'; there are error, warn, info and debug\n\n"),
        (b"x" * 5000 + b"\n", "error: a command has at most 4096 bytes\n\n"),
    ):
        assert stage.ask(line) == error
    assert json.loads(stage.ask(b"nothing --json\n"))["error"].startswith("there is no command")
    done = stage.ctl("log-level", "loud")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "virtproxyctl: there is no level 'loud'; there are error, warn, info and debug\n"
    wrong = subprocess.run([BIN / "virtproxyctl", "status", "--control", stage.path + "x"],
                           capture_output=True, text=True, timeout=WAIT, check=False)
    assert wrong.returncode == 1
    assert "there is no such socket: is the daemon running with --control PATH?" in wrong.stderr


def test_only_its_user_may_connect_and_the_path_goes_with_the_daemon(scene: Scene) -> None:
    stage = Operated(scene)
    status = os.stat(stage.path)
    assert stat.S_ISSOCK(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o600
    assert stage.ctl("drain").stdout == "draining: open streams may finish\n"
    stage.near.check_exit()
    assert not Path(stage.path).exists()


def test_stop_does_not_wait_for_streams(scene: Scene) -> None:
    stage = Operated(scene, "--drain-timeout", "300")
    with stage.door.connect(WAIT) as client:
        echo(client)
        assert stage.ctl("drain").returncode == 0
        assert stage.ctl_json("status")["state"] == "draining"
        echo(client)
        assert stage.ctl("stop").stdout == "stopping: open streams are reset\n"
        stage.near.check_exit()


def test_clients_that_misbehave_harm_neither_streams_nor_others(scene: Scene) -> None:
    """Garbage, half a line, a flood without end, 1,000 clients, one that never reads."""
    stage = Operated(scene)
    with stage.door.connect(WAIT) as client:
        echo(client)
        half, flood, deaf = stage.connect(), stage.connect(), stage.connect()
        half.sendall(b"stat")
        with pytest.raises(OSError):
            for _ in range(1 << 14):
                flood.sendall(bytes(1 << 16))
        deaf.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                deaf.sendall(b"metrics\n" * 512)
        echo(client)
        assert "serving" in stage.ask(b"status\n")
        crowd = [stage.connect() for _ in range(1000)]
        assert "serving" in stage.ask(b"status\n")
        echo(client)
        for sock in (*crowd, half, flood, deaf):
            sock.close()
        eventually("descriptors come back", lambda: stage.ctl_json("status")["descriptors"] < 60)
        echo(client)


def http(stage: Operated, target: str = "/metrics") -> str:
    url = f"http://{stage.metrics.spec}{target}"
    with urllib.request.urlopen(url, timeout=WAIT) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return answer.read().decode()


def test_metrics_count_what_happens(scene: Scene) -> None:
    stage = Operated(scene)
    with stage.door.connect(WAIT) as client:
        echo(client, b"x" * 5000)
        text = http(stage)
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert lines['virtproxy_channel_up{channel="0"}'] == "1"
    sent = 'virtproxy_stream_bytes_total{channel="0",forward="echo",direction="sent"}'
    assert int(lines[sent]) >= 5000
    assert stage.ctl("metrics").stdout.splitlines()[0] == text.splitlines()[0]
    for target, code in (("/", 404), ("/metrics/x", 404)):
        with pytest.raises(urllib.error.HTTPError) as refused:
            http(stage, target)
        assert refused.value.code == code
    with stage.metrics.connect(WAIT) as sock:
        sock.sendall(b"GARBAGE\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 400 ")
