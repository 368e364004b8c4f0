"""With a new end nothing is worse than with two old ones: slow readers, kills, ttys, numbers.

VIRTPROXY_PARITY=1 runs all of it at full size, with two old ends beside, and prints the table of
uring/daemon/MIGRATION.md.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from addresses import Address
from drop_in import SEED, Line, answered, protocol_of
from harness import PATIENCE, Scene, into, out
from old_peer import SerialLine, channel
from old_peer import start as start_old
from parity import COMPANY, MIB, NEW, OLD, PAIRS, READERS, Outcome, Stage, ask, run_cell
from parity import serve_answers
from processes import Process
from relay import CharacterDevice
from stage import ListeningService, echo_once, eventually, receive

FULL = os.environ.get("VIRTPROXY_PARITY", "") not in ("", "0")
only_full = pytest.mark.skipif(not FULL, reason="VIRTPROXY_PARITY=1 runs it")


# --- slow is not stalled --------------------------------------------------------------------------

# What a daemon that may hold little does is what any does when a reader is slow for longer.
LITTLE = ("--memory", "8M", "--max-streams", "64", "--window", "256K")
QUICK = {
    "2 MB/s": replace(READERS["2 MB/s"], amount=8 * MIB),
    "100 KB/s": replace(READERS["100 KB/s"], amount=MIB // 2),
    "pauses 0.8 s": replace(READERS["pauses 0.8 s"], amount=8 * MIB),
    "pauses 10 s": replace(READERS["pauses 10 s"], amount=8 * MIB),
}


def cells(scene: Scene, pairs, readers, new=(), limit: float = 60, at_once: int = 8):
    """Outcomes by (pair, reader, company), several at a time."""
    names = [(p, r, c) for r in readers for c in COMPANY for p in pairs]
    with ThreadPoolExecutor(at_once) as pool:
        runs = {
            name: pool.submit(
                run_cell, scene, name[0], readers[name[1]], name[2], new=new, limit=limit
            )
            for name in names
        }
        return {name: run.result() for name, run in runs.items()}


@pytest.mark.parametrize("new", [(), LITTLE], ids=["by-default", "with-little-memory"])
def test_no_slow_reader_is_cut_off(scene: Scene, new: tuple[str, ...]) -> None:
    """Nor does its company wait for a second more than it takes anyway."""
    found = cells(scene, ["new-old", "old-new"], QUICK, new)
    for (pair, reader, company), outcome in found.items():
        print(pair, reader, company, outcome)
        assert outcome.completed and not outcome.trouble, (pair, reader, company, outcome)


@only_full
@pytest.mark.parametrize("new", [(), LITTLE], ids=["by-default", "with-little-memory"])
def test_the_table(scene: Scene, new: tuple[str, ...]) -> None:
    found: dict[tuple[str, str, str], Outcome] = {}
    fast = {name: reader for name, reader in READERS.items() if name == "fast"}
    slow = {name: reader for name, reader in READERS.items() if name != "fast"}
    found |= cells(scene, PAIRS, fast, new, limit=30, at_once=2)
    found |= cells(scene, PAIRS, slow, new, limit=32, at_once=10)
    print("\n| reader | beside | " + " | ".join(PAIRS) + " |")
    print("|---|---|" + "---|" * len(PAIRS))
    for reader in READERS:
        for company in COMPANY:
            row = [found[pair, reader, company].shown(company) for pair in PAIRS]
            print(f"| {reader} | {company} | " + " | ".join(row) + " |")
    for (pair, reader, company), outcome in found.items():
        old = found["old-old", reader, company]
        name = (pair, reader, company, outcome, old)
        assert outcome.completed or not old.completed, name
        assert not outcome.trouble or old.trouble, name
        assert outcome.waited < 2 * old.waited + 1, name


# --- killed in an upload --------------------------------------------------------------------------


class Wire:
    """One kind of channel between `near`, which is old, and `far`, which is killed."""

    def __init__(self, scene: Scene, kind: str, far: str) -> None:
        self.scene, self.kind, self.program = scene, kind, far
        self.service = ListeningService(scene, "unix")
        self.echo_service = scene.addresses.unix()
        scene.serve("echo", self.echo_service)
        if kind == "pty":
            specs = [channel("open", port) for port in SerialLine(scene).ports]
        elif kind == "device":
            ports = scene.addresses.unix(), scene.addresses.unix()
            device = CharacterDevice(ports)
            scene.cleanup(device.close)
            specs = [channel("connect", port) for port in ports]
        else:
            address = scene.addresses.of_kind(kind)
            specs = [channel("listen", address), channel("connect", address)]
        self.doors = {name: scene.addresses.unix() for name in ("up", "echo")}
        near = into("up", self.service.address) + into("echo", self.echo_service)
        # What the original does to itself when its other end is replaced is no concern here.
        self.near_args = ["-c", specs[0], *near, "--no-stale-readiness"]
        self.far_args = ["-c", specs[1]]
        for name, door in self.doors.items():
            self.far_args += out(name, door)
        self._sinks()
        self.start_near()
        self.far: Process | None = None
        self.start_far()

    def _sinks(self) -> None:
        def run() -> None:
            try:
                while True:
                    sock = self.service.accept(3600)
                    threading.Thread(target=drain, args=(sock,), daemon=True).start()
            except OSError:
                pass

        threading.Thread(target=run, daemon=True).start()

    def start_near(self) -> None:
        self.near = start_old(self.scene, *self.near_args, name="near", log=False)

    def start_far(self) -> None:
        if self.program == OLD:
            self.far = start_old(self.scene, *self.far_args, name="far", log=False)
        else:
            args = [*self.far_args, "--ack-timeout", "2", "--drain-timeout", "0.1"]
            self.far = self.scene.daemon(*args, name="far")
            self.far.wait_up(protocol=1)

    def kill_far(self) -> None:
        assert self.far
        self.far.expected_death = True
        self.far.kill()

    def deaf(self) -> bool:
        """Whether the near end does not answer: a new client of the far one says."""
        return not any(answered(self.doors["echo"], 1) for _ in range(2))


def drain(sock: socket.socket) -> None:
    try:
        sock.settimeout(None)
        while sock.recv(1 << 18):
            pass
    except OSError:
        pass


def pour(door: Address) -> None:
    try:
        with door.connect(5 * PATIENCE) as sock:
            while True:
                sock.sendall(bytes(1 << 17))
    except OSError:
        pass


def kills(scene: Scene, kind: str, far: str, count: int) -> int:
    """How often the near end was deaf after the far one was killed while four clients uploaded."""
    draw = random.Random(f"{SEED} {kind} {far}")
    wire = Wire(scene, kind, far)
    deaf = 0
    for _ in range(count):
        assert not wire.deaf()
        clients = [
            threading.Thread(target=pour, args=(wire.doors["up"],), daemon=True) for _ in range(4)
        ]
        for client in clients:
            client.start()
        time.sleep(0.05 + draw.random() * 0.1)  # The drawn moment.
        wire.kill_far()
        for client in clients:
            client.join(10 * PATIENCE)
        wire.start_far()
        if wire.deaf():
            deaf += 1
            wire.near.kill()
            wire.kill_far()
            wire.start_near()
            wire.start_far()
    print(f"{kind}, {far} killed in an upload: deaf after {deaf} of {count}")
    return deaf


@pytest.mark.parametrize("kind", ["unix", "tcp", "pty", "device"])
def test_a_daemon_killed_in_an_upload_leaves_no_half_packet(scene: Scene, kind: str) -> None:
    count = 50 if FULL else 6
    deaf = kills(scene, kind, NEW, count)
    if FULL:
        kills(scene, kind, OLD, count)
    assert deaf <= (count // 10 if kind == "tcp" else 0)


# --- ttys -----------------------------------------------------------------------------------------


def test_a_tty_can_be_opened_again_after_any_exit(scene: Scene) -> None:
    """Nothing between takes back a claim, as nobody does outside of tests."""
    draw = random.Random(SEED)
    line = Line(scene, "pty-new-old", {"echo": scene.echo_service()}, new=["--drain-timeout", "0"])
    for _ in range(20 if FULL else 6):
        end = draw.choice(line.ends)
        end.stop(draw.choice((signal.SIGKILL, signal.SIGTERM)))
        end.start(end.program)
        line.wait_for_echo()
    assert not [text for text in line.daemon.err.lines() if "in use" in text or "busy" in text]


def test_a_tty_that_is_in_use_is_left_alone(scene: Scene) -> None:
    ports = SerialLine(scene).ports
    first = scene.daemon("-c", f"isa-serial:{ports[0].place}:-", name="first")
    second = scene.daemon("-c", f"isa-serial:{ports[0].place}:-", name="second")
    second.wait_for_log("in use by another process")
    first.kill9()
    scene.daemon("-c", f"isa-serial:{ports[1].place}:-", name="other end")
    second.wait_up()


@pytest.mark.parametrize("kind", ["pty", "device"])
def test_an_original_in_the_place_of_an_idle_new_end_hears(scene: Scene, kind: str) -> None:
    """Behind a device that hides the change, after traffic, while no stream is open."""
    for _ in range(10 if FULL else 2):
        seal = [] if kind == "pty" else ["--integrity", "checksum"]
        line = Line(scene, f"{kind}-new-new", {"echo": scene.echo_service()}, new=seal)
        line.wait_for_echo()
        for end in line.ends:
            assert protocol_of(end.daemon) == 2
            end.daemon.wait_at_rest()
        line.far.stop(signal.SIGKILL)
        line.far.start(OLD)
        time.sleep(2.5)  # Longer than the interval at which a session counts its frames.
        # The original speaks first; nothing that was written to it before may have been cut.
        assert answered(line.far.doors["echo"], 5)
        assert "received BAD-MAGIC" not in line.far.peer.err.lines()
        for end in line.ends:
            end.stop(signal.SIGKILL)


# --- numbers --------------------------------------------------------------------------------------


def test_clients_in_quick_succession_are_all_served(scene: Scene) -> None:
    """The old end gives each the number of the one before."""
    count = 2000 if FULL else 400
    for pair in ("old-new", "old-old") if FULL else ("old-new",):
        stage = Stage(scene, pair)
        serve_answers(stage.service)
        found = Counter(ask(stage.doors["any"], 5 * PATIENCE) for _ in range(count))
        print(pair, dict(found))
        assert pair == "old-old" or set(found) <= {"answered", "cut"}, found
        # Few are met by the CLOSE of the one before: where that is seen, CLOSE waits a moment.
        assert pair == "old-old" or found["cut"] <= count // 8, found


def test_a_stream_of_an_earlier_life_is_closed(scene: Scene) -> None:
    """An old listener keeps its services when the channel drops, and sends on what they say."""
    service = ListeningService(scene)
    line = Line(scene, "unix-old-new", {"any": service.address, "echo": scene.echo_service()})
    ours = line.running(NEW)
    with ours.doors["any"].connect(10 * PATIENCE) as client:
        client.sendall(b"!")
        server = service.accept()
        assert receive(server, 1) == b"!"
        mark = line.peer.mark()
        ours.stop(signal.SIGKILL)
    ours.start(NEW)
    line.peer.wait_up(since=mark)
    ours.wait_up()
    ended = threading.Event()

    def speak() -> None:
        try:
            while True:
                server.sendall(bytes(1 << 16))
        except OSError:
            ended.set()

    threading.Thread(target=speak, daemon=True).start()
    eventually("the end of the stale stream", ended.is_set)
    echo_once(ours.doors["echo"])

