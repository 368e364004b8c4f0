"""Log lines from applications to a file at the other end: virtproxy beside what people use. See perf/README.md.

Called by perf/logs, which installs and builds first.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import report
from compare import PINNED, RESULTS, chosen, in_turns, machine, say, told
from figures import Run
from loads import Goal
from log_drain import LINES, JournalUpload, drain
from log_peers import DATAGRAM, STREAM, UDP, LogPeer, Ship, every_log_peer
from peers import own
from processes import Failed, Neighbours, Stage

DRAIN = "drain"
SETTLE = 3.0  # seconds without a line that end a run that is not complete
OVERHEAD = 2.0  # seconds beside each measurement, about


@dataclass(frozen=True)
class LogLoad:
    """One table; `arguments` are those of `virtproxy-bench lines`."""

    name: str
    title: str
    kind: str
    arguments: tuple[str, ...]
    figures: tuple[str, ...] = ("cpu_us_per_line", "lines_per_s", "lost_lines")
    goals: tuple[Goal, ...] = ()
    subject: str = "ship-spool"
    quick: bool = False


FAST = ("--header", "3164", "--size", "200")
OURS_TO_RSYSLOG = (
    Goal("cpu_us_per_line", 0.25, True, ("rsyslog-relp",)),
    Goal("lines_per_s", 3.0, False, ("rsyslog-relp",)),
    Goal("lines_per_s", 50.0, False, ("rsyslog-relp-disk",)),
    Goal("cpu_us_per_line", 0.5, True, ("rsyslog-stream",)),
    Goal("lines_per_s", 5.0, False, ("syslog-ng",)),
    Goal("lines_per_s", 350_000, False),
    Goal("cpu_us_per_line", 1.3, True),
    # What the spool costs when it is synced.
    Goal("lines_per_s", 1.05, True, ("ship-sync",)),
)


def every_log_load() -> list[LogLoad]:
    return [
        LogLoad("dgram-1", "datagrams of 200 B, 1 writer", DATAGRAM, FAST, goals=OURS_TO_RSYSLOG, quick=True),
        LogLoad("dgram-16", "datagrams of 200 B, 16 writers", DATAGRAM, (*FAST, "-n", "16")),
        LogLoad("dgram-1k", "datagrams of 1 KiB, 1 writer", DATAGRAM, ("--header", "3164", "--size", "1K")),
        LogLoad("stream-1", "unix stream, 200 B, a write a line", STREAM, FAST,
                goals=(Goal("cpu_us_per_line", 1.0, True, ("socat",)),), quick=True),
        LogLoad("stream-batch", "unix stream, 200 B, 64 lines a write", STREAM, (*FAST, "--batch", "64"),
                goals=(Goal("lines_per_s", 2_500_000, False),)),
        LogLoad("paced", "datagrams of 200 B, 5,000 a second", DATAGRAM, (*FAST, "--rate", "5000"),
                figures=("age_p50_us", "age_p99_us", "cpu_us_per_line", "lost_lines"),
                goals=(Goal("age_p50_us", 1000, True), Goal("age_p99_us", 10_000, True))),
        LogLoad("drain", f"a backlog of {LINES:,} lines of 200 B, from the start of the receiver", DRAIN, (),
                goals=(Goal("lines_per_s", 10.0, False, ("journal-upload",)),)),
        LogLoad("udp", "UDP, 200 B, 20,000 a second", UDP, (*FAST, "--rate", "20000")),
    ]


def takes(peer: LogPeer, load: LogLoad) -> bool:
    if load.kind != DRAIN:
        return load.kind in peer.kinds
    return isinstance(peer, JournalUpload) or (isinstance(peer, Ship) and peer.spools)


def figures_of(found: Mapping) -> dict[str, float]:
    """The figures of a report of `virtproxy-bench lines`, by our names."""
    lines = found["lines"]
    figures = {"lines_per_s": found["lines_per_second"], "lost_lines": float(max(lines["lost"], 0)),
               "peak_rss_mb": sum(each["peak_rss"] for each in found["processes"]) / 1e6}
    if lines["delivered"]:
        figures["cpu_us_per_line"] = found["processes_total"]["cpu_us_per_line"]
        figures["age_p50_us"] = found["age_ns"]["p50"] / 1e3
        figures["age_p99_us"] = found["age_ns"]["p99"] / 1e3
    return figures


def measure(load: LogLoad, peer: LogPeer, number: int, seconds: float) -> Run:
    """One run. Lines that are wrong or double are a failure; lost ones are a figure."""
    run = Run(load.name, "pinned", peer.name, number, {}, [])
    try:
        with Stage(PINNED) as stage:
            if load.kind == DRAIN:
                neighbours = Neighbours()
                run.figures = drain(stage, peer)
                run.noise = neighbours.reasons()
                return run
            way = peer.way(stage, load.kind)
            peer.start(stage, way)
            stage.await_rest()
            found = bench_lines(stage, [*way.arguments(), *load.arguments], seconds)
    except (Failed, OSError, subprocess.SubprocessError) as failure:
        run.failure = told(failure)
        return run
    lines = found["lines"]
    wrong = {name: lines[name] for name in ("doubled", "corrupted", "reordered") if lines[name]}
    if wrong or not lines["delivered"]:
        run.failure = ", ".join(f"{count} {name}" for name, count in wrong.items()) or "no line arrived"
        return run
    run.figures, run.noise = figures_of(found), found["noise"]["reasons"]
    return run


def bench_lines(stage: Stage, arguments: Sequence[str], seconds: float) -> Mapping:
    """The report of the load generator, or Failed with its reason."""
    at = stage.path("report.json")
    command = [own("virtproxy-bench"), "lines", *arguments, "--duration", f"{seconds:g}", "--settle", f"{SETTLE:g}",
               "--wait", "5", "--tolerate", "--tree", "--quiet", "--json", at]
    for pid in stage.pids():
        command += ["--pid", str(pid)]
    for cpu in sorted(stage.cpus or ()):
        command += ["--pin", str(cpu)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                              timeout=seconds + 120, check=False)
    except subprocess.TimeoutExpired:
        raise Failed("the load generator did not end") from None
    if done.returncode != 0:
        raise Failed(done.stderr.decode(errors="replace").strip().splitlines()[-1])
    return json.loads(Path(at).read_text())


def markdown(results: Mapping, loads: Sequence[LogLoad]) -> str:
    on = results["machine"]
    titles = {peer["name"]: peer["title"] for peer in results["peers"]}
    parts = [
        "# Log lines: virtproxy beside what people use\n",
        f"{results['date']}, {'a virtual machine' if on['virtual'] else 'a machine'} with {on['cpus']} CPUs ({on['cpu']}), "
        f"{on['memory_gib']} GiB, Linux {on['kernel']}. {results['rounds']} rounds of {results['seconds']:g} s, everybody in "
        "turn; medians, with the least and the most. Writers, all processes on the way and the audit share one CPU. "
        "Lines per second are those that reached the file, from the first write to the last arrival. CPU is that of all "
        "processes on the way. Lost lines are those of a run at full rate without any fault.\n",
        *report.noise_text(results["runs"]),
    ]
    if results["goals"]:
        parts += ["## Goals\n", report.goal_table(results["goals"], {load.name: load for load in loads}, titles)]
    for load in loads:
        rows = [row for row in results["summary"] if row["load"] == load.name]
        if rows:
            parts += [f"## {load.title}\n", report.load_table(load, rows, titles)]
    peers = [[peer["title"], peer["version"] or "–", peer["promise"]] for peer in results["peers"]]
    parts += ["## Who took part\n",
              report.table(["", "version", "what may be lost when a process or a machine dies"], peers, right=99)]
    return "\n".join(parts)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="perf/logs", description="Log lines to a file at the other end: virtproxy beside what people use.")
    parser.add_argument("--peer", action="append", metavar="NAME", default=[], help="only this one; may be repeated")
    parser.add_argument("--load", action="append", metavar="NAME", default=[], help="only this one; may be repeated")
    parser.add_argument("--rounds", type=int, help="turns of each peer (3)")
    parser.add_argument("--seconds", type=float, help="that lines are written in each measurement (1)")
    parser.add_argument("--quick", action="store_true", help="a look, in a minute: two loads, 1 round of 0.5 s")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    parser.add_argument("--save", action="store_true", help="write the table and all figures to perf/results")
    parser.add_argument("--list", action="store_true", help="name the peers and loads, and end")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.seconds = options.seconds or (0.5 if options.quick else 1.0)
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("--rounds and --seconds must be positive")
    return options


def version_or_nothing(peer: LogPeer) -> str:
    try:
        return peer.version()
    except Failed:
        return ""


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    peers, loads = [*every_log_peer(), JournalUpload()], every_log_load()
    if options.list:
        for heading, items in (("peers", peers), ("loads", loads)):
            print(f"{heading}:")
            for item in items:
                print(f"  {item.name:18} {item.title}")
        return 0
    peers = chosen("peer", peers, options.peer)
    if options.quick and not options.load:
        loads = [load for load in loads if load.quick]
    loads = chosen("load", loads, options.load)
    turns = sum(sum(takes(peer, load) for peer in peers) for load in loads) * options.rounds
    say(f"== {turns} measurements, about {turns * (options.seconds + OVERHEAD) / 60:.0f} minutes")
    runs: list[Run] = []
    for load in loads:
        say(f"\n== {load.title}")
        able = [peer for peer in peers if takes(peer, load)]
        runs += in_turns(load, able, options.rounds,
                         lambda peer, number, load=load: measure(load, peer, number, options.seconds))
    results = {
        "format": 1,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "machine": machine(),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "peers": [{"name": peer.name, "title": peer.title, "version": version_or_nothing(peer),
                   "promise": peer.promise} for peer in peers],
        "runs": [run.to_json() for run in runs],
        "summary": report.summary(loads, ["pinned"], runs),
        "goals": report.goals(loads, ["pinned"], runs),
    }
    text = markdown(results, loads)
    print("\n" + text)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n")
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "logs.json").write_text(json.dumps(results, indent=1) + "\n")
        (RESULTS / "logs.md").write_text(text)
        say("written: perf/results/logs.md, logs.json")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
