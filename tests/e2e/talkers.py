"""Clients of an echo service that speak without a pause, check every byte, and tell how their streams ended."""

from __future__ import annotations

import random
import socket
import threading

from addresses import Address
from harness import PATIENCE
from stage import eventually, receive

CONTENT = random.Random(7).randbytes(1 << 20)
LARGEST = 32 << 10


class Talker(threading.Thread):
    """One connection. `ending` is None while it speaks."""

    def __init__(self, address: Address, number: int) -> None:
        super().__init__(daemon=True)
        self.sock = address.connect(60 * PATIENCE)
        self.chance = random.Random(number)
        self.bytes = 0
        self.ending: str | None = None
        self.start()

    def run(self) -> None:
        try:
            while True:
                at = self.chance.randrange(len(CONTENT) - LARGEST)
                block = CONTENT[at : at + self.chance.randint(1, LARGEST)]
                self.sock.sendall(block)
                if receive(self.sock, len(block)) != block:
                    self.ending = "wrong bytes"
                    return
                self.bytes += len(block)
        except (ConnectionResetError, BrokenPipeError):
            self.ending = "reset"
        except EOFError:
            self.ending = "end"
        except OSError as error:
            self.ending = str(error)


class Talkers:
    """So many of them at once."""

    def __init__(self, address: Address, count: int) -> None:
        self.all = [Talker(address, number) for number in range(count)]
        self.wait_progress()

    def wait_progress(self) -> None:
        """Until each has had another answer."""
        before = [talker.bytes for talker in self.all]

        def further() -> bool:
            assert self.endings() <= {None}, self.endings()
            return all(talker.bytes > count for talker, count in zip(self.all, before, strict=True))

        eventually("every stream goes on", further, 60)

    def bytes(self) -> int:
        return sum(talker.bytes for talker in self.all)

    def endings(self) -> set[str | None]:
        return {talker.ending for talker in self.all}

    def wait_endings(self, *wanted: str) -> None:
        """All have ended, each in one of these ways."""
        for talker in self.all:
            talker.join(60 * PATIENCE)
        assert self.endings() <= set(wanted), self.endings()
        self.close()

    def close(self) -> None:
        for talker in self.all:
            try:
                talker.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            talker.join(60 * PATIENCE)
            talker.sock.close()
