"""Log shipping: a receiver for it, and programs that write numbered lines.

The receiver, virtproxy-logpeer, has the account of PROTOCOL.md and tells it as JSON, and writes what it
is delivered to a file. The audit of a source: what was written is what was delivered and dropped.
"""

from __future__ import annotations

import json
import os
import random
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from addresses import Address
from harness import BIN, PATIENCE, Daemon, Scene, scaled
from processes import Process

RECORD = struct.Struct("<HBQQI")
# Bytes of a backlog, of one of its lines, and of a spool that has room for it.
BACKLOG = int(os.environ.get("VIRTPROXY_LOG_BACKLOG") or scaled(64 << 20, 4 << 20))
BACKLOG_LINE = 8000
BACKLOG_SPOOL = max(8 << 20, BACKLOG * 5 // 4)


@dataclass
class Delivered:
    number: int
    full_length: int
    text: bytes
    head: bool


class LogPeer:
    """The other end of a channel, with the service virtproxy.log."""

    def __init__(self, scene: Scene, address: Address, acknowledges: bool = True) -> None:
        self._scene = scene
        self._address = address
        self._file = scene.directory / f"lines-{time.monotonic_ns()}"
        self.process: Process
        self.start(acknowledges)

    def start(self, acknowledges: bool = True) -> None:
        command = [BIN / "virtproxy-logpeer", self._address.place, self._file]
        self.process = self._scene.spawn([*command, *([] if acknowledges else ["no-ack"])], "logpeer")

    def accounts(self) -> list[dict]:
        lines = self.process.out.lines()
        return json.loads(lines[-1])["logs"] if lines else []

    def source(self, name: str) -> dict:
        """The account of a source, of all logs together."""
        total = {"next": 0, "delivered": 0, "dropped": {}, "unaccounted": 0, "duplicates": 0, "bytes": 0}
        for log in self.accounts():
            for source in log["sources"]:
                if source["name"] != name:
                    continue
                assert source["balanced"], source
                total["next"] += source["next"][0]
                total["bytes"] += source["next"][1]
                total["delivered"] += source["delivered"][0]
                total["unaccounted"] += source["unaccounted"]
                total["duplicates"] += source["duplicates"]
                for reason, tally in source["dropped"].items():
                    total["dropped"][reason] = total["dropped"].get(reason, 0) + tally[0]
        return total

    def wait_source(self, name: str, good: Callable[[dict], bool], timeout: float = 15) -> dict:
        deadline = time.monotonic() + timeout * PATIENCE
        while not good(self.source(name)):
            assert time.monotonic() < deadline, f"{name}: {self.source(name)}"
            time.sleep(0.02)
        return self.source(name)

    def wait_numbered(self, name: str, lines: int, timeout: float = 15) -> dict:
        """Until so many lines are delivered or dropped."""
        return self.wait_source(name, lambda source: source["next"] >= lines, timeout)

    def delivered(self, index: int = 0) -> list[Delivered]:
        """What the file has of a source, in order."""
        data = self._file.read_bytes()
        found, at = [], 0
        while at + RECORD.size <= len(data):
            source, kind, number, full, size = RECORD.unpack_from(data, at)
            at += RECORD.size
            if source == index:
                found.append(Delivered(number, full, data[at : at + size], kind == 1))
            at += size
        return found

    def texts(self, index: int = 0) -> list[bytes]:
        return [line.text for line in self.delivered(index)]


class Shipping:
    """A channel between a daemon that ships and a LogPeer."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.channel = scene.addresses.unix()

    def peer(self, acknowledges: bool = True) -> LogPeer:
        return LogPeer(self.scene, self.channel, acknowledges)

    def daemon(self, *args: str | Path, **options) -> Daemon:
        # At the end of a test the peer is gone first.
        wait = () if "--ship-flush-timeout" in args else ("--ship-flush-timeout", "0.2")
        return self.scene.daemon("-c", f"unix-connect:{self.channel.spec}", *args, *wait, **options)

    def path(self, name: str) -> Path:
        return self.scene.directory / name


def texts(count: int, sizes: Callable[[random.Random], int], seed: int = 1,
          alphabet: bytes = bytes(range(256))) -> list[bytes]:
    """Lines of random bytes that begin with their number where they have room for it."""
    chance = random.Random(seed)
    made = []
    for number in range(count):
        size = sizes(chance)
        text = bytes(chance.choices(alphabet, k=min(size, 512)))
        text = (text * (size // 512 + 1))[:size] if size > 512 else text
        made.append((b"%d " % number + text)[:size])
    return made


def send_dgrams(address: str | tuple[str, int], lines: list[bytes]) -> None:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        sock.connect(address)
        for line in lines:
            sock.send(line)


def write_backlog(daemon: Daemon, source: Path, key: str) -> int:
    """BACKLOG bytes of lines, until the figure `key` of the daemon has them all; returns how many lines."""
    lines, piece = BACKLOG // BACKLOG_LINE, 4096
    for first in range(0, lines, piece):
        numbers = range(first, min(first + piece, lines))
        send_dgrams(str(source), [b"%010d " % number + b"x" * (BACKLOG_LINE - 11) for number in numbers])
    daemon.wait_stats("all of it is there", lambda stats: stats.channels[0][key] == lines, 120)
    return lines


def send_stream(address: str | tuple[str, int], data: bytes) -> None:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.connect(address)
        sock.sendall(data)
