"""Receivers of logs: rsyslog, and small servers that read as told."""

from __future__ import annotations

import shutil
import signal
import socket
import threading
from pathlib import Path

import pytest

from addresses import Address
from harness import PATIENCE, Scene
from processes import Process

MODULES = ("/usr/lib/x86_64-linux-gnu/rsyslog", "/usr/lib/aarch64-linux-gnu/rsyslog", "/usr/lib/rsyslog")


class Rsyslog:
    """rsyslogd with one input, and one file with the messages as they came."""

    def __init__(self, scene: Scene, relp: Address | None = None, tcp: Address | None = None) -> None:
        if shutil.which("rsyslogd") is None:
            pytest.skip("no rsyslogd: install rsyslog")
        if relp and not any(Path(folder, "imrelp.so").exists() for folder in MODULES):
            pytest.skip("no imrelp: install rsyslog-relp")
        self.scene = scene
        self.folder = scene.directory / f"rsyslog-{len(scene.processes)}"
        self.folder.mkdir()
        self.file = self.folder / "lines"
        self.address = relp or tcp
        port = self.address.spec.rsplit(":", 1)[1]
        plugin = "imrelp" if relp else "imptcp"
        size = 'maxDataSize="3m"' if relp else ""
        config = f"""
global(workDirectory="{self.folder}" maxMessageSize="3m" parser.escapeControlCharacterTab="off")
module(load="{plugin}")
template(name="whole" type="string" string="%rawmsg%\\n")
input(type="{plugin}" port="{port}" address="127.0.0.1" {size} ruleset="all")
ruleset(name="all" queue.type="Disk" queue.filename="all" queue.syncQueueFiles="on"
        queue.checkpointInterval="1" queue.saveOnShutdown="on" queue.maxFileSize="64m") {{
  action(type="omfile" file="{self.file}" template="whole" flushOnTXEnd="on" asyncWriting="off")
}}
"""
        (self.folder / "conf").write_text(config, encoding="utf-8")
        self.process: Process | None = None

    def start(self) -> None:
        pid = self.folder / "pid"
        pid.unlink(missing_ok=True)
        self.process = self.scene.spawn(
            ["rsyslogd", "-n", "-f", self.folder / "conf", "-i", pid], name="rsyslogd")

    def kill(self) -> None:
        assert self.process
        self.process.kill()

    def stop(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30 * PATIENCE)

    def lines(self) -> list[bytes]:
        return self.file.read_bytes().split(b"\n")[:-1] if self.file.exists() else []


class Reader:
    """Takes connections or datagrams, and reads only when it may."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(60 * PATIENCE)
        self.may_read = threading.Event()
        self.data = bytearray()
        self._found: list[bytes] = []
        self._parsed = 0  # bytes of data that are found
        self.datagrams: list[bytes] = []
        self.connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        stream = self.sock.type == socket.SOCK_STREAM
        try:
            while True:
                connection = self.sock.accept()[0] if stream else self.sock
                self.connections.append(connection)
                self.may_read.wait()
                while piece := connection.recv(1 << 20):
                    if stream:
                        self.data += piece
                    else:
                        self.datagrams.append(piece)
        except OSError:
            pass

    def messages(self) -> list[bytes]:
        """Octet-counted ones, as far as they are complete; or datagrams."""
        if self.sock.type != socket.SOCK_STREAM:
            return list(self.datagrams)
        data = self.data
        while (space := data.find(b" ", self._parsed, self._parsed + 20)) >= 0:
            digits = data[self._parsed : space]
            assert digits.isdigit(), data[self._parsed : self._parsed + 100]
            end = space + 1 + int(digits)
            if end > len(data):
                break
            self._found.append(bytes(data[space + 1 : end]))
            self._parsed = end
        return list(self._found)

    def close(self) -> None:
        for sock in [self.sock, *self.connections]:
            sock.close()
