"""virtproxy beside what people would use instead, interleaved in one run. See perf/README.md.

Called by perf/compare, which installs and builds first.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plot
import report
from figures import Run
from loads import Contestant, Load, Measured, every_load, verify
from peers import BIN, TOP, GoMux, Peer, Virtproxy, every_peer
from processes import Failed, Stage

RESULTS = TOP / "perf/results"
SET_UP = 1.2  # seconds beside each measurement, about
PINNED = frozenset({0})
PLACEMENTS: dict[str, frozenset[int] | None] = {"pinned": PINNED, "free": None}


def say(text: str) -> None:
    print(text, flush=True)


def machine() -> dict:
    cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return {
        "cpu": cpu.group(1) if cpu else platform.machine(),
        "cpus": os.cpu_count(),
        "memory_gib": round(int(memory.group(1)) / 1024**2) if memory else None,
        "kernel": platform.release().split("-")[0],
        "virtual": "hypervisor" in Path("/proc/cpuinfo").read_text(),
    }


def told(failure: BaseException) -> str:
    """The reason, without the name of the directory that is gone by now."""
    return re.sub(r"\S*/vp-perf-\w+/", "", str(failure))


def build_go_peer() -> None:
    """Compiles the relay of the Go multiplexers, from Debian's sources alone."""
    cache = BIN.parent / "go-cache"
    environment = {**os.environ, "GOPATH": "/usr/share/gocode", "GO111MODULE": "off",
                   "GOCACHE": str(cache), "GOFLAGS": "", "GOTOOLCHAIN": "local"}
    try:
        done = subprocess.run(
            ["go", "build", "-o", str(BIN / "mux-relay"), str(TOP / "perf/peers/mux_relay.go")],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    except OSError as error:
        say(f"   the Go peers cannot be built: {error}")
        return
    if done.returncode != 0:
        say("   the Go peers cannot be built:\n" + done.stdout.decode(errors="replace"))


@dataclass
class Options:
    rounds: int
    seconds: float
    patience: int  # how often a noisy run is taken


def check_peers(peers: Sequence[Peer], tcp: bool) -> dict[str, str | None]:
    """Starts each once and has every byte it carries compared: its name, and what was wrong."""
    found: dict[str, str | None] = {}
    for peer in peers:
        try:
            with Stage() as stage:
                verify(stage, peer, False)
            if tcp:
                with Stage() as stage:
                    verify(stage, peer, True)
            found[peer.name] = None
        except (Failed, OSError, subprocess.SubprocessError) as failure:
            found[peer.name] = told(failure)
        say(f"   {peer.name}: {found[peer.name] or 'carries every byte'}")
    return found


def measure_once(load: Load, contestant: Contestant, placement: str, number: int,
                 options: Options) -> Run:
    """One run. A noisy one is taken again, and the last reading stands."""
    result = Run(load.name, placement, contestant.name, number, {}, [])
    for _ in range(options.patience):
        try:
            with Stage(PLACEMENTS[placement]) as stage:
                measured: Measured = contestant.run(stage, options.seconds)
            result.figures, result.noise = measured.figures, measured.noise
            result.failure = None
        except (Failed, OSError, subprocess.SubprocessError) as failure:
            result.failure = told(failure)
            return result
        if not result.noise:
            return result
    return result


def in_turns(load, contestants: Sequence, rounds: int, measure: Callable[[Any, int], Run]) -> Iterable[Run]:
    """All rounds. Each contestant has a turn in every round, and the order rotates. One that fails is left out
    afterwards."""
    failed: set[str] = set()
    for number in range(rounds):
        turn = number % max(len(contestants), 1)
        for contestant in [*contestants[turn:], *contestants[:turn]]:
            if contestant.name in failed:
                continue
            run = measure(contestant, number)
            if run.failure is not None:
                failed.add(contestant.name)
            say(f"   {number + 1}/{rounds} {contestant.name}: {report.brief(load, run)}")
            yield run


def measure_load(load: Load, contestants: Sequence[Contestant], placement: str,
                 options: Options) -> Iterable[Run]:
    return in_turns(load, contestants, options.rounds,
                    lambda contestant, number: measure_once(load, contestant, placement, number, options))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="perf/compare", description="Measures virtproxy beside what people would use instead.")
    parser.add_argument("--peer", action="append", metavar="NAME", default=[],
                        help="only this one beside virtproxy; may be repeated")
    parser.add_argument("--load", action="append", metavar="NAME", default=[],
                        help="only this one; may be repeated")
    parser.add_argument("--other-build", metavar="DIRECTORY", type=Path,
                        help="with another build of virtproxy as a peer, from its bin directory")
    parser.add_argument("--floor", action="store_true", help="only the minimal relays as peers")
    parser.add_argument("--rounds", type=int, help="times everybody has a turn (5)")
    parser.add_argument("--seconds", type=float, help="of each measurement (1.5)")
    parser.add_argument("--pinned", action="store_true", help="only with everything on one CPU")
    parser.add_argument("--free", action="store_true", help="only free on all CPUs")
    parser.add_argument("--quick", action="store_true",
                        help="a look: 2 rounds of 0.5 s, 500 open streams, 4 channels")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    parser.add_argument("--save", action="store_true",
                        help="write tables, plots and figures to perf/results")
    parser.add_argument("--list", action="store_true", help="name the peers and loads, and end")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.seconds = options.seconds or (0.5 if options.quick else 1.5)
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("--rounds and --seconds must be positive")
    return options


def chosen(what: str, items: Sequence, names: Sequence[str]) -> list:
    known = [item.name for item in items]
    for name in names:
        if name not in known:
            raise SystemExit(f"perf/compare: no {what} {name}; there are: {', '.join(known)}")
    return [item for item in items if not names or item.name in names]


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    everybody = every_peer()
    loads = every_load(quick=options.quick)
    if options.list:
        for heading, items in (("peers", everybody), ("loads", loads)):
            print(f"{heading}:")
            for item in items:
                print(f"  {item.name:16} {item.title}")
        return 0
    subject, *others = everybody
    if options.floor:
        others = [peer for peer in others if peer.floor]
    peers = [subject, *chosen("peer", others, options.peer)]
    if options.other_build:
        other = Virtproxy("other-build", options.other_build.resolve())
        peers = [subject, other, *(peers[1:] if options.peer else [])]
    loads = chosen("load", loads, options.load)
    placements = [name for name in PLACEMENTS
                  if getattr(options, name) or not (options.pinned or options.free)]

    if any(isinstance(peer, GoMux) for peer in peers):
        build_go_peer()
    say("== every byte is compared first")
    state = check_peers(peers, any(load.tcp for load in loads))
    if state[subject.name] is not None:
        say("virtproxy itself failed: nothing is measured")
        return 1
    able = [peer for peer in peers if state[peer.name] is None]
    turns = sum(len(load.contestants(able)) for load in loads) * len(placements) * options.rounds
    say(f"== {turns} measurements, about {turns * (options.seconds + SET_UP) / 60:.0f} minutes; "
        "longer where noise makes them be repeated")
    runs: list[Run] = []
    for load in loads:
        for placement in placements:
            say(f"\n== {load.title} ({placement})")
            contestants = load.contestants(able)
            runs += measure_load(load, contestants, placement,
                                 Options(options.rounds, options.seconds,
                                         1 if options.quick else 2))
    results = {
        "format": 1,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "machine": machine(),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "peers": [{"name": peer.name, "title": peer.title, "kind": peer.kind,
                   "floor": peer.floor,
                   "version": peer.version() if state[peer.name] is None else "",
                   "failure": state[peer.name]} for peer in peers],
        "runs": [run.to_json() for run in runs],
    }
    results["summary"] = report.summary(loads, placements, runs)
    results["goals"] = report.goals(loads, placements, runs)
    text = report.markdown(results, loads)
    print("\n" + text)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n")
    if options.save:
        save(results, text, loads, placements)
    return 0


def save(results: dict, text: str, loads: Sequence[Load], placements: Sequence[str]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "compare.json").write_text(json.dumps(results, indent=1) + "\n")
    plots = []
    for placement in placements:
        name = f"{placement}.svg"
        (RESULTS / name).write_text(plot.compare(results, loads, placement))
        plots.append(f"![{placement}]({name})\n\n")
    (RESULTS / "compare.md").write_text(text.replace(report.PLOTS_HERE, "".join(plots)))
    say(f"written: perf/results/compare.md, compare.json, {', '.join(placements)}.svg")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
