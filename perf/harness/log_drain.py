"""A backlog of log lines that goes to the other end at once, after an outage: lines per second and CPU a line."""

from __future__ import annotations

import json
import resource
import subprocess
import time
from pathlib import Path

from log_peers import DATAGRAM, LogPeer, Ship, Way, version_of
from peers import own
from processes import Failed, Stage, await_that, cpu_seconds, listening

LINES = 100_000
RUN = 4711
SYSTEMD = Path("/lib/systemd")
TIME_LIMIT = 60


def run_to_end(stage: Stage, name: str, command: list[str]) -> None:
    process = stage.spawn(name, command, measured=False)
    try:
        code = process.popen.wait(TIME_LIMIT)
    except subprocess.TimeoutExpired:
        raise Failed(f"{name} did not end") from None
    if code != 0:
        raise Failed(f"{name} ended with {code}: {process.text().strip()[-200:]}")


def drain_spool(stage: Stage, peer: Ship) -> dict[str, float]:
    """The guest's daemon fills its spool without a channel; then the host's starts."""
    way = Way(DATAGRAM, stage.path("log"), stage.path("out"))
    near, far = peer.commands(stage, way)
    daemon = stage.spawn("virtproxy-near", near)
    daemon.await_text("ready")
    bench = [own("virtproxy-bench"), "lines", "--run", str(RUN), "--count", str(LINES), "--header", "3164", "--quiet"]
    run_to_end(stage, "writer", [*bench, "--connect", f"{DATAGRAM}:{way.place}"])
    stage.await_rest()
    before = cpu_seconds([daemon.pid])
    report = stage.path("report.json")
    audit = stage.spawn("audit", [*bench, "--sink", f"file:{way.out}", "--settle", "20", "--json", report],
                        measured=False)
    collector = stage.spawn("virtproxy-far", far)
    if audit.popen.wait(TIME_LIMIT) != 0:
        raise Failed(audit.text().strip()[-200:])
    used = cpu_seconds([daemon.pid, collector.pid]) - before
    found = json.loads(Path(report).read_text())
    return {"lines_per_s": found["lines_per_second"], "cpu_us_per_line": used * 1e6 / LINES, "lost_lines": 0.0}


class JournalUpload(LogPeer):
    name = "journal-upload"
    title = "systemd-journal-upload, systemd-journal-remote"
    kinds = ()  # it reads a journal, no socket
    promise = "what journald had not synced; sent again from the last cursor"

    def version(self) -> str:
        return version_of(["journalctl", "--version"])

    def drain(self, stage: Stage) -> dict[str, float]:
        remote, upload = SYSTEMD / "systemd-journal-remote", SYSTEMD / "systemd-journal-upload"
        if not remote.exists() or not upload.exists():
            raise Failed("systemd-journal-remote is not installed")
        source, target, middle = stage.path("in.journal"), stage.path("out.journal"), stage.tcp()
        begin = int(time.time() * 1e6)
        entries = (f"__REALTIME_TIMESTAMP={begin + number}\n__MONOTONIC_TIMESTAMP={number + 1}\n_BOOT_ID={1:032x}\n"
                   f"PRIORITY=5\nSYSLOG_IDENTIFIER=vplines\nMESSAGE={f'line {number:012} '.ljust(200, 'x')}\n\n"
                   for number in range(LINES))
        run_to_end(stage, "journal", [str(remote), f"--output={source}", stage.write("export", "".join(entries))])
        receiver = stage.spawn("journal-remote", [str(remote), f"--listen-http=127.0.0.1:{middle.port}", "--split-mode=none",
                                                  f"--output={target}"])
        await_that("journal-remote listens", lambda: listening(middle))
        stage.await_rest()
        before, children = cpu_seconds([receiver.pid]), resource.getrusage(resource.RUSAGE_CHILDREN)
        begun = time.monotonic()
        run_to_end(stage, "journal-upload", [str(upload), f"--url=http://127.0.0.1:{middle.port}", f"--file={source}",
                                             "--follow=no", f"--save-state={stage.path('state')}"])
        seconds = time.monotonic() - begun
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = (cpu_seconds([receiver.pid]) - before + ended.ru_utime + ended.ru_stime
                - children.ru_utime - children.ru_stime)
        done = subprocess.run(["journalctl", f"--file={target}", "-q", "-o", "cat"], stdout=subprocess.PIPE, check=False)
        arrived = done.stdout.count(b"\n")
        return {"lines_per_s": arrived / seconds, "cpu_us_per_line": used * 1e6 / max(arrived, 1),
                "lost_lines": float(LINES - arrived)}


def drain(stage: Stage, peer: LogPeer) -> dict[str, float]:
    if isinstance(peer, JournalUpload):
        return peer.drain(stage)
    assert isinstance(peer, Ship)
    return drain_spool(stage, peer)
