"""A service manager as far as a daemon sees one: notifications, passed sockets, a store of descriptors."""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from harness import PATIENCE, Daemon, Scene

# Receives descriptors, puts them where LISTEN_FDS has them, and becomes the program: a child has the
# pid that LISTEN_PID names only once it exists.
_LAUNCH = """
import os, socket, sys
with socket.socket(socket.AF_UNIX) as source:
    source.connect(sys.argv[1])
    _, fds, _, _ = socket.recv_fds(source, 1, 64)
high = [os.dup2(fd, 100 + i, inheritable=False) for i, fd in enumerate(fds)]
for fd in fds:
    os.close(fd)
for i, fd in enumerate(high):
    os.dup2(fd, 3 + i, inheritable=True)
os.environ.setdefault("LISTEN_PID", str(os.getpid()))
os.environ.setdefault("LISTEN_FDS", str(len(fds)))
os.execv(sys.argv[2], sys.argv[2:])
"""


class Manager:
    """Starts daemons as a service manager does, and keeps what they say and store."""

    def __init__(self, scene: Scene, abstract: bool = False) -> None:
        self._scene = scene
        path = scene.directory / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.address = f"@{scene.directory.name}-notify" if abstract else str(path)
        self._socket.bind(self.address.replace("@", "\0") if abstract else self.address)
        self.stored: list[socket.socket] = []
        self.sources: list[socket.socket] = []  # of log shipping, stored under a name of their own
        self.messages: list[dict[str, str]] = []
        scene.cleanup(self.close)

    def close(self) -> None:
        self._socket.close()
        for sock in self.stored + self.sources:
            sock.close()

    def start(
        self,
        *args: str | Path,
        passed: Sequence[tuple[str, socket.socket]] = (),
        env: dict[str, str] | None = None,
        **options,
    ) -> Daemon:
        """A daemon that is given these sockets under these names, and what is stored."""
        sockets = [*passed, *(("virtproxy.stored", sock) for sock in self.stored),
                   *(("virtproxy.sources", sock) for sock in self.sources)]
        env = {"NOTIFY_SOCKET": self.address, **(env or {})}
        if not sockets:
            return self._scene.daemon(*args, env=env, **options)
        env.setdefault("LISTEN_FDNAMES", ":".join(name for name, _ in sockets))
        with socket.socket(socket.AF_UNIX) as handover:
            path = self._scene.directory / f"handover-{time.monotonic_ns()}"
            handover.bind(str(path))
            handover.listen(1)
            handover.settimeout(20 * PATIENCE)
            wait = options.pop("wait", True)
            wrapper = [sys.executable, "-c", _LAUNCH, path]
            daemon = self._scene.daemon(*args, env=env, wrapper=wrapper, wait=False, **options)
            taker, _ = handover.accept()
            with taker:
                socket.send_fds(taker, [b"x"], [sock.fileno() for _, sock in sockets])
            if wait:
                daemon.wait_ready()
        return daemon

    def receive(self, timeout: float) -> dict[str, str] | None:
        """The next notification, or nothing after so many seconds. Does what it says to the store."""
        self._socket.settimeout(timeout)
        try:
            text, fds, flags, _ = socket.recv_fds(self._socket, 65536, 253)
        except (TimeoutError, BlockingIOError):
            return None
        assert not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
        lines = text.decode("ascii").split("\n")
        assert all(re.fullmatch(r"[A-Z_]+=.*", line) for line in lines), text
        message = dict(line.split("=", 1) for line in lines)
        store = {"virtproxy.stored": self.stored, "virtproxy.sources": self.sources}
        if message.get("FDSTOREREMOVE") == "1":
            for sock in store[message["FDNAME"]]:
                sock.close()
            store[message["FDNAME"]].clear()
        if message.get("FDSTORE") == "1":
            store[message["FDNAME"]] += [socket.socket(fileno=fd) for fd in fds]
        else:
            assert not fds
        self.messages.append(message)
        return message

    def wait_for(
        self, what: str, good: Callable[[dict[str, str]], bool], timeout: float = 15
    ) -> dict[str, str]:
        """Receives until a notification is good."""
        deadline = time.monotonic() + timeout * PATIENCE
        while (left := deadline - time.monotonic()) > 0:
            message = self.receive(left)
            if message is not None and good(message):
                return message
        raise AssertionError(f"no notification: {what}; there were {self.messages}")

    def wait_key(self, key: str) -> dict[str, str]:
        return self.wait_for(key, lambda message: key in message)


def threads(pid: int) -> list[int]:
    """The threads of a process but the first."""
    return sorted(int(name) for name in os.listdir(f"/proc/{pid}/task") if int(name) != pid)
