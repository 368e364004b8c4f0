"""A small QMP client: commands with deadlines, events skipped."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Any

from .control import GuestTimeout
from .initramfs import GuestError


class Qmp:
    """Speaks QMP over a connected socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = b""
        self._lock = threading.Lock()
        self._greeted = False

    def close(self) -> None:
        """Closes the socket."""
        self._sock.close()

    def execute(self, command: str, timeout: float = 30, **arguments: Any) -> Any:
        """The command's return value; GuestError when QEMU refuses it."""
        deadline = time.monotonic() + timeout
        with self._lock:
            if not self._greeted:
                self._message("QMP", deadline)
                self._call("qmp_capabilities", {}, deadline)
                self._greeted = True
            return self._call(command, arguments, deadline)

    def _call(self, command: str, arguments: dict[str, Any], deadline: float) -> Any:
        request = {"execute": command, "arguments": arguments}
        self._sock.settimeout(max(0.001, deadline - time.monotonic()))
        self._sock.sendall(json.dumps(request).encode() + b"\n")
        answer = self._message("return", deadline)
        if "error" in answer:
            raise GuestError(f"QMP {command}: {answer['error'].get('desc')}")
        return answer["return"]

    def _message(self, kind: str, deadline: float) -> dict[str, Any]:
        while True:
            line, found, rest = self._buffer.partition(b"\n")
            if found:
                self._buffer = rest
                message = json.loads(line)
                if kind in message or "error" in message:
                    return message
                continue
            try:
                self._sock.settimeout(max(0.001, deadline - time.monotonic()))
                data = self._sock.recv(65536)
            except TimeoutError as error:
                raise GuestTimeout(f"no QMP answer ({kind})") from error
            if not data:
                raise GuestError("QEMU closed its QMP socket")
            self._buffer += data
