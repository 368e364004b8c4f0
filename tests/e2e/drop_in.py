"""One channel whose ends run an old peer or a daemon of ours, as a test wants, and its crowds."""

from __future__ import annotations

import hashlib
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "oldpeer"))
pytest.register_assert_rewrite("flood", "old_wire", "old_peer")

from addresses import Address
from harness import PATIENCE, Daemon, Scene, into, out
from old_peer import OldPeer, SerialLine, channel
from old_peer import start as start_old
from processes import Process
from relay import CharacterDevice
from stage import echo, eventually, receive_all, wait_for_echo

OLD, NEW = "old", "new"
# KIND-NEAR-FAR; over a socket `near` listens.
PAIRINGS = [f"{kind}-{ends}" for kind in ("unix", "tcp", "pty") for ends in ("old-new", "new-old")]
SEED = 20101103
# Seconds after which one of a crowd stops waiting: the original leaves the client of a lost INIT
# hanging. More than choosing takes.
GIVES_UP = 0.7


class End:
    """One end of a line: its command line, which suits both programs, and what runs there."""

    def __init__(self, scene: Scene, name: str, spec: str, forwards: Sequence[str]) -> None:
        self._scene = scene
        self._name = name
        self.args = ["-c", spec, *forwards]
        self.doors: dict[str, Address] = {}
        self.listens: list[Address] = []
        self.switches: dict[str, Sequence[str]] = {OLD: (), NEW: ()}
        self.program = ""
        self.process: Process | None = None

    def start(self, program: str) -> None:
        """Starts the program and waits until it listens."""
        if isinstance(self.process, Daemon) and program == OLD:
            self._wait_until_free()
        self.program = program
        args = [*self.args, *self.switches[program]]
        name = f"{program} {self._name}"
        if program == OLD:
            self.process = start_old(self._scene, *args, name=name)
        else:
            self.process = self._scene.daemon(*args, name=name)

    def _wait_until_free(self) -> None:
        """The kernel holds a killed ring's listeners for some tens of milliseconds. Ours waits for
        them, the old peer does not."""

        def free(address: Address) -> bool:
            try:
                address.listen().close()
            except OSError:
                return False
            return True

        for address in self.listens:
            if address.is_tcp:
                what = f"{address.traffic} free again"
                eventually(what, lambda address=address: free(address))

    def stop(self, number: int = signal.SIGKILL) -> None:
        """Ends the process by the signal; ours must obey SIGTERM with a clean exit."""
        if isinstance(self.process, Daemon) and number == signal.SIGTERM:
            self.process.terminate()
        else:
            assert self.process
            if isinstance(self.process, Daemon):
                self.process.expected_death = True
            self.process.send_signal(number)
            self.process.wait(10 * PATIENCE)

    def wait_up(self, since: int = 0) -> None:
        """Waits until its program says that the channel is there."""
        if self.program == OLD:
            self.peer.wait_up(since)
        else:
            self.daemon.wait_session(since=since)

    @property
    def daemon(self) -> Daemon:
        assert isinstance(self.process, Daemon)
        return self.process

    @property
    def peer(self) -> OldPeer:
        assert isinstance(self.process, OldPeer)
        return self.process


class Line:
    """A channel between two ends that both offer the services, with a door for each at both."""

    def __init__(
        self,
        scene: Scene,
        pairing: str,
        services: dict[str, Address],
        old: Sequence[str] = (),
        new: Sequence[str] = (),
        start: bool = True,
        door_kind: str = "tcp",
    ) -> None:
        self.scene = scene
        kind, near, far = pairing.split("-")
        self.kind = kind
        self.hides_replacement = kind in ("pty", "device")
        if kind == "pty":
            serial = SerialLine(scene)
            specs = [channel("open", port) for port in serial.ports]
        elif kind == "device":
            ports = scene.addresses.unix(), scene.addresses.unix()
            device = CharacterDevice(ports)
            scene.cleanup(device.close)
            specs = [channel("connect", port) for port in ports]
        else:
            address = scene.addresses.of_kind(kind)
            specs = [channel("listen", address), channel("connect", address)]
        self.ends: list[End] = []
        for index, name in enumerate(("near", "far")):
            doors = {service: scene.addresses.of_kind(door_kind) for service in services}
            forwards = [arg for service, door in doors.items() for arg in out(service, door)]
            for service, target in services.items():
                forwards += into(service, target)
            end = End(scene, name, specs[index], forwards)
            end.doors = doors
            end.listens = list(doors.values())
            end.switches = {OLD: old, NEW: new}
            self.ends.append(end)
        self.near, self.far = self.ends
        if kind == "tcp":
            self.near.listens.append(address)
        self._programs = near, far
        if start:
            self.start()

    def start(self) -> None:
        for end, program in zip(self.ends, self._programs, strict=True):
            end.start(program)
        for end in self.ends:
            end.wait_up()

    def running(self, program: str) -> End:
        """The only end that runs the program."""
        found = [end for end in self.ends if end.program == program]
        assert len(found) == 1, [end.program for end in self.ends]
        return found[0]

    @property
    def daemon(self) -> Daemon:
        return self.running(NEW).daemon

    @property
    def peer(self) -> OldPeer:
        return self.running(OLD).peer

    def wait_for_echo(self, timeout: float = 20) -> None:
        """An answer of the service `echo` through the doors of both ends."""
        for end in self.ends:
            wait_for_echo(end.doors["echo"], timeout)

    def descriptors(self) -> int:
        """What our daemon has open when no stream is."""
        self.daemon.wait_at_rest()
        return max(self.daemon.fds(), self.daemon.stats().process["descriptors"])


def protocol_of(daemon: Daemon, since: int = 0) -> int:
    """The protocol of the last session in the log."""
    daemon.wait_for_log(r"channel 0: up\b", since=since)
    ups = [line for line in daemon.err.lines(since) if "channel 0: up" in line]
    return int(ups[-1].partition("protocol ")[2][0])


def wait_protocol(daemon: Daemon, number: int, since: int = 0, timeout: float = 20) -> None:
    daemon.wait_up(since=since, timeout=timeout, protocol=number)


def chat(door: Address, seed: int, rounds: int, largest: int = 60_000) -> None:
    """Questions of drawn bytes and sizes on one echo stream, each with its exact answer."""
    draw = random.Random(seed)
    with door.connect(30 * PATIENCE) as sock:
        for _ in range(rounds):
            echo(sock, draw.randbytes(draw.randrange(1, largest)))


def chat_all(doors: Sequence[Address], rounds: int, seed: int = SEED) -> None:
    """One stream at each of the doors (which may repeat), all at once."""
    with ThreadPoolExecutor(len(doors)) as pool:
        runs = [pool.submit(chat, door, seed + i, rounds) for i, door in enumerate(doors)]
        for run in runs:
            run.result()


def digest_of_received(sock: socket.socket, count: int) -> str:
    digest = hashlib.sha256()
    while count:
        data = sock.recv(min(count, 1 << 18))
        assert data, f"{count} bytes are missing"
        digest.update(data)
        count -= len(data)
    return digest.hexdigest()


def in_background(call: Callable[[], object]) -> threading.Thread:
    """Runs what may end in an error of its socket."""

    def run() -> None:
        try:
            call()
        except OSError:
            pass

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


class Crowd:
    """Clients of echo services that come, ask one question, leave and come again, whatever
    happens to the channel."""

    def __init__(self, scene: Scene, doors: Sequence[Address], each: int = 2) -> None:
        self.answers = dict.fromkeys(doors, 0)
        self.wrong: list[str] = []
        self._open = {door: threading.Event() for door in doors}
        self._idle = {door: 0 for door in doors}
        self._changed = threading.Condition()
        self._stopped = False
        self._threads = []
        for door in doors:
            self._open[door].set()
            for index in range(each):
                thread = threading.Thread(target=self._come_and_go, args=(door, index), daemon=True)
                thread.start()
                self._threads.append(thread)
        self._each = each
        scene.cleanup(self.stop)

    def stop(self) -> None:
        self._stopped = True
        for event in self._open.values():
            event.set()
        for thread in self._threads:
            thread.join(10 * PATIENCE)

    @contextmanager
    def away_from(self, door: Address) -> Iterator[None]:
        """Nobody comes to the door for a while."""
        self._open[door].clear()
        eventually("an empty door", lambda: self._idle[door] == self._each)
        try:
            yield
        finally:
            self._open[door].set()

    def wait_for_answers(self, count: int = 3, timeout: float = 20) -> None:
        """Some more answers at each door that is open."""
        for door, before in list(self.answers.items()):
            if self._open[door].is_set():
                goal = before + count
                what = f"answers at {door.traffic}"
                eventually(what, lambda: self.answers[door] >= goal, timeout)  # noqa: B023

    def _come_and_go(self, door: Address, index: int) -> None:
        draw = random.Random(f"{SEED} {door.traffic} {index}")
        while not self._stopped:
            if not self._open[door].is_set():
                with self._changed:
                    self._idle[door] += 1
                self._open[door].wait()
                with self._changed:
                    self._idle[door] -= 1
                continue
            if self._ask(door, draw.randbytes(draw.randrange(1, 3000))):
                with self._changed:
                    self.answers[door] += 1
            time.sleep(0.005)

    def _ask(self, door: Address, question: bytes) -> bool:
        try:
            with door.connect(GIVES_UP * PATIENCE) as sock:
                sock.sendall(question)
                answer = b""
                while len(answer) < len(question) and (piece := sock.recv(1 << 16)):
                    answer += piece
                    if not question.startswith(answer):
                        self.wrong.append(f"{door.traffic}: {answer[:40]!r}")
                        return False
                return answer == question
        except OSError:
            return False


def answered(door: Address, timeout: float = 2) -> bool:
    """Whether a new client gets an answer; it does not wait for the end of its stream."""
    try:
        with door.connect(timeout * PATIENCE) as sock:
            echo(sock, b"?")
    except (OSError, EOFError):
        return False
    return True


def expect_end(sock: socket.socket, within: float = 5) -> bytes:
    """What still comes before the end of the stream, be it a close or a reset, which is due."""
    sock.settimeout(within * PATIENCE)
    try:
        return receive_all(sock)
    except TimeoutError:
        raise AssertionError(f"the stream has not ended within {within * PATIENCE:g} s") from None
    except OSError:
        return b""
