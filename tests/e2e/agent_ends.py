"""virtagent for the end-to-end tests: agents, connections that speak its lines, and a port between two of them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from harness import BIN, PATIENCE, Scene
from processes import Process


class Agent:
    """One `virtagent guest` or `virtagent host`."""

    def __init__(self, scene: Scene, *args: str | Path, name: str = "agent", wait: bool = True,
                 wrapper: Sequence[str | Path] = (), **options) -> None:
        self.process: Process = scene.spawn([*wrapper, BIN / "virtagent", *args], name, **options)
        self.name = name
        if wait:
            self.log("ready")

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self, pattern: str, since: int = 0, timeout: float = 10):
        return self.process.err.wait_for(pattern, timeout * PATIENCE, since)

    def mark(self) -> int:
        return self.process.err.count()

    def rss(self) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    def cpu(self) -> float:
        return time.clock_gettime(~self.pid << 3 | 2)

    def fds(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(10 * PATIENCE)
        assert code == 0, self.process.everything()


class Line:
    """A connection that speaks lines of JSON."""

    def __init__(self, where: Path | socket.socket) -> None:
        if isinstance(where, socket.socket):
            self.socket = where
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(str(where))
        self.socket.settimeout(10 * PATIENCE)
        self._read = b""

    def send(self, text: bytes | str) -> None:
        self.socket.sendall(text.encode() if isinstance(text, str) else text)

    def line(self) -> bytes:
        while b"\n" not in self._read:
            piece = self.socket.recv(1 << 16)
            if not piece:
                raise EOFError(f"ended behind {self._read!r}")
            self._read += piece
        line, self._read = self._read.split(b"\n", 1)
        return line

    def message(self) -> dict:
        return json.loads(self.line().lstrip(b"\xff"))

    def ask(self, method: str, **arguments) -> dict:
        names = {key.replace("_", "-"): value for key, value in arguments.items()}
        self.send(json.dumps({"execute": method, "arguments": names}) + "\n")
        return self.message()

    def code(self, method: str, **arguments) -> str:
        """The code of the error that must come."""
        answer = self.ask(method, **arguments)
        assert "error" in answer, answer
        return answer["error"]["code"]

    def value(self, method: str, **arguments):
        answer = self.ask(method, **arguments)
        assert "return" in answer, answer
        return answer["return"]

    def rest(self, size: int) -> bytes:
        while len(self._read) < size:
            piece = self.socket.recv(1 << 20)
            if not piece:
                break
            self._read += piece
        taken, self._read = self._read[:size], self._read[size:]
        return taken

    def ended(self) -> bool:
        try:
            return not self._read and self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def run(*args: str | Path, timeout: float = 20, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """A client to its end."""
    return subprocess.run([BIN / "virtagent", *args], input=data, capture_output=True, check=False,
                          timeout=timeout * PATIENCE)


def call(*args: str | Path, timeout: float = 20):
    """What `virtagent call` prints, which must succeed."""
    done = run("call", *args, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def takes_connections(path: Path) -> bool:
    """A path is there before its socket listens."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def await_that(what: str, condition, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds * PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.01)
