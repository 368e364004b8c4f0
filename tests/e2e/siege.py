"""A daemon with one channel in hostile hands and an honest one beside it, on the same thread.

While an attack lasts, the honest channel is used by a bulk stream, an echo, and new connections,
and the daemon is watched: its time, its memory at the highest, its words. What is measured is held
against the same scene without the attack wherever a share or a cost is meant.
"""

from __future__ import annotations

import json
import socket
import statistics
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import drop_in  # noqa: F401  First: it knows where old_wire is.
import hostile_peer as wire
import old_wire
from harness import PATIENCE, SANITIZED, Daemon, Scene, into, out
from hostile_peer import HostilePeer, number
from stage import ListeningService, echo_once, eventually, limit_ms, wait_for_echo

MIB = 1 << 20
STRETCH = 4  # lines of bulk.py
BULK_SECONDS = 0.7  # of the attack, with the bulk stream beside it
SECONDS = 1.5  # of the attack after that
STREAMS = 256
MEMORY = 64 << 20  # both channels
ANSWER_MS = 200.0  # of an honest stream beside the attack, at worst
LINES_PER_SECOND = 25
# The honest streams beside an attack take about 0.03 of a processor, which is in what the attack is taken to cost.
# Where that is no small part, the cost of a byte cannot be told.
COUNTED_SHARE = 0.1
# Of its undisturbed rate, what a bulk stream beside an attack keeps: the thread goes round its
# channels, and the attacker's process takes a part of the machine besides.
BULK_SHARE = 0.25
# Beside words and dials the thread's time is shared, but a turn of bulk moves no more than what
# fits into a socket, and a turn of the attack is longer than that. That much, at least.
BULK_BESIDE_WORDS = 0.06
BULK_BESIDE_DIALS = 0.03
BULK_BESIDE_PACKETS = 0.1
# What attacks may grow it by that are granted nothing: tables of streams, read buffers.
GROWTH = 12 << 20
# What those may hold that are: all that their channel was promised, and the above.
HOARD = MEMORY // 2 + GROWTH

# Of honest traffic, to learn what it costs.
HONEST_BYTES = 4 << 20
ACK_BEGINS = struct.pack("<ii", old_wire.CONTROL, old_wire.ACK)
CLOSE_BEGINS = struct.pack("<iii", old_wire.CONTROL, old_wire.CLOSE, 2)

# What honest traffic is made of: frames of so many bytes, packets of protocol 1, or short streams.
Shape = int | Literal["packets", "streams"]
Assault = Callable[["Siege", float], None]


@dataclass(frozen=True)
class Attack:
    """What to do until a given time, and what that may do to the daemon."""

    run: Assault
    share: float | None = None  # of a processor, where the peer can be made to wait
    streams: int = STREAMS
    answer_ms: float = ANSWER_MS
    hoards: bool = False
    bulk: float = BULK_SHARE
    # CPU for each byte or stream: at most so many times that of honest ones of that shape.
    times: float | None = None
    shape: Shape = 0


class BulkStream:
    """One stream flat out through the honest channel."""

    def __init__(self, scene: Scene, door: str) -> None:
        script = Path(__file__).parent / "bulk.py"
        self._process = scene.spawn([sys.executable, "-B", script, door], "bulk")
        self._process.json_with("bytes", 10 * PATIENCE)

    def rate(self, seconds: float) -> float:
        """Bytes per second from now on: the median of stretches of about a tenth of a second."""
        since = self._process.out.count()
        time.sleep(seconds)
        enough = since + 2 * STRETCH
        eventually("enough lines", lambda: self._process.out.count() >= enough)
        lines = [json.loads(line) for line in self._process.out.lines(since)]
        steps = zip(lines, lines[STRETCH:], strict=False)
        return statistics.median((b["bytes"] - a["bytes"]) / (b["at"] - a["at"]) for a, b in steps)

    def stop(self) -> None:
        self._process.kill()


class Drain:
    """A service that reads whatever comes."""

    def __init__(self, scene: Scene) -> None:
        self._service = ListeningService(scene, "unix")
        self.address = self._service.address
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                sock = self._service.accept(3600)
            except OSError:
                return
            threading.Thread(target=self._read, args=(sock,), daemon=True).start()

    @staticmethod
    def _read(sock: socket.socket) -> None:
        buffer = bytearray(1 << 18)
        with sock:
            try:
                while sock.recv_into(buffer):
                    pass
            except OSError:
                pass


class Attacker:
    """An attack on a thread of its own."""

    def __init__(self, siege: Siege, attack: Attack, seconds: float) -> None:
        self._siege, self._attack = siege, attack
        self._until = time.monotonic() + seconds
        self._failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._attack.run(self._siege, self._until)
        except BaseException as error:
            self._failures.append(error)
            self._siege.begun.set()

    def join(self) -> None:
        self._thread.join(60 * PATIENCE)
        assert not self._failures, self._failures
        assert not self._thread.is_alive(), "the attack never ended"


class Siege:
    """Channel 0 is for the hostile peer, who connects, or with `dials` listens; 1 is honest."""

    _honest_costs: dict[int, float] = {}

    def __init__(self, scene: Scene, streams: int = STREAMS, dials: bool = False) -> None:
        self.scene = scene
        self.streams = streams
        self.sent = 0  # bytes, or streams, by the attack
        self.begun = threading.Event()
        self.channel, honest = scene.addresses.unix(), scene.addresses.unix()
        self.door, self.bulk_door = scene.addresses.unix(), scene.addresses.unix()
        echo, bulk = scene.addresses.unix(), scene.addresses.unix()
        scene.serve("echo", echo)
        scene.serve("pour", bulk)
        services = {"closed": scene.addresses.tcp(), "drain": Drain(scene).address}
        for name, role in (("echo", "echo"), ("sink", "sink-never"), ("pour", "pour")):
            services[name] = scene.addresses.tcp()
            scene.serve(role, services[name])
        self._listener: socket.socket | None = None
        if dials:
            self._listener = self.channel.listen()
            scene.cleanup(self._listener.close)
        args = ["--memory", str(MEMORY), "--max-streams", str(streams)]
        args += ["-c", f"unix-{'connect' if dials else 'listen'}:{self.channel.spec}:0"]
        args += ["-c", f"unix-listen:{honest.spec}:1"]
        for name, address in services.items():
            args += into(name, address, 0)
        args += [*out("echo", self.door, 1), *out("bulk", self.bulk_door, 1)]
        self.daemon: Daemon = scene.daemon(*args, name="besieged", channels=(0, 1))
        far = ["-c", f"unix-connect:{honest.spec}", *into("echo", echo), *into("bulk", bulk)]
        scene.daemon(*far, name="honest")
        wait_for_echo(self.door)

    def peer(self, timeout: float = 10) -> HostilePeer:
        """A connection to the channel under attack."""
        if self._listener is None:
            return HostilePeer(self.channel, timeout)
        self._listener.settimeout(timeout * PATIENCE)
        return HostilePeer(self._listener.accept()[0], timeout)

    def greeted(self, **fields) -> HostilePeer:
        """A peer in a session; the daemon may make it wait for one."""
        peer = self.peer(timeout=20).greet(**fields)
        self.begun.set()
        return peer

    def give_way(self) -> None:
        """Nobody hostile listens any more."""
        assert self._listener
        self._listener.close()

    def pour_in(self, peer: HostilePeer, data: bytes, until: float) -> None:
        self.sent += peer.send_what_goes(data, until)

    def repeat(self, peer: HostilePeer, block: bytes, until: float) -> None:
        """The same bytes for as long as there is time; what comes back is thrown away."""
        block *= max(1, (1 << 18) // len(block))
        self.begun.set()
        while time.monotonic() < until:
            self.pour_in(peer, block, until)

    def endure(self, attack: Attack, seconds: float = SECONDS) -> None:
        """Latency, CPU, memory and words while the attack lasts; then the bulk stream beside it.

        Whatever else this machine does is no fault of the daemon's: what took too long, cost too
        much or moved too little is measured anew, three times in all.
        """
        for _ in range(3):
            if not (complaint := self._watch(attack, seconds)):
                break
        else:
            raise AssertionError(complaint)
        for _ in range(3):
            if self._bulk_kept(attack) >= attack.bulk:
                break
        else:
            raise AssertionError(f"bulk kept less than {attack.bulk} of its rate")
        echo_once(self.door)
        assert not any("channel 1: down" in line for line in self.daemon.err.lines())

    def _watch(self, attack: Attack, seconds: float) -> str:
        """Returns what took too long or cost too much, if anything did."""
        daemon = self.daemon
        honest = self.honest_cost(attack.shape) if attack.times else 0.0
        echo_once(self.door)
        daemon.reset_peak_rss()
        before, lines = daemon.rss(), daemon.mark()
        begin, cpu, sent = time.monotonic(), daemon.cpu_seconds(), self.sent
        attacker = Attacker(self, attack, seconds)
        ping = ("--ping-interval-us", 2000, "--open-interval-us", 10000)
        args = ("--connect", self.door.traffic, "--seconds", seconds, *ping)
        result = self.scene.start_traffic("probe", *args).result(60 * PATIENCE)
        used, sent = daemon.cpu_seconds() - cpu, self.sent - sent
        share = used / (time.monotonic() - begin)
        attacker.join()
        grown = daemon.peak_rss() - before
        said, lasted = daemon.mark() - lines, time.monotonic() - begin
        times = used / sent / honest if sent and honest else 0.0
        echo, opened = result["echo"], result["open"]
        print(
            f"\n  {sent / 1e6:.2f} million, share {share:.2f},"
            f" {times:.2f} of {honest * 1e9:.2f} ns, {grown / MIB:+.1f} MiB, {said} lines,"
            f" echo {echo['max_ms']:.1f} ms, open {opened['max_ms']:.1f} ms"
        )
        assert said < LINES_PER_SECOND * (lasted + 1), daemon.err.lines()[lines : lines + 20]
        if attack.times and not SANITIZED:
            assert honest > 0 and sent > 100, "nothing was measured"
        if not SANITIZED:
            assert grown < (HOARD if attack.hoards else GROWTH), f"{grown / MIB:.1f} MiB more"
        daemon.wait_at_rest(timeout=30)
        if attack.share and share >= attack.share * (PATIENCE if SANITIZED else 1):
            return f"{share:.2f} of a processor"
        if attack.times and not SANITIZED and share >= COUNTED_SHARE and times >= attack.times:
            # A byte costs more beside other work: both are compared anew.
            del self._honest_costs[attack.shape]
            return f"{times:.2f} times as much CPU as honest traffic"
        enough = echo["count"] > 20 and opened["count"] > 10
        if not enough or max(echo["max_ms"], opened["max_ms"]) >= limit_ms(attack.answer_ms):
            return f"answers took more than {limit_ms(attack.answer_ms):.0f} ms"
        return ""

    def _bulk_kept(self, attack: Attack) -> float:
        """What a bulk stream keeps beside the attack of the lower one of its rates before and
        after."""
        bulk = BulkStream(self.scene, self.bulk_door.traffic)
        bulk.rate(0.15)
        before = bulk.rate(BULK_SECONDS / 2)
        self.begun.clear()
        attacker = Attacker(self, attack, BULK_SECONDS + 0.6)
        self.begun.wait(10 * PATIENCE)
        beside = bulk.rate(BULK_SECONDS)
        attacker.join()
        self.daemon.wait_stats("an end", lambda stats: stats.channels[0]["streams"] == 0, 30)
        undisturbed = min(before, bulk.rate(BULK_SECONDS / 2))
        bulk.stop()
        self.daemon.wait_at_rest(timeout=30)
        kept = beside / undisturbed if undisturbed else 0.0
        print(f"  bulk {undisturbed / 1e9:.1f} GB/s, {kept:.3f} of it kept")
        return kept

    # --- what honest traffic costs -------------------------------------------------------------

    def honest_cost(self, shape: Shape) -> float:
        """Seconds of CPU for a byte, or a stream, to services that behave. Measured once, and
        again after a comparison that failed."""
        if shape not in self._honest_costs:
            if shape == "packets":
                send = self._send_packets
            elif shape == "streams":
                send = self._open_streams
            else:
                send = partial(self._send_frames, shape)
            cpu = self.daemon.cpu_seconds()
            amount = send()
            self._honest_costs[shape] = (self.daemon.cpu_seconds() - cpu) / amount
            self.begun.clear()
            self.daemon.wait_down(0)
            self.daemon.wait_at_rest()
        return self._honest_costs[shape]

    def _send_frames(self, shape: int) -> int:
        payload = b"x" * (shape - wire.HEADER_SIZE)
        total = HONEST_BYTES // shape * len(payload)
        with self.greeted() as peer:
            peer.send(peer.open_frame(0, "drain"))
            limit, offset = peer.theirs.window, 0
            while offset < total:
                while limit - offset < len(payload):
                    limit = peer.wait_for(wire.CREDIT, number(0)).argument
                frames = []
                while offset + len(payload) <= min(limit, total):
                    frames.append(peer.frame(wire.DATA, number(0), offset, payload, mine=True))
                    offset += len(payload)
                peer.send(b"".join(frames))
            # When this is answered, everything was read.
            peer.send(peer.frame(wire.PING, 0, peer.frames_sent))
            peer.wait_for(wire.PONG, 0)
        return HONEST_BYTES

    def _send_packets(self) -> int:
        with self.peer() as peer:
            talk = old_wire.Wire(peer.sock)
            talk.send(old_wire.init(1, "drain"))
            while (answer := talk.raw())[:8] != ACK_BEGINS:
                pass
            server = old_wire.decode(answer).server
            talk.send(
                old_wire.data(old_wire.CLIENT, 1, server, b"x" * 1000)
                * (HONEST_BYTES // old_wire.SIZE)
            )
            # A client of nobody is closed, when all before it was read.
            talk.send(old_wire.init(2, "no-such"))
            while talk.raw()[:12] != CLOSE_BEGINS:
                pass
        return HONEST_BYTES

    def _open_streams(self) -> int:
        """Streams that send a byte, get it back, and end well."""
        at_once, rounds = 256, 8
        with self.greeted() as peer:
            for first in range(0, rounds * at_once, at_once):
                for slot in range(first, first + at_once):
                    peer.send(
                        peer.open_frame(slot, "echo")
                        + peer.frame(wire.DATA, number(slot), 0, b"x", mine=True)
                        + peer.frame(wire.END, number(slot), 1, mine=True)
                    )
                due = 2 * at_once
                while due > 0:
                    frame = next(peer.frames())
                    due -= frame.kind in (wire.END, wire.DONE)
                    if frame.kind == wire.END:
                        peer.send(peer.frame(wire.DONE, frame.stream, 1, mine=True))
        return rounds * at_once
