"""What dies and what is lost or doubled then: numbered lines from a guest's daemon through the host's to a sink.

Each cell kills one party at moments that are drawn. `virtproxy-bench lines` writes and audits. Allowed losses are
those of COLLECTING.md and SHIPPING.md. The last test prints the table, and saves it as kill-matrix.md.

VIRTPROXY_KILL_MOMENTS=N moments in each cell instead of 10, of more lines;
VIRTPROXY_SEED=N what is drawn. Builds with sanitizers have one moment, and leave out the cells that wait longest.
What takes a whole machine is left out: the crash of a kernel, a disk that goes.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import BIN, PATIENCE, SANITIZED, SCALE, Scene
from processes import Process
from relay import Relay
from stage import eventually

LONG = "VIRTPROXY_KILL_MOMENTS" in os.environ
MOMENTS = int(os.environ.get("VIRTPROXY_KILL_MOMENTS") or (1 if SANITIZED or SCALE < 1 else 10))
SEED = int(os.environ.get("VIRTPROXY_SEED") or 20261130)
LINES = 1500 if LONG else 400  # of each writer
WRITERS = 2
RATE = 2000 if SANITIZED else 6000  # a second, of all
LINE = 250  # bytes of a line with its header, about
# What a collecting daemon may have sent and not seen acknowledged.
WINDOW = (4 << 20) // LINE
# Lines that a datagram socket of the kernel holds, and those that were received in one turn.
QUEUED = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text()) + 1 + 64


def help_text() -> str:
    return subprocess.run([BIN / "virtproxy", "--help"], capture_output=True, text=True, check=False).stdout


HELP = help_text()


class FileSink:
    """The file that the host's daemon writes: no collector that could die."""

    def __init__(self, scene: Scene) -> None:
        self.out = scene.directory / "out"
        self.spec = f"file:{self.out}"

    def start(self) -> None:
        pass


class Collector:
    """A program behind the host's daemon, which writes a file."""

    def __init__(self, scene: Scene, kind: str) -> None:
        self.scene = scene
        self.out = scene.directory / "out"
        self.port = scene.addresses.tcp().port
        self.spec = f"{kind}:127.0.0.1:{self.port},state={scene.directory / 'state'}"
        self.process: Process | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        self.process = self.scene.spawn(self.command(), name="collector")
        wanted = f":{self.port:04X}"
        eventually("the collector listens", lambda: any(
            line.split()[1].endswith(wanted) and line.split()[3] == "0A"
            for line in Path("/proc/net/tcp").read_text().splitlines()[1:]))


class RsyslogCollector(Collector):
    """rsyslog with a disk queue. Not synced: no machine dies here, and what was written outlives a process."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene, "relp")
        folder = scene.directory / "rsyslog"
        folder.mkdir()
        (folder / "conf").write_text(
            f'global(workDirectory="{folder}" maxMessageSize="64k")\nmodule(load="imrelp")\n'
            'template(name="whole" type="string" string="%rawmsg%\\n")\n'
            f'input(type="imrelp" address="127.0.0.1" port="{self.port}" maxDataSize="64k" ruleset="all")\n'
            'ruleset(name="all" queue.type="Disk" queue.filename="all" queue.checkpointInterval="1" '
            'queue.saveOnShutdown="on") {\n'
            f'  action(type="omfile" file="{self.out}" template="whole" flushOnTXEnd="on" asyncWriting="off")\n}}\n',
            encoding="utf-8")
        self._folder = folder

    def command(self) -> list[str]:
        (self._folder / "pid").unlink(missing_ok=True)
        rsyslogd = shutil.which("rsyslogd", path="/usr/sbin:/usr/bin")
        return [str(rsyslogd), "-n", "-f", str(self._folder / "conf"), "-i", str(self._folder / "pid")]


class ForwardCollector(Collector):
    def __init__(self, scene: Scene) -> None:
        super().__init__(scene, "forward")

    def command(self) -> list[str]:
        receiver = Path(__file__).with_name("forward_receiver.py")
        return [sys.executable, "-B", str(receiver), str(self.port), str(self.out)]


# What is unique for a line, in the structured data of RFC 5424 or in JSON.
IDENTITY = re.compile(rb'(?:- \[virtproxy@\d+ .*? log="(\w+)" seq="(\d+)"|"log": ?"(\w+)".*?"seq": ?(\d+).*"message)')


def identities(file: Path) -> int:
    """How many different lines there are by what the sink's document says is unique."""
    return len({found.groups() for line in file.read_bytes().split(b"\n") if (found := IDENTITY.search(line))})


def why_not(sink: str) -> str:
    """Why a cell with this sink cannot be measured here; empty: it can."""
    if "--ship" not in HELP or "--collect" not in HELP:
        return "this build has no --ship and --collect"
    if f"{sink}:" not in HELP:
        return f"this build has no sink {sink}"
    if sink == "relp" and shutil.which("rsyslogd", path="/usr/sbin:/usr/bin") is None:
        return "rsyslog is not installed"
    if sink == "relp" and not list(Path("/usr/lib").glob("*/rsyslog/imrelp.so")):
        return "rsyslog-relp is not installed"
    if sink == "forward":
        try:
            import msgpack  # noqa: F401
        except ImportError:
            return "python3-msgpack is not installed"
    return ""


SINKS: dict[str, Callable[[Scene], FileSink | Collector]] = {
    "file": FileSink, "relp": RsyslogCollector, "forward": ForwardCollector,
}


class Way:
    """The whole way: writers, guest, channel, host, sink."""

    def __init__(self, scene: Scene, sink: str, spool: bool, host_spool: bool) -> None:
        self.scene = scene
        self.log = scene.directory / "log"
        self.sink = SINKS[sink](scene)
        behind, door = scene.addresses.unix(), scene.addresses.unix()
        self.host_args = ["-c", f"unix-listen:{behind.spec}:vm1", "--collect", self.sink.spec]
        self.guest_args = ["-c", f"unix-connect:{door.spec}", "--ship-memory", "4M",
                           "--ship", f"unix-dgram:{self.log},full={'spool' if spool else 'block'}"]
        if spool:
            self.guest_args += ["--ship-spool", f"{scene.directory / 'spool'}:8M,sync=never"]
        if host_spool:
            self.host_args += ["--collect-spool", f"{scene.directory / 'host-spool'}:8M,sync=never"]
        self.channel = behind
        self.sink.start()
        self.start_host()
        self.relay = Relay(door, behind)
        scene.cleanup(self.relay.close)
        self.start_guest()
        self.guest.wait_up()
        self.bench = scene.spawn(
            [str(BIN / "virtproxy-bench"), "lines", "--connect", f"unix-dgram:{self.log}", "--header", "3164",
             "--writers", str(WRITERS), "--count", str(LINES), "--rate", str(RATE), "--wait", "5", "--reconnect",
             "--tolerate", "--settle", f"{2 * PATIENCE:g}", "--sink", f"file:{self.sink.out}", "--interval", "10ms",
             "--json", "-"], name="lines")

    def start_host(self) -> None:
        self.host = self.scene.daemon(*self.host_args, name="host", channels=("vm1",))

    def start_guest(self) -> None:
        self.guest = self.scene.daemon(*self.guest_args, name="guest")

    def progress(self) -> dict:
        lines = self.bench.out.lines()
        return json.loads(lines[-1]) if lines else {"sent": 0, "delivered": 0}

    def wait(self, what: str, amount: int) -> None:
        """Until so many lines are sent or delivered, or the audit is over."""
        eventually(f"{amount} lines are {what}", lambda: "tool" in self.progress() or self.progress()[what] >= amount)

    def audit(self) -> dict:
        assert self.bench.wait(60 * PATIENCE) == 0, self.bench.everything()
        return json.loads(self.bench.stdout().splitlines()[-1])["lines"]


def kill_guest(way: Way) -> None:
    """The kernel lets go of what a ring held a moment after its process has ended: the next daemon waits for that."""
    way.guest.kill9()
    way.start_guest()


def stop_guest(way: Way) -> None:
    way.guest.terminate(20)
    way.start_guest()


def kill_host(way: Way) -> None:
    way.host.kill9()
    way.start_host()


def stop_host(way: Way) -> None:
    way.host.terminate(20)
    way.start_host()


def cut_channel(way: Way) -> None:
    way.relay.cut_now()


def stop_collector(way: Way) -> None:
    way.sink.process.send_signal(15)
    way.sink.process.wait(20 * PATIENCE)
    way.sink.start()


def kill_collector(way: Way) -> None:
    way.sink.process.kill()
    way.sink.start()


def collector_away(way: Way) -> None:
    """Everything that is written meanwhile waits in the guest and in the host."""
    way.sink.process.kill()
    way.wait("sent", WRITERS * LINES)
    way.sink.start()


def collector_and_host_away(way: Way) -> None:
    """The host's daemon dies with everything that was written in its spool, while nobody takes it."""
    way.sink.process.kill()
    way.wait("sent", WRITERS * LINES)
    kill_host(way)
    way.sink.start()


@dataclass(frozen=True)
class Row:
    title: str
    fault: Callable[[Way], None]
    lost: int = 0  # lines at most; -1: any number, it is the collector's or memory's
    doubled: int = 0  # at a sink with acknowledgements; a file has none
    spool: bool = True  # of the guest
    host_spool: bool = False
    sinks: tuple[str, ...] = ("file", "relp", "forward")
    # Where lines may be lost, the audit waits for them: sinks of a run with one moment.
    short: tuple[str, ...] = ("file", "forward")


BEHIND = ("relp", "forward")
ROWS = {
    "channel": Row("the channel is cut", cut_channel),
    "guest-term": Row("guest daemon, SIGTERM and start", stop_guest),
    "guest-kill": Row("guest daemon, SIGKILL, spool", kill_guest, lost=QUEUED),
    "guest-kill-memory": Row("guest daemon, SIGKILL, memory only", kill_guest, lost=-1, spool=False, short=("file",)),
    "host-term": Row("host daemon, SIGTERM and start", stop_host, doubled=WINDOW),
    "host-kill": Row("host daemon, SIGKILL", kill_host, doubled=WINDOW),
    "host-kill-spool": Row("host daemon with a spool, SIGKILL", kill_host, doubled=WINDOW, host_spool=True),
    "collector-and-host": Row("collector, away, and host daemon with a spool, SIGKILL", collector_and_host_away,
                              doubled=WINDOW, host_spool=True, sinks=("forward",)),
    "collector-term": Row("collector, SIGTERM and start", stop_collector, doubled=WINDOW, sinks=BEHIND),
    # What rsyslog has in memory between its answer and its queue's file is its own promise.
    "collector-kill": Row("collector, SIGKILL", kill_collector, lost=-1, doubled=WINDOW, sinks=BEHIND),
    "collector-away": Row("collector, SIGKILL, away until all is written", collector_away, lost=-1, doubled=WINDOW,
                          sinks=BEHIND),
}
CELLS = [(row, sink) for row, what in ROWS.items() for sink in what.sinks]
RESULTS: dict[tuple[str, str], str] = {}


@pytest.mark.parametrize(("row", "sink"), CELLS, ids=[f"{row}-{sink}" for row, sink in CELLS])
def test_what_is_lost_and_doubled(row: str, sink: str) -> None:
    reason = why_not(sink)
    if not reason and ROWS[row].lost != 0 and MOMENTS == 1 and sink not in ROWS[row].short:
        reason = "for a run with more moments"
    if reason:
        RESULTS[row, sink] = f"left out: {reason}"
        pytest.skip(reason)
    what = ROWS[row]
    rng = random.Random(f"{SEED} {row} {sink}")
    lost: list[int] = []
    doubled: list[int] = []
    troubles: list[str] = []
    for moment in range(MOMENTS):
        scene = Scene()
        good = False
        try:
            way = Way(scene, sink, what.spool, what.host_spool)
            at = rng.randrange(WRITERS * LINES // 20, WRITERS * LINES * 3 // 4)
            way.wait("delivered", at)
            what.fault(way)
            found = way.audit()
            different = identities(way.sink.out)
            good = True
        finally:
            if not good:
                for name, text in scene.logs():
                    print(f"--- {name}\n{text[-3000:]}")
            scene.close(graceful=False)
        lost.append(found["lost"])
        doubled.append(found["doubled"])
        allowed = 0 if sink == "file" else what.doubled
        for bad in (
            found["lost"] < 0 and "more told of than is missing",
            0 <= what.lost < found["lost"] and f"{found['lost']} lost ({found['missing']})",
            what.lost < 0 and sink == "forward" and row.startswith("collector") and found["lost"] and
            f"{found['lost']} lost behind an acknowledgement",
            found["doubled"] > allowed and f"{found['doubled']} doubled",
            found["corrupted"] and f"{found['corrupted']} corrupted",
            different != found["delivered"] and f"{found['delivered']} lines with {different} identities",
            # A line that comes again comes behind later ones, but the first ones are in order.
            found["reordered"] and allowed == 0 and f"{found['reordered']} reordered",
        ):
            if bad:
                troubles.append(f"moment {moment}, at {at} lines: {bad}")
    RESULTS[row, sink] = f"{sum(lost)} / {sum(doubled)}" + (
        f" (at most {max(lost)} / {max(doubled)})" if MOMENTS > 1 else "")
    assert not troubles, "\n".join(troubles)


def test_the_table_is_printed_and_saved(capsys: pytest.CaptureFixture[str]) -> None:
    """Last: what the cells above have found."""
    if not RESULTS:
        pytest.skip("no cell was run")
    lines = [
        f"Lost / doubled lines, of {WRITERS * LINES} in each of {MOMENTS} moments (seed {SEED})", "",
        "| dies | " + " | ".join(SINKS) + " |", "|---|" + "---|" * len(SINKS),
    ]
    for row, what in ROWS.items():
        cells = [RESULTS.get((row, sink), "not run" if sink in what.sinks else "–") for sink in SINKS]
        lines.append(f"| {what.title} | " + " | ".join(cells) + " |")
    text = "\n".join(lines) + "\n"
    Path("kill-matrix.md").write_text(text, encoding="utf-8")
    with capsys.disabled():
        print("\n" + text)
    if not any(each[0].isdigit() for each in RESULTS.values()):
        pytest.skip("no cell could be measured")
