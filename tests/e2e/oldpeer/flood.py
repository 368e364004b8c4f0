"""Streams that go flat out in one direction each, without half-close, which an old peer turns into
a full one."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
import time

from addresses import Address
from harness import PATIENCE, Scene
from stage import ListeningService, receive

_CHUNK = 1 << 16


class _Stream:
    """One sender and one receiver, which check that nothing is lost or altered."""

    def __init__(self, source: socket.socket, sink: socket.socket, amount: int, seed: int) -> None:
        self._source, self._sink = source, sink
        self._amount = amount
        self._piece = random.Random(seed).randbytes(_CHUNK - 24)  # Never in step with packets.
        self.received = 0
        self.longest_gap = 0.0
        self.verdict = "unfinished"
        self._threads = [
            threading.Thread(target=call, daemon=True) for call in (self._send, self._receive)
        ]
        for sock in (source, sink):
            sock.settimeout(None)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        left = self._amount
        try:
            while left:
                piece = self._piece[:left]
                self._source.sendall(piece)
                left -= len(piece)
        except OSError:
            pass

    def _receive(self) -> None:
        got, expected = hashlib.sha256(), hashlib.sha256()
        last = time.monotonic()
        try:
            while self.received < self._amount:
                data = self._sink.recv(_CHUNK)
                if not data:
                    break
                now = time.monotonic()
                self.longest_gap = max(self.longest_gap, now - last)
                last = now
                self.received += len(data)
                got.update(data)
        except OSError:
            pass
        left = self.received
        while left:
            expected.update(self._piece[:left])
            left -= min(left, len(self._piece))
        same = got.digest() == expected.digest()
        if not same:
            self.verdict = "altered"
        elif self.received == self._amount:
            self.verdict = "whole"
        else:
            self.verdict = "cut"

    def join(self, deadline: float) -> bool:
        for thread in self._threads:
            thread.join(max(0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        for sock in (self._source, self._sink):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            sock.close()


class Flood:
    """Uploads and downloads of `amount` bytes each, all started when all are open."""

    def __init__(
        self,
        scene: Scene,
        door: Address,
        service: ListeningService,
        uploads: int,
        downloads: int,
        amount: int = 1 << 40,
    ) -> None:
        self.streams: list[_Stream] = []
        for index in range(uploads + downloads):
            client = door.connect(10 * PATIENCE)
            client.sendall(b"!")
            server = service.accept()
            assert receive(server, 1) == b"!"
            ends = (client, server) if index < uploads else (server, client)
            self.streams.append(_Stream(*ends, amount, index))
        scene.cleanup(self.close)
        self._begin = time.monotonic()
        for stream in self.streams:
            stream.start()

    def finish(self, timeout: float) -> float:
        """Waits until all has arrived whole; returns bytes per second, both ways together."""
        deadline = time.monotonic() + timeout * PATIENCE
        late = [stream for stream in self.streams if not stream.join(deadline)]
        assert not late, f"{len(late)} of {len(self.streams)} streams are not done"
        verdicts = [stream.verdict for stream in self.streams]
        assert set(verdicts) == {"whole"}, verdicts
        return self.received() / (time.monotonic() - self._begin)

    def received(self) -> int:
        return sum(stream.received for stream in self.streams)

    def longest_gap(self) -> float:
        return max(stream.longest_gap for stream in self.streams)

    def close(self) -> None:
        for stream in self.streams:
            stream.close()
