"""The loads, who takes part in each, and what virtproxy is meant to reach there."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from figures import figures_of
from peers import Peer, Virtproxy, own
from processes import Failed, Stage, await_that, thread_seconds

WARM_UP = 0.3  # seconds before each measurement
STALL = 5  # seconds without a byte that end a run


@dataclass
class Measured:
    figures: dict[str, float]
    noise: list[str]


@dataclass(frozen=True)
class Goal:
    """A bound on a figure: of the ratio to the best of `references`, or, without any, of itself."""

    figure: str
    bound: float
    at_most: bool
    references: tuple[str, ...] = ()

    def met(self, value: float) -> bool:
        return value <= self.bound if self.at_most else value >= self.bound


@dataclass(frozen=True)
class Contestant:
    """One row of a load's table: how it is set up and measured."""

    name: str
    run: Callable[[Stage, float], Measured]


def bench(stage: Stage, arguments: Sequence[str], seconds: float,
          pids: Sequence[int] = ()) -> Mapping:
    """Runs the load generator; its report, or Failed with its reason."""
    report = stage.path("report.json")
    Path(report).unlink(missing_ok=True)
    command = [own("virtproxy-bench"), "run", *arguments, "--quiet", "--json", report,
               "--stall-limit", str(STALL), "--tree"]
    for pid in pids:
        command += ["--pid", str(pid)]
    if stage.cpus is not None:
        for cpu in sorted(stage.cpus)[:1]:
            command += ["--pin", str(cpu)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, timeout=seconds + 60, check=False)
    except subprocess.TimeoutExpired:
        raise Failed("the load generator did not end") from None
    if done.returncode != 0:
        text = done.stderr.decode(errors="replace").strip().splitlines()
        if Path(report).exists():
            text = [json.loads(Path(report).read_text()).get("failure") or "failed"]
        raise Failed(text[-1] if text else f"the load generator ended with {done.returncode}")
    return json.loads(Path(report).read_text())


def timed(seconds: float) -> list[str]:
    return ["--duration", f"{seconds:g}", "--warmup", f"{WARM_UP:g}", "--wait", "5"]


class Load:
    """One table. `figures`: its columns; the first one is what the plots show."""

    def __init__(self, name: str, title: str, arguments: Sequence[str], figures: Sequence[str],
                 goals: Sequence[Goal] = ()) -> None:
        self.name = name
        self.title = title
        self.arguments = list(arguments)  # of the load generator
        self.figures = tuple(figures)
        self.goals = tuple(goals)
        self.subject = "virtproxy"  # whose ratios to the others are shown
        self.tcp = False  # ends are TCP sockets

    def contestants(self, peers: Sequence[Peer]) -> list[Contestant]:
        raise NotImplementedError

    def titles(self) -> dict[str, str]:
        """Of contestants that are no peers."""
        return {}

    def prepare(self, stage: Stage, peer: Peer) -> list[str]:
        """Starts the peer; the load generator's arguments that lead through it."""
        raise NotImplementedError

    def measure(self, stage: Stage, ends: list[str], seconds: float) -> Measured:
        stage.await_rest()
        report = bench(stage, [*self.arguments, *ends, *timed(seconds)], seconds, stage.pids())
        return Measured(figures_of(report), report["noise"]["reasons"])


class PeerLoad(Load):
    """The same load on every peer."""

    def __init__(self, name: str, title: str, arguments: Sequence[str], figures: Sequence[str],
                 goals: Sequence[Goal] = (), tcp: bool = False, both_ways: bool = False) -> None:
        super().__init__(name, title, arguments, figures, goals)
        self.tcp = tcp
        self._both_ways = both_ways

    def contestants(self, peers: Sequence[Peer]) -> list[Contestant]:
        return [Contestant(peer.name, self._runner(peer)) for peer in peers]

    def prepare(self, stage: Stage, peer: Peer) -> list[str]:
        return start(stage, peer, self.tcp)

    def _runner(self, peer: Peer) -> Callable[[Stage, float], Measured]:
        def run(stage: Stage, seconds: float) -> Measured:
            if self._both_ways and not peer.both_ways:
                raise Failed("locks up when both directions are full, by its design")
            return self.measure(stage, self.prepare(stage, peer), seconds)

        return run


class Mixed(PeerLoad):
    """Messages beside bulk, after the same bulk alone."""

    def measure(self, stage: Stage, ends: list[str], seconds: float) -> Measured:
        stage.await_rest()
        alone = bench(stage, ["bulk", *ends, *timed(seconds)], seconds, stage.pids())
        both = super().measure(stage, ends, seconds)
        both.figures["bulk_share"] = both.figures["gb_per_s"] * 1e9 / alone["bytes_per_second"]
        both.noise += alone["noise"]["reasons"]
        return both


def start(stage: Stage, peer: Peer, tcp: bool) -> list[str]:
    """Starts a peer; the load generator's arguments that lead through it."""
    inlet, outlet = (stage.tcp(), stage.tcp()) if tcp else (stage.unix("in"), stage.unix("out"))
    peer.start(stage, inlet, outlet)
    ends = ["--connect", inlet.url, "--listen", outlet.url]
    if not peer.half_close:
        ends.append("--no-half-close")
    if peer.http_connect:
        ends.append("--http-connect")
    return ends


def verify(stage: Stage, peer: Peer, tcp: bool) -> None:
    """That the peer carries bytes at all, and exactly these. Raises Failed."""
    ends = start(stage, peer, tcp)
    direction = "both" if peer.both_ways else "up"
    for arguments in (["bulk", "-n", "4", "--direction", direction, "--bytes", "8M"],
                      ["ping-pong", "-n", "4", "--bytes", "64K"]):
        bench(stage, [*arguments, "--verify", "--wait", "5", *ends], 10, stage.pids())


class Scaling(Load):
    """virtproxy beside itself, with much of something and with little."""

    def __init__(self, name: str, title: str, arguments: Sequence[str], figures: Sequence[str],
                 goals: Sequence[Goal], counts: Mapping[str, int], words: str) -> None:
        super().__init__(name, title, arguments, figures, goals)
        self._counts = dict(counts)
        self._words = words
        self.subject = next(iter(counts))

    def titles(self) -> dict[str, str]:
        return {name: f"virtproxy, {self._words.format(count)}"
                for name, count in self._counts.items()}

    def contestants(self, peers: Sequence[Peer]) -> list[Contestant]:
        peer = next((peer for peer in peers if isinstance(peer, Virtproxy)), None)
        if peer is None:
            return []
        return [Contestant(name, self._runner(peer, count)) for name, count in self._counts.items()]

    def prepare(self, stage: Stage, peer: Peer) -> list[str]:
        return self.prepare_for(stage, peer, self._counts[self.subject])

    def prepare_for(self, stage: Stage, peer: Peer, count: int) -> list[str]:
        raise NotImplementedError

    def _runner(self, peer: Peer, count: int) -> Callable[[Stage, float], Measured]:
        return lambda stage, seconds: self.measure(stage, self.prepare_for(stage, peer, count),
                                                   seconds)


class OpenStreams(Scaling):
    """What a message costs while other streams are open and idle."""

    ACTIVE = 16

    def __init__(self, most: int = 10000) -> None:
        few = f"{self.ACTIVE}-open"
        super().__init__(
            "open-streams", f"one-way 256 B on {self.ACTIVE} streams, of so many that are open",
            ["one-way", "--size", "256", "-n", str(self.ACTIVE)],
            ["cpu_us_per_message", "messages_per_s"],
            [Goal("cpu_us_per_message", 1.10, True, (few,))],
            {f"{most}-open": most, few: self.ACTIVE}, "{:,} open")

    def prepare_for(self, stage: Stage, peer: Peer, count: int) -> list[str]:
        inlet, outlet = stage.unix("in"), stage.unix("out")
        sink = stage.spawn("sink", [own("virtproxy-bench"), "serve", "--listen", outlet.url],
                           measured=False)
        stage.await_listening(outlet)
        peer.start(stage, inlet, outlet)
        ends = ["--connect", inlet.url, "--no-sink"]
        idle = count - self.ACTIVE
        if idle > 0:
            stage.spawn("idle", [own("virtproxy-bench"), "run", "idle", "-n", str(idle), *ends,
                                 "--duration", "3600", "--quiet"], measured=False)
            watched = Path(f"/proc/{sink.pid}/fd")
            await_that(f"{idle} streams are open", lambda: len(os.listdir(watched)) >= idle, 60)
        return ends


class Channels(Scaling):
    """The same number of bulk streams over one channel and over many in the same two processes."""

    STREAMS = 64
    THREADS = 2

    def __init__(self, most: int = 64) -> None:
        super().__init__(
            "channels", f"bulk, {self.STREAMS} streams over so many channels of one process with "
            f"{self.THREADS} threads", ["bulk", "-n", str(self.STREAMS)],
            ["cpu_per_gb", "gb_per_s", "thread_balance"],
            [Goal("cpu_per_gb", 1.10, True, ("1-channel",)), Goal("thread_balance", 0.5, False)],
            {f"{most}-channels": most, "1-channel": 1}, "channels: {}")

    def prepare_for(self, stage: Stage, peer: Peer, count: int) -> list[str]:
        if not isinstance(peer, Virtproxy):
            raise Failed(f"{peer.name} has one channel")
        inlets = [stage.unix(f"in-{channel}") for channel in range(count)]
        outlet = stage.unix("out")
        peer.start_many(stage, inlets, outlet, self.THREADS)
        ends = ["--listen", outlet.url]
        for inlet in inlets:
            ends += ["--connect", inlet.url]
        return ends

    def measure(self, stage: Stage, ends: list[str], seconds: float) -> Measured:
        before = [thread_seconds(pid) for pid in stage.pids()]
        measured = super().measure(stage, ends, seconds)
        after = [thread_seconds(pid) for pid in stage.pids()]
        if ends.count("--connect") > 1:
            measured.figures["thread_balance"] = min(
                balance([to - since for to, since in zip(*pair)], self.THREADS)
                for pair in zip(after, before))
        return measured


def balance(used: Sequence[float], threads: int) -> float:
    """CPU of the least busy of the working threads, as a share of the busiest one's."""
    working = sorted(used, reverse=True)[:threads]
    return working[-1] / working[0] if len(working) == threads and working[0] > 0 else 0.0


SPLICE = ("splice", "splice-big")
RELAYS = ("uring-copy", "uring-copy-big", "epoll-copy", "epoll-copy-big", *SPLICE)
EVERYBODY = (*RELAYS, "socket-proxyd", "haproxy", "nginx", "socat", "yamux", "smux", "nghttpx",
             "ssh")


def every_load(quick: bool = False) -> list[Load]:
    bulk = ["cpu_per_gb", "gb_per_s"]
    exchange = ["cpu_us_per_message", "messages_per_s", "p50_us", "p99_us"]
    return [
        PeerLoad("bulk-1", "bulk, 1 stream", ["bulk"], bulk,
                 [Goal("cpu_per_gb", 1.0, True, ("socket-proxyd",)),
                  Goal("gb_per_s", 1.0, False, ("socket-proxyd",)),
                  Goal("gb_per_s", 8.0, False, ("original",))]),
        PeerLoad("bulk-16", "bulk, 16 streams", ["bulk", "-n", "16"], bulk,
                 [Goal("cpu_per_gb", 1.0, True, ("socket-proxyd",))]),
        PeerLoad("bulk-tcp", "bulk, 1 stream, TCP ends", ["bulk"], bulk,
                 [Goal("cpu_per_gb", 1.0, True, SPLICE)], tcp=True),
        PeerLoad("bulk-both", "bulk, 1 stream, both directions", ["bulk", "--direction", "both"],
                 bulk, both_ways=True),
        PeerLoad("ping-pong-1", "64-byte round trips, 1 stream", ["ping-pong"], exchange,
                 [Goal("cpu_us_per_message", 1.0, True, ("uring-copy",)),
                  Goal("p50_us", 1.0, True, ("uring-copy",)),
                  Goal("messages_per_s", 1.5, False, ("original",))]),
        PeerLoad("ping-pong-64", "64-byte round trips, 64 streams", ["ping-pong", "-n", "64"],
                 ["messages_per_s", "cpu_us_per_message", "p50_us", "p99_us"],
                 [Goal("messages_per_s", 1.3, False, ("uring-copy", "epoll-copy"))]),
        PeerLoad("one-way", "one-way 256 B, 16 streams", ["one-way", "--size", "256", "-n", "16"],
                 ["cpu_us_per_message", "messages_per_s"],
                 [Goal("cpu_us_per_message", 0.6, True, ("haproxy",))]),
        Mixed("mixed", "64-byte round trips beside a bulk stream", ["mixed"],
              ["p99_us", "p50_us", "gb_per_s", "bulk_share"],
              [Goal("p99_us", 300, True), Goal("bulk_share", 0.9, False)]),
        PeerLoad("churn", "connect, 64 B each way, close; 8 at a time", ["churn", "-n", "8"],
                 ["messages_per_s", "cpu_us_per_message", "p50_us", "p99_us"],
                 [Goal("messages_per_s", 1.3, False, EVERYBODY)]),
        OpenStreams(500 if quick else 10000),
        Channels(4 if quick else 64),
    ]
