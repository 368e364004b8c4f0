"""virtproxy through a real guest, beside the bare virtio-serial port. See perf/README.md.

Called by perf/guest, which builds first. One guest has two ports: on the one runs a pair of
virtproxy, the other one is written and read directly. The same program pours and counts on both.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import plot
import report
from compare import RESULTS, machine, say
from figures import Run
from loads import Contestant, Goal, Load, Measured
from peers import TOP, own
from processes import Failed, Neighbours, Process, Stage

sys.path.insert(0, str(TOP / "tests/e2e"))
from guest.machine import Guest, GuestError  # noqa: E402

WARM_UP = 0.4
PAIR, BARE = "virtproxy", "bare port"
SIZES = {"4 KiB": 4096, "16 KiB": 16384, "64 KiB": 65536, "256 KiB": 262144, "1 MiB": 1048576}
LINE = 200  # bytes of a line of a log


class Ends:
    """The guest, its two ports and the pair on the one of them."""

    def __init__(self, stage: Stage, guest: Guest) -> None:
        self.stage = stage
        self.guest = guest
        inlet, outlet = stage.path("host-in"), stage.path("host-out")
        self._bare = {"host": f"connect:{guest.virtio_ports['bare']}",
                      "guest": "open:/dev/virtio-ports/bare"}
        self._writers = {"host": f"connect:{inlet}", "guest": "connect:/guest-in"}
        self._readers = {"host": f"listen:{outlet}", "guest": "listen:/guest-out"}
        guest.start(["virtproxy", "-c", "virtio-serial:/dev/virtio-ports/pair:-", "-o",
                     "to-host:/guest-in:-", "-i", "to-guest:/guest-out:-"])
        host = stage.spawn("virtproxy", [own("virtproxy"), "-c",
                                         f"unix-connect:{guest.virtio_ports['pair']}:-", "-o",
                                         f"to-guest:{inlet}:-", "-i", f"to-host:{outlet}:-"])
        host.await_text("channel 0: up")

    def pour(self, contestant: str, source: str, size: int, seconds: float) -> float:
        """Bytes a second from the source (host or guest) to the other side."""
        target = "guest" if source == "host" else "host"
        reader, writer = ((self._bare[target], self._bare[source]) if contestant == BARE
                          else (self._readers[target], self._writers[source]))
        reading = ["read", reader, "--warm-up", f"{WARM_UP:g}", "--seconds", f"{seconds:g}"]
        writing = ["write", writer, "--size", str(size)]
        patience = seconds + WARM_UP + 20
        if target == "guest":
            counter = self.guest.start(["pour", *reading])
            if reader.startswith("listen:"):
                self.guest.wait_for(f"test -S {reader.removeprefix('listen:')}")
            pouring = self._here(writing)
            try:
                if counter.wait(patience) != 0:
                    raise Failed(f"the reader in the guest: {counter.log()}")
            finally:
                self._stop(pouring)
            said = counter.log()
            if reader.startswith("listen:"):
                self.guest.check(f"rm -f {reader.removeprefix('listen:')}")
        else:
            counting = self._here(reading)
            if reader.startswith("listen:"):
                self._await_socket(reader.removeprefix("listen:"))
            writing_there = self.guest.start(["pour", *writing])
            try:
                counting.popen.wait(patience)
            finally:
                writing_there.kill(9)
                self._stop(counting)
            said = counting.text()
            if reader.startswith("listen:"):
                Path(reader.removeprefix("listen:")).unlink(missing_ok=True)
        try:
            counted = json.loads(said)
        except ValueError:
            raise Failed(f"the reader said: {said.strip()}") from None
        return counted["bytes"] / counted["seconds"]

    def _here(self, arguments: Sequence[str]) -> Process:
        return self.stage.spawn("pour", [own("pour"), *arguments], measured=False)

    @staticmethod
    def _stop(process: Process) -> None:
        process.popen.kill()
        process.popen.wait()

    @staticmethod
    def _await_socket(path: str) -> None:
        deadline = time.monotonic() + 10
        while not Path(path).exists():
            if time.monotonic() > deadline:
                raise Failed(f"{path} did not appear")
            time.sleep(0.01)


class PortLoad(Load):
    """One way, one size of write."""

    def __init__(self, source: str, words: str, size: int) -> None:
        way = "guest to host" if source == "guest" else "host to guest"
        lines = words == "lines"
        figure = "lines_per_s" if lines else "mb_per_s"
        super().__init__(f"{source}-{words.replace(' ', '').lower()}",
                         f"{way}, " + (f"lines of {size} B" if lines else f"writes of {words}"),
                         [], [figure], [Goal(figure, 0.9, False, (BARE,))])
        self.source = source
        self.size = size

    def measure(self, ends: Ends, contestant: str, seconds: float) -> Measured:
        neighbours = Neighbours()
        rate = ends.pour(contestant, self.source, self.size, seconds)
        unit = self.size if self.figures[0] == "lines_per_s" else 1e6
        return Measured({self.figures[0]: rate / unit}, neighbours.reasons())

    def contestants(self, peers: Sequence) -> list[Contestant]:
        raise NotImplementedError("a guest is shared by all runs")


def every_load() -> list[PortLoad]:
    return [PortLoad(source, words, size) for source in ("guest", "host")
            for words, size in (*SIZES.items(), ("lines", LINE))]


def measure_all(ends: Ends, loads: Sequence[PortLoad], rounds: int, seconds: float) -> list[Run]:
    runs: list[Run] = []
    for load in loads:
        say(f"\n== {load.title}")
        failed: set[str] = set()
        for number in range(rounds):
            order = (PAIR, BARE) if number % 2 == 0 else (BARE, PAIR)
            for contestant in order:
                if contestant in failed:
                    continue
                run = Run(load.name, "guest", contestant, number, {}, [])
                try:
                    measured = load.measure(ends, contestant, seconds)
                    run.figures, run.noise = measured.figures, measured.noise
                except (Failed, GuestError) as failure:
                    run.failure = str(failure).splitlines()[0]
                    failed.add(contestant)
                runs.append(run)
                say(f"   {number + 1}/{rounds} {contestant}: {report.brief(load, run)}")
    return runs


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="perf/guest", description="Measures virtproxy through a virtio-serial port of a real "
        "guest beside the bare port.")
    parser.add_argument("--load", action="append", metavar="NAME", default=[],
                        help="only this one; may be repeated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each measurement (1.5)")
    parser.add_argument("--quick", action="store_true", help="2 rounds of 0.5 s")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    parser.add_argument("--save", action="store_true",
                        help="write tables, plot and figures to perf/results")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.seconds = 2, 0.5
    loads = every_load()
    names = [load.name for load in loads]
    for name in options.load:
        if name not in names:
            parser.error(f"no load {name}; there are: {', '.join(names)}")
    loads = [load for load in loads if not options.load or load.name in options.load]

    say("== a guest boots (software emulation)")
    with Stage() as stage:
        try:
            with Guest(virtio_ports={name: stage.path(name) for name in ("pair", "bare")},
                       cache_dir=stage.path("images"),
                       extra_files={"/bin/virtproxy": own("virtproxy-static"),
                                    "/bin/pour": own("pour")}) as guest:
                runs = measure_all(Ends(stage, guest), loads, options.rounds, options.seconds)
        except GuestError as error:
            say(f"FAILED: {error}")
            return 1
    results = {
        "format": 1,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "machine": machine(), "rounds": options.rounds, "seconds": options.seconds,
        "peers": [{"name": PAIR, "title": PAIR, "kind": "multiplexer", "floor": False,
                   "version": "", "failure": None},
                  {"name": BARE, "title": BARE, "kind": "relay", "floor": True, "version": "",
                   "failure": None}],
        "runs": [run.to_json() for run in runs],
        "summary": report.summary(loads, ["guest"], runs),
        "goals": report.goals(loads, ["guest"], runs),
    }
    text = report.guest_markdown(results, loads)
    print("\n" + text)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n")
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "guest.json").write_text(json.dumps(results, indent=1) + "\n")
        (RESULTS / "guest.svg").write_text(plot.compare(results, loads, "guest"))
        text = text.replace(report.PLOTS_HERE, "![guest](guest.svg)\n\n")
        (RESULTS / "guest.md").write_text(text)
        say("written: perf/results/guest.md, guest.json, guest.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
