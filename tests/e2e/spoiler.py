"""Channels that spoil what they carry: bytes changed, lost, doubled or made up, at drawn places."""

from __future__ import annotations

import os
import random
import select
import threading
import tty
from collections import Counter


class Spoiler:
    """Spoils bytes, one fault for each `gap` of them on average, for as long as it is on."""

    KINDS = ("flip", "drop", "insert", "double", "scribble")

    def __init__(self, seed: int | str, gap: int) -> None:
        self._draw = random.Random(seed)
        self._gap = gap
        self._lock = threading.Lock()
        self._next = self._draw.randrange(1, 2 * gap)
        self.on = False
        self.faults: Counter[str] = Counter()

    def __call__(self, data: bytes) -> bytes:
        with self._lock:
            while self.on and self._next < len(data):
                at = self._next
                data = self._spoil(data, at)
                self._next = at + self._draw.randrange(1, 2 * self._gap)
            if self.on:
                self._next -= min(self._next, len(data))
        return data

    def _spoil(self, data: bytes, at: int) -> bytes:
        kind = self._draw.choice(self.KINDS)
        self.faults[kind] += 1
        count = self._draw.choice((1, 1, 1, 2, 8, 24, 100, 1000))
        before, after = data[:at], data[at:]
        if kind == "flip":
            return before + bytes([after[0] ^ 1 << self._draw.randrange(8)]) + after[1:]
        if kind == "drop":
            return before + after[count:]
        if kind == "insert":
            return before + self._draw.randbytes(count) + after
        if kind == "double":
            return before + after[:count] + after
        return before + self._draw.randbytes(min(count, len(after))) + after[count:]


class PtyLine:
    """A serial line: two ttys, joined by a thread that may spoil what it carries."""

    def __init__(self, spoiler: Spoiler) -> None:
        self._spoiler = spoiler
        self._pairs = [os.openpty(), os.openpty()]
        for master, slave in self._pairs:
            tty.setraw(slave)
            os.set_blocking(master, False)
        self.paths = [os.ttyname(slave) for _, slave in self._pairs]
        self._stopped = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopped = True
        self._thread.join(5)
        for pair in self._pairs:
            for fd in pair:
                os.close(fd)

    def _run(self) -> None:
        masters = [master for master, _ in self._pairs]
        waiting = {masters[0]: b"", masters[1]: b""}  # by the one that it is written to
        other = {masters[0]: masters[1], masters[1]: masters[0]}
        while not self._stopped:
            readers = [fd for fd in masters if not waiting[other[fd]]]
            writers = [fd for fd in masters if waiting[fd]]
            readable, writable, _ = select.select(readers, writers, [], 0.2)
            for fd in readable:
                waiting[other[fd]] = self._spoiler(os.read(fd, 1 << 14))
            for fd in writable:
                try:
                    waiting[fd] = waiting[fd][os.write(fd, waiting[fd]) :]
                except BlockingIOError:
                    pass
