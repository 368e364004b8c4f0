"""`virtproxy-bench lines` and `compare` themselves: right lines are found right, and what is wrong is noticed.

A log shipper that does what the test says stands between: it takes datagrams and writes a file.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import BIN, Scene
from stage import eventually

pytestmark = pytest.mark.skipif(not (BIN / "virtproxy-bench").exists(), reason="virtproxy-bench is not built")
TOOL = BIN / "virtproxy-bench"
LINES = 400
DROPPED = '{"vm":"a","source":"s","seq":1,"drop":{"count":%d,"bytes":9,"reason":"newest"}}\n'


class Shipper:
    """Takes lines from a datagram socket, gives them to `change` and writes what that returns."""

    def __init__(self, scene: Scene, change: Callable[[int, bytes], bytes]) -> None:
        self.place = scene.directory / "log"
        self.out = scene.directory / "out"
        self._change = change
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.place))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        scene.cleanup(self.close)

    def _run(self) -> None:
        number = 0
        while line := self._socket.recv(1 << 21):
            text = self._change(number, line)
            with self.out.open("ab") as file:
                file.write(text)
            number += 1

    def close(self) -> None:
        end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        end.sendto(b"", str(self.place))
        end.close()
        self._thread.join(10)
        self._socket.close()


def lines(scene: Scene, *args: str | int | Path, expect: int = 0) -> dict:
    command = [TOOL, "lines", "--json", "-", *map(str, args)]
    done = scene.run([str(part) for part in command], expect=expect, name="lines")
    return json.loads(done.stdout())


def through(scene: Scene, change: Callable[[int, bytes], bytes], *args: str | int, expect: int = 0) -> dict:
    shipper = Shipper(scene, change)
    ways = ("--connect", f"unix-dgram:{shipper.place}", "--sink", f"file:{shipper.out}")
    return lines(scene, *ways, "--count", LINES, "--settle", "0.3", *args, expect=expect)["lines"]


@pytest.mark.parametrize("kind", ["unix-dgram", "unix", "tcp", "udp", "pipe"])
@pytest.mark.parametrize("size", [1, 47, 48, 20_000])
def test_what_arrives_is_found_right(scene: Scene, kind: str, size: int) -> None:
    place = str(scene.directory / "way")
    if kind in ("tcp", "udp"):
        place = f"127.0.0.1:{scene.addresses.tcp().port}"
    if kind == "pipe":
        os.mkfifo(place)
    # UDP loses what does not fit into the receiver's buffer.
    args = ["--rate", 2000] if kind == "udp" else []
    if size >= 48:
        args += ["-n", 3, "--content", "bytes"]
    if kind not in ("unix-dgram", "udp"):
        args += ["--sink-framing", "lf"]
    way = f"{kind}:{place}"
    report = lines(scene, "--connect", way, "--sink", way, "--count", 100, "--size", size, *args)
    found = report["lines"]
    assert found["delivered"] == found["sent"] == (300 if size >= 48 else 100)
    assert [found[name] for name in ("lost", "doubled", "reordered", "corrupted", "foreign")] == [0] * 5
    assert ("age_ns" in report) == (size >= 48)


def test_short_lines_behind_a_header_are_refused(scene: Scene) -> None:
    """None of them would be found: a short line is all of its text."""
    way = f"unix-dgram:{scene.directory / 'way'}"
    command = [TOOL, "lines", "--connect", way, "--sink", way, "--count", "9", "--size", "20", "--header", "3164"]
    assert "only without --header" in scene.run(command, expect=2).stderr()


def test_a_megabyte_with_every_byte_arrives_octet_counted(scene: Scene) -> None:
    way = f"unix:{scene.directory / 'way'}"
    found = lines(scene, "--connect", way, "--sink", way, "--size", "1M", "--content", "all", "--framing", "octet",
                  "--count", 5)["lines"]
    assert found["delivered"] == 5 and found["corrupted"] == 0


def drop_some(number: int, line: bytes) -> bytes:
    return b"" if number in (5, 6, 90) else line + b"\n"


def test_lost_lines_are_named(scene: Scene) -> None:
    found = through(scene, drop_some, expect=5)
    assert found["delivered"] == LINES - 3 and found["lost"] == 3
    assert found["missing"] == "0: 5-6, 90"


def test_lines_that_are_told_of_are_not_lost(scene: Scene) -> None:
    def change(number: int, line: bytes) -> bytes:
        told = {7: DROPPED % 2, 91: DROPPED % 1}.get(number, "")
        return told.encode() + drop_some(number, line)

    found = through(scene, change)
    assert (found["lost"], found["told_dropped"], found["drop_records"]) == (0, 3, 2)
    assert found["dropped_by_reason"] == {"newest": 3}


def test_more_told_of_than_missing_is_a_failure(scene: Scene) -> None:
    found = through(scene, lambda number, line: line + b"\n" + (DROPPED % 1).encode() * (number == 3), expect=4)
    assert found["lost"] == -1


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("doubled", lambda number, line: (line + b"\n") * (2 if number == 8 else 1)),
        ("corrupted", lambda number, line: line[:-1] + (b"\t" if number == 8 else line[-1:]) + b"\n"),
        ("corrupted", lambda number, line: (line[:-1] if number == 8 else line) + b"\n"),
        ("corrupted", lambda number, line: line + (b"x\n" if number == 8 else b"\n")),
    ],
    ids=["doubled", "changed", "cut", "longer"],
)
def test_wrong_lines_are_counted(scene: Scene, name: str, change: Callable[[int, bytes], bytes]) -> None:
    found = through(scene, change, "--content", "text", expect=4)
    assert found[name] == 1
    assert found["delivered"] == LINES - (name == "corrupted")


def test_a_different_order_is_counted(scene: Scene) -> None:
    held: list[bytes] = []

    def change(number: int, line: bytes) -> bytes:
        if number == 20:
            held.append(line)
            return b""
        return line + b"\n" + (held.pop() + b"\n" if number == 30 else b"")

    assert through(scene, change, expect=4)["reordered"] == 1


def test_a_file_that_is_replaced_is_read_to_its_end(scene: Scene) -> None:
    out = scene.directory / "out"

    def is_read() -> bool:
        return any(str(out) in run.open_files() for run in scene.processes)

    def change(number: int, line: bytes) -> bytes:
        if number in (100, 200):
            eventually("the tool has the file", is_read)  # One that is gone before cannot be read.
            out.rename(out.with_suffix(f".{number}"))
        return line + b"\n"

    assert through(scene, change, "--rate", 1000)["delivered"] == LINES


def test_a_file_that_is_cut_is_audited_as_it_is_at_the_end(scene: Scene) -> None:
    """As a sink does that takes back what it had not acknowledged, and writes it again."""
    out = scene.directory / "out"
    written: list[bytes] = []

    def change(number: int, line: bytes) -> bytes:
        written.append(line + b"\n")
        if number != 200:
            return written[-1]
        keep = b"".join(written[:150])
        os.truncate(out, len(keep))
        return b"".join(written[150:])

    found = through(scene, change, "--rate", 1000)
    assert found["delivered"] == LINES and found["doubled"] == 0


def test_compare_ends_with_a_status(scene: Scene) -> None:
    way = f"unix-dgram:{scene.directory / 'way'}"
    reports = []
    for number in range(2):
        reports.append(scene.directory / f"{number}.json")
        scene.run([TOOL, "lines", "--connect", way, "--sink", way, "--count", "200", "-q", "--json", reports[-1]])
    report = json.loads(reports[0].read_text())
    report["lines_per_second"] /= 2
    reports[1].write_text(json.dumps(report))
    compare = [TOOL, "compare", *reports]
    text = scene.run([*compare, "--threshold", "10%"], expect=1).stdout()
    assert "WORSE by more than 10 %" in text
    scene.run([*compare, "--threshold", "60%"])
    # What a report says of its machine is repeated.
    for path, noisy in zip(reports, (True, False), strict=True):
        known = json.loads(path.read_text())
        known.setdefault("noise", {})["noisy"] = noisy
        path.write_text(json.dumps(known))
    assert "1 of 2 reports say that the machine was noisy" in scene.run([*compare, "--threshold", "60%"]).stdout()
    assert json.loads(scene.run([*compare, "--threshold", "60%", "--json"]).stdout())["noisy_reports"] == 1
    report["options"]["size"] = 1000
    reports[1].write_text(json.dumps(report))
    assert "these are different loads" in scene.run(compare, expect=2).stderr()


def test_intervals_are_lines_of_json_for_every_load(scene: Scene) -> None:
    dgram, stream = (f"{kind}:{scene.directory / kind}" for kind in ("unix-dgram", "unix"))
    log = scene.directory / "ages"
    every = ("--interval", "50ms", "--duration", "0.3", "--json", "-")
    for command in (
        ("lines", "--connect", dgram, "--sink", dgram, "--rate", "1000", "--histogram-log", log),
        ("run", "ping-pong", "--connect", stream, "--listen", stream, "--warmup", "0"),
        ("run", "bulk", "--connect", stream, "--listen", stream, "--warmup", "0"),
    ):
        said = [json.loads(line) for line in scene.run([TOOL, *command, *every]).stdout().splitlines()]
        *intervals, report = said
        assert report["tool"] == "virtproxy-bench" and report["exit_code"] == 0
        assert [each["interval"] for each in intervals] == list(range(len(intervals))) and len(intervals) >= 3
        assert all(each["seconds"] > 0 for each in intervals)
    head, _, _, *rows = log.read_text().splitlines()
    assert head == "#[Histogram log format version 1.3]"
    assert len(rows) >= 3 and all(row.split(",")[3].startswith("HISTFAAA") for row in rows)
