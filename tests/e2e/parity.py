"""Readers of every pace beside company, over a channel whose ends are old or new: what two old ends
complete, every other pair has to complete, and not later."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from addresses import Address
from drop_in import NEW, OLD
from harness import PATIENCE, Scene, into, out
from old_peer import OldPeer, channel
from old_peer import start as start_old
from processes import Process
from stage import ListeningService, echo, receive

KIB, MIB = 1 << 10, 1 << 20
PAIRS = ["old-old", "new-old", "old-new", "new-new"]
COMPANY = ["alone", "pings", "bulk", "two"]
PIECE = bytes(range(256)) * 256


@dataclass(frozen=True)
class Reader:
    """How a client reads `amount` bytes: at a rate, or with one pause after the first MiB."""

    amount: int
    rate: float = 0  # bytes per second; 0: as fast as it can
    pause: float = 0  # seconds; negative: for ever


READERS = {
    "fast": Reader(64 * MIB),
    "2 MB/s": Reader(12 * MIB, rate=2e6),
    "100 KB/s": Reader(2 * MIB, rate=1e5),
    "pauses 0.8 s": Reader(12 * MIB, pause=0.8),
    "pauses 10 s": Reader(12 * MIB, pause=10),
    "never reads": Reader(12 * MIB, pause=-1),
}


@dataclass
class Outcome:
    """What became of a cell of the table."""

    completed: bool = False
    seconds: float = 0.0
    waited: float = 0.0  # the longest that the company waited
    trouble: list[str] = field(default_factory=list)

    def shown(self, company: str) -> str:
        done = f"{self.seconds:.1f} s" if self.completed else "no"
        if self.trouble:
            done += ", lost"
        return done if company in ("alone", "two") else f"{done}; {self.waited:.2f} s"


class Stage:
    """A channel between two ends. Clients are at the first one, services at the second."""

    def __init__(
        self, scene: Scene, pair: str, kind: str = "unix", new: Sequence[str] = ()
    ) -> None:
        self.service = ListeningService(scene, "unix")
        self.echo_service = scene.addresses.unix()
        scene.serve("echo", self.echo_service)
        services = {"any": self.service.address, "echo": self.echo_service}
        self.doors = {name: scene.addresses.unix() for name in services}
        address = scene.addresses.of_kind(kind)
        near = [arg for name in services for arg in out(name, self.doors[name])]
        far = [arg for name, target in services.items() for arg in into(name, target)]
        specs = [channel("listen", address), channel("connect", address)]
        self.ends: list[Process] = []
        programs = pair.split("-")
        for index, forwards in enumerate((near, far)):
            args = ["-c", specs[index], *forwards]
            if programs[index] == OLD:
                self.ends.append(start_old(scene, *args, name=f"{pair} {index}", log=False))
            else:
                self.ends.append(scene.daemon(*args, *new, name=f"{pair} {index}"))
        for end in self.ends:
            if isinstance(end, OldPeer):
                end.wait_up()
            else:
                end.wait_session()

    def download(self) -> tuple[socket.socket, socket.socket]:
        """A stream of the service `any`: (client, service)."""
        client = self.doors["any"].connect(30 * PATIENCE)
        client.sendall(b"!")
        server = self.service.accept(30)
        assert receive(server, 1) == b"!"
        return client, server


def _pour(sock: socket.socket, amount: int) -> None:
    try:
        sock.settimeout(None)
        for at in range(0, amount, len(PIECE)):
            sock.sendall(PIECE[: amount - at])
        sock.close()
    except OSError:
        pass


def _read(sock: socket.socket, reader: Reader, limit: float) -> str:
    """Reads as the reader does; says what went wrong, or nothing."""
    begin = time.monotonic()
    got = 0
    paused = reader.pause == 0
    sock.settimeout(limit)
    while got < reader.amount:
        if not paused and got >= MIB:
            paused = True
            if reader.pause < 0:
                time.sleep(limit)
                return "never read"
            time.sleep(reader.pause)
        if reader.rate:
            ahead = got / reader.rate - (time.monotonic() - begin)
            if ahead > 0:
                time.sleep(ahead)
        at = got % len(PIECE)
        try:
            data = sock.recv(min(16 * KIB if reader.rate else MIB, reader.amount - got))
        except OSError as trouble:
            return f"{trouble!r} after {got} bytes"
        if not data:
            return f"ended after {got} bytes"
        whole = PIECE * (len(data) // len(PIECE) + 2)
        if data != whole[at : at + len(data)]:
            return f"wrong bytes after {got}"
        got += len(data)
    return ""


class _Company:
    """Pings each 100 ms, or a flat-out download; remembers the longest wait."""

    def __init__(self, stage: Stage, what: str) -> None:
        self.longest = 0.0
        self.trouble = ""
        self._since = time.monotonic()
        self._stopped = False
        if what == "pings":
            self._sock = stage.doors["echo"].connect(30 * PATIENCE)
            echo(self._sock)
            call = self._ping
        else:
            self._sock, self._source = stage.download()
            threading.Thread(target=_pour, args=(self._source, 1 << 40), daemon=True).start()
            call = self._drain
        self._sock.settimeout(120 * PATIENCE)
        self._thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self._thread.start()

    def _run(self, call) -> None:
        try:
            while not self._stopped:
                self._since = time.monotonic()
                call()
                self.longest = max(self.longest, time.monotonic() - self._since)
                if call == self._ping:
                    time.sleep(0.1)
        except (OSError, EOFError, AssertionError) as trouble:
            if not self._stopped:
                self.trouble = repr(trouble)

    def _ping(self) -> None:
        echo(self._sock, b"still there?")

    def _drain(self) -> None:
        if not self._sock.recv(MIB):
            raise EOFError("the bulk beside has ended")

    def finish(self) -> None:
        if self._thread.is_alive():
            self.longest = max(self.longest, time.monotonic() - self._since)
        self._stopped = True
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._thread.join(10 * PATIENCE)


def run_cell(
    scene: Scene,
    pair: str,
    reader: Reader,
    company: str,
    new: Sequence[str] = (),
    limit: float = 60,
    kind: str = "unix",
) -> Outcome:
    """One cell: readers and company over a channel of their own."""
    stage = Stage(scene, pair, kind, new)
    outcome = Outcome()
    beside = _Company(stage, company) if company in ("pings", "bulk") else None
    pairs = [stage.download() for _ in range(2 if company == "two" else 1)]
    limit *= PATIENCE
    begin = time.monotonic()
    for _, server in pairs:
        threading.Thread(target=_pour, args=(server, reader.amount), daemon=True).start()
    with ThreadPoolExecutor(len(pairs)) as pool:
        troubles = list(pool.map(lambda pair: _read(pair[0], reader, limit), pairs))
    outcome.seconds = time.monotonic() - begin
    outcome.completed = not any(troubles)
    outcome.trouble = [trouble for trouble in troubles if trouble and trouble != "never read"]
    if beside:
        beside.finish()
        outcome.waited = beside.longest
        if beside.trouble:
            outcome.trouble.append(f"{company}: {beside.trouble}")
    for client, _ in pairs:
        client.close()
    for end in stage.ends:
        end.kill() if isinstance(end, OldPeer) else end.kill9()
    return outcome


ANSWER = b"HTTP/1.0 200 OK\r\n\r\n" + PIECE[:300]


def serve_answers(service: ListeningService) -> None:
    """Answers each client, and closes first, as HTTP/1.0 does; until its listener is closed."""

    def run() -> None:
        try:
            while True:
                sock = service.accept(3600)
                with sock:
                    question = b""
                    while not question.endswith(b"\r\n\r\n"):
                        piece = sock.recv(1 << 16)
                        if not piece:
                            break
                        question += piece
                    else:
                        sock.sendall(ANSWER)
        except OSError:
            pass

    for _ in range(4):
        threading.Thread(target=run, daemon=True).start()


def ask(door: Address, patience: float) -> str:
    """One client, who leaves when it has all of the answer: its CLOSE crosses the service's."""
    got = b""
    try:
        with door.connect(patience) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            while len(got) < len(ANSWER):
                piece = sock.recv(1 << 16)
                if not piece:
                    return "cut"
                got += piece
    except TimeoutError:
        return "hangs"
    except OSError:
        return "cut"
    return "answered" if got == ANSWER else "wrong"


__all__ = ["COMPANY", "NEW", "OLD", "PAIRS", "READERS", "Outcome", "Reader", "Stage", "ask", "run_cell"]
