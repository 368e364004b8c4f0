"""Clients that get a page again and again until they are cut, and check what came before."""

from __future__ import annotations

import socket
import threading

from addresses import Address
from harness import PATIENCE

from .line import KIB, Page, sha256
from .machine import Guest


class Getter(threading.Thread):
    """A client on the host that gets one page again and again until it is cut, or told to stop.

    Every byte is compared as it comes. `ending` is "reset", "end" (the connection was closed
    before the page was complete), "stopped", or what else went wrong.
    """

    def __init__(self, door: Address, page: Page) -> None:
        super().__init__(daemon=True)
        self._door, self._page = door, page
        self._stop_asked = False
        self._changed = threading.Condition()
        self._received = 0
        self.pages = 0
        self.ending = ""
        self.start()

    def wait_received(self, count: int, timeout: float = 30) -> None:
        """Until so many bytes have come in all."""
        with self._changed:
            self._changed.wait_for(lambda: self._received >= count or self.ending,
                                   timeout * PATIENCE)
            assert not self.ending, self.ending
            assert self._received >= count, f"only {self._received} of {count} bytes"

    @property
    def received(self) -> int:
        with self._changed:
            return self._received

    def finish(self, timeout: float = 60) -> str:
        """Lets the present page come to its end; how it ended."""
        self._stop_asked = True
        return self.end(timeout)

    def end(self, timeout: float = 30) -> str:
        """Waits until the client is cut; how it ended."""
        self.join(timeout * PATIENCE)
        return "still waiting" if self.is_alive() else self.ending

    def run(self) -> None:
        ending = "stopped"
        try:
            while not self._stop_asked:
                with self._door.connect(60 * PATIENCE) as sock:
                    if not self._get(sock):
                        ending = "end"
                        break
                self.pages += 1
        except (ConnectionResetError, BrokenPipeError):
            ending = "reset"
        except Exception as error:  # pylint: disable=broad-except
            ending = repr(error)
        with self._changed:
            self.ending = ending
            self._changed.notify_all()

    def _get(self, sock: socket.socket) -> bool:
        sock.sendall(f"GET {self._page.path} HTTP/1.0\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            piece = sock.recv(4096)
            if not piece:
                return False
            head += piece
        head, _, body = head.partition(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n")[0]:
            raise ValueError(f"answer {head!r}")
        data, at = self._page.data, 0
        while at < len(data):
            if body != data[at:at + len(body)]:
                raise ValueError(f"wrong bytes from {at} on")
            at += len(body)
            with self._changed:
                self._received += len(body)
                self._changed.notify_all()
            body = sock.recv(64 * KIB)
            if not body:
                break
        return at == len(data)


class GuestGetter:
    """The same in the guest: wget again and again until it fails.

    The part of the page that came before the cut is compared by its hash.
    """

    _count = 0

    def __init__(self, guest: Guest, door: str, page: Page) -> None:
        type(self)._count += 1
        self._guest, self._page = guest, page
        self._part = f"/tmp/part.{self._count}"
        self.process = guest.start(
            f"while wget -q -O {self._part} http://{door}{page.path}; do echo page; done")

    def wait_received(self, count: int, timeout: float = 30) -> None:
        """Until a page is here, or so many bytes of one."""
        self._guest.wait_for(
            f"grep -q page {self.process.log_path} || "
            f"[ $(stat -c %s {self._part}) -ge {count} ]", timeout * PATIENCE)

    def check_cut(self, timeout: float = 30) -> str:
        """Waits until wget fails, checks what came before, and returns what wget said of it."""
        self.process.wait(timeout * PATIENCE)
        size, digest = self._guest.check(
            f"[ -e {self._part} ] || : > {self._part}; stat -c %s {self._part}; "
            f"sha256sum {self._part} | cut -d' ' -f1; rm {self._part}").split()
        assert sha256(self._page.data[:int(size)]) == digest, f"{size} bytes, not those of the page"
        return self.process.log()
