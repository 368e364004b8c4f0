"""A daemon that collects logs, what is sent to it, and what its sinks have."""

from __future__ import annotations

import base64
import random
import re
from collections.abc import Iterator

from harness import Daemon, Scene
from hostile_peer import HostilePeer
from log_guest import Log, LogGuest

SEED = 20261130
SIZES = (0, 1, 2, 63, 200, 1000, 4096, 70_000, 1 << 20)


def some_lines(rng: random.Random, count: int) -> list[bytes]:
    """Lines that differ, with every byte that may do harm."""
    lines = []
    for number in range(count):
        size = rng.choice(SIZES) if rng.random() < 0.02 else rng.randrange(300)
        lines.append(b"%d:" % number + rng.randbytes(size)[: max(0, size - 10)])
    return lines


def batches(lines: list[bytes], most: int = 64 * 1024) -> Iterator[list[bytes]]:
    part: list[bytes] = []
    for line in lines:
        if part and sum(map(len, part)) + len(line) > most:
            yield part
            part = []
        part.append(line)
    yield part


def text_of(entry: dict) -> bytes:
    if "message" in entry:
        return entry["message"].encode()
    return base64.b64decode(entry["message_base64"])


def unescape(text: bytes) -> bytes:
    return re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes([int(found.group(1), 16)]), text)


def parse_5424(line: bytes) -> tuple[str, str, int, bytes]:
    """VM, log, number and text of a line."""
    found = re.fullmatch(
        rb'<(\d+)>1 \S+ (\S+) \S+ \S+ \S+ \[virtproxy@32473 vm="([^"]*)" source="[^"]*" log="(\w+)" '
        rb'seq="(\d+)"[^\]]*\](?: (.*))?', line, re.DOTALL)
    assert found, line[:300]
    assert found.group(2) == found.group(3)
    return (found.group(2).decode(), found.group(4).decode(), int(found.group(5)),
            unescape(found.group(6) or b""))


class Collecting:
    """A collecting daemon with one channel for each VM."""

    def __init__(self, scene: Scene, sinks: list[str], vms: tuple[str, ...] = ("vm1",),
                 spool: str = "") -> None:
        self.scene = scene
        self.channels = {vm: scene.addresses.unix() for vm in vms}
        self.args: list[str] = []
        for vm, address in self.channels.items():
            self.args += ["-c", f"unix-listen:{address.spec}:{vm}"]
        for sink in sinks:
            self.args += ["--collect", sink]
        if spool:
            self.args += ["--collect-spool", spool]
        self.daemon: Daemon | None = None

    def start(self, *more: str, **options) -> Daemon:
        self.daemon = self.scene.daemon(*self.args, *more, channels=tuple(self.channels), **options)
        return self.daemon

    def guest(self, vm: str = "vm1") -> LogGuest:
        return LogGuest(HostilePeer(self.channels[vm], timeout=60))

    def send(self, log: Log, parts: list[list[bytes]], vm: str = "vm1") -> None:
        """All of it, until it is acknowledged."""
        guest = self.guest(vm)
        try:
            assert guest.begin(log)
            for part in parts:
                assert guest.send(log.add(part))
            assert guest.wait_acked(log)
        finally:
            guest.peer.close()
