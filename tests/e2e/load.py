"""Clients of an echo service that check every byte, where streams may be cut at any time.

A stream ends in one of two ways: complete, both directions to their last byte, or in a reset that
the client sees. Anything else (a wrong byte, an end too early) is a violation.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

from addresses import Address
from harness import PATIENCE


@dataclass
class Tally:
    """What became of the streams."""

    complete: int = 0
    cut: int = 0
    refused: int = 0
    bytes: int = 0  # that came back and were right
    violations: list[str] = field(default_factory=list)


class Load:
    """Some clients at a time, one after the other, until told to stop."""

    def __init__(
        self,
        door: Address,
        clients: int,
        seed: int,
        most_bytes: int = 400_000,
        stuck: float = 60.0,  # seconds without a byte, which no fault here explains
    ) -> None:
        self.tally = Tally()
        self._stuck = stuck
        # How often the daemon at the door was killed: then the kernel may end its connections in an
        # orderly way, and nobody can help it.
        self.kills = 0
        self._door = door
        self._most = most_bytes
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(draw,), daemon=True)
            for draw in (random.Random(f"{seed}/{index}") for index in range(clients))
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> Tally:
        """Lets them finish; none may have seen a violation."""
        self.finish()
        assert not self.tally.violations, self.tally.violations
        return self.tally

    def finish(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * self._stuck * PATIENCE)
            assert not thread.is_alive(), "a client never came to its end"

    def _run(self, draw: random.Random) -> None:
        while not self._stop.is_set():
            content = draw.randbytes(draw.randrange(1, self._most))
            kills = self.kills
            try:
                sock = self._door.connect(self._stuck * PATIENCE)
            except OSError:
                with self._lock:
                    self.tally.refused += 1
                time.sleep(0.02)
                continue
            with sock:
                self._converse(sock, content, draw.randrange(1, 60_000), kills)

    def _converse(self, sock: socket.socket, content: bytes, step: int, kills: int) -> None:
        received = 0
        outcome = "cut"
        sender = Sender(sock, content, step)
        sender.start()
        try:
            while piece := sock.recv(1 << 16):
                if piece != content[received : received + len(piece)]:
                    outcome = f"wrong bytes after {received} of {len(content)}"
                    break
                received += len(piece)
            else:
                short = received < len(content)
                outcome = f"the end after {received} of {len(content)}" if short else "complete"
        except TimeoutError:
            outcome = f"stuck after {received} of {len(content)}"
        except OSError:
            pass
        # Closed once the sender has its end: a poll that goes on over a descriptor that was closed and given out
        # again waits for its whole time.
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        sender.join()
        sock.close()
        # The sender may have been told of the reset, and a socket tells only once.
        if outcome.startswith("the end") and (sender.reset or kills != self.kills):
            outcome = "cut"
        with self._lock:
            self.tally.bytes += received
            if outcome == "complete":
                self.tally.complete += 1
            elif outcome == "cut":
                self.tally.cut += 1
            else:
                self.tally.violations.append(outcome)
        if outcome == "cut" and received == 0:
            time.sleep(0.02)  # The channel is down: no need to hammer at it.


class Sender(threading.Thread):
    """Says everything, then the end."""

    def __init__(self, sock: socket.socket, content: bytes, step: int) -> None:
        super().__init__(daemon=True)
        self._sock, self._content, self._step = sock, content, step
        self.reset = False

    def run(self) -> None:
        try:
            for at in range(0, len(self._content), self._step):
                self._sock.sendall(self._content[at : at + self._step])
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.reset = True
