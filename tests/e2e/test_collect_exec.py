"""Lines to a program that acknowledges: the examples of COLLECTING.md, and programs that do wrong."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from collecting import SEED, Collecting, batches, some_lines, text_of
from harness import Scene, scaled
from log_guest import Log
from processes import runs
from stage import eventually

DOCUMENT = Path(__file__).parents[2] / "uring/service/logs/COLLECTING.md"


def example(name: str) -> str:
    found = re.search(rf"```sh {name}\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return found.group(1)


def script(scene: Scene, name: str, text: str) -> Path:
    path = scene.directory / name
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def entries(file: Path) -> list[dict]:
    """Of the whole lines: a program may be killed in the middle of one."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n")[:-1]]


def processes_of(path: Path) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and str(path).encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            pass
    return found


def test_the_example_has_every_line_whatever_is_killed(scene: Scene) -> None:
    """What the program had not acknowledged when it was killed comes again."""
    rng = random.Random(SEED)
    file = scene.directory / "lines"
    program = script(scene, "keep-lines", example("exec-example"))
    collecting = Collecting(scene, [f"exec:{program},arg={file},state={scene.directory / 'state'}"])
    daemon = collecting.start()
    log = Log()
    lines = [line[:5000] for line in some_lines(rng, scaled(200, 100))]
    parts = list(batches(lines, 4096))
    half = len(parts) // 2
    guest = collecting.guest()
    assert guest.begin(log)
    for part in parts[:half]:
        assert guest.send(log.add(part))
    eventually("it has some", lambda: len(entries(file)) > 10)
    # Not by its command line: a shell that starts a command is two processes with that for a moment.
    child = int(re.findall(r"started, process (\d+)", daemon.stderr())[-1])
    os.kill(child, 19)  # SIGSTOP: it is not in the middle of a line when it is killed
    os.kill(child, 9)
    daemon.wait_for_log(r"exec:\S+: was killed by signal 9; it is started again")
    assert guest.wait_acked(log)
    guest.peer.close()
    daemon.kill9()
    eventually("the program ends with the daemon", lambda: not processes_of(program))
    collecting.start()
    collecting.send(log, parts[half:])
    found = entries(file)
    texts = {entry["seq"]: text_of(entry) for entry in found}
    assert [texts[seq] for seq in range(len(lines))] == lines
    print(f"lines {len(lines)}, doubled {len(found) - len(lines)}")


def test_the_example_for_kafka_acknowledges_what_is_delivered(scene: Scene) -> None:
    """By librdkafka's own simulation of a cluster. While that is too slow, nothing is acknowledged."""
    kcat = shutil.which("kcat")
    if kcat is None:
        pytest.skip("no kcat: install kcat")
    folder = scene.directory / "bin"
    folder.mkdir()
    slow, copy = scene.directory / "slow", scene.directory / "copy"
    wrapper = folder / "kcat"
    wrapper.write_text(
        "#!/bin/sh\n"
        'set -- "$@" -X test.mock.num.brokers=1\n'
        f'if [ -e {slow} ]; then set -- "$@" -X test.mock.broker.rtt=8000 -X message.timeout.ms=1500; fi\n'
        f'tee -a {copy} | {kcat} "$@"\n', encoding="utf-8")
    wrapper.chmod(0o755)
    text = example("kafka-example").replace("count=0\n", f"PATH={folder}:$PATH\ncount=0\n", 1)
    program = script(scene, "to-kafka", text)
    collecting = Collecting(scene, [f"exec:{program},arg=127.0.0.1:9,arg=guests"])
    daemon = collecting.start()
    log = Log()
    lines = [b"line %d" % number for number in range(200)]
    collecting.send(log, [lines])
    assert [text_of(entry) for entry in entries(copy)] == lines
    slow.touch()
    guest = collecting.guest()
    assert guest.begin(log)
    assert guest.send(log.add([b"not yet"]))
    daemon.wait_for_log(r"exec:\S+: ended with status 1; it is started again", 30)
    assert log.acked < log.position
    slow.unlink()
    assert guest.wait_acked(log)
    guest.peer.close()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("read -r line; echo ACK 2; exec sleep 1000", r"it has written 'ACK 2' where ACK and a number"),
        ("echo hello; exec sleep 1000", r"it has written 'hello' where ACK and a number"),
        ("printf '%0100d' 1; exec sleep 1000", "too long for an acknowledgement"),
        ("exec sleep 1000 >&-", "it has closed its standard output"),
        ("exec sleep 1000 <&-", "it has closed its standard input"),
        ("read -r line; exec sleep 1000 <&-", "it has closed its standard input"),
        ("exit 3", "ended with status 3; it is started again"),
    ],
    ids=["what-it-has-not", "no-ack", "too-long", "closed", "closed-input", "closed-later", "ends"],
)
def test_a_program_that_does_wrong_is_started_again(scene: Scene, text: str, wanted: str) -> None:
    once = scene.directory / "once"
    program = script(
        scene, "program",
        f"#!/bin/sh\nif [ ! -e {once} ]; then : > {once}; {text}; fi\n"
        "n=0; while IFS= read -r line; do n=$((n + 1)); echo ACK $n; done\n")
    collecting = Collecting(scene, [f"exec:{program}"])
    daemon = collecting.start()
    log = Log()
    guest = collecting.guest()
    assert guest.begin(log)
    assert guest.send(log.add([b"one"]))
    daemon.wait_for_log(wanted)
    assert guest.wait_acked(log)
    assert guest.send(log.add([b"two"]))
    assert guest.wait_acked(log)
    guest.peer.close()
    daemon.terminate()
    eventually("the program ends with the daemon", lambda: not processes_of(program))
    assert ("it has closed" in daemon.stderr()) == ("it has closed" in wanted)


@pytest.mark.parametrize(("end", "wanted"), [("echo hello", "it has written 'hello'"), ("exit 3", "ended with status 3")],
                         ids=["is-killed", "ends"])
def test_what_a_program_has_started_is_ended_with_it(scene: Scene, end: str, wanted: str) -> None:
    """It would go on with lines that the next one has again."""
    started = scene.directory / "started"
    program = script(
        scene, "program",
        f"#!/bin/sh\nif [ ! -e {started} ]; then sleep 1000 & echo $! > {started}; {end}; fi\n"
        "n=0; while IFS= read -r line; do n=$((n + 1)); echo ACK $n; done\n")
    collecting = Collecting(scene, [f"exec:{program}"])
    daemon = collecting.start()
    daemon.wait_for_log(wanted)
    child = started.read_text(encoding="ascii").strip()
    eventually("it has ended", lambda: not runs(child))
    daemon.terminate()


def test_a_program_that_acknowledges_nothing_stops_its_guest_within_bounds(scene: Scene) -> None:
    program = script(scene, "program", "#!/bin/sh\nwhile IFS= read -r line; do :; done\n")
    collecting = Collecting(scene, [f"exec:{program},format=rfc5424"], ("vm1", "vm2"))
    daemon = collecting.start()
    log = Log()
    guest = collecting.guest()
    assert guest.begin(log)
    before = daemon.rss()

    def write() -> None:
        with suppress(OSError, EOFError):
            while guest.send(log.add([b"x" * 1000] * 64)):
                log.kept.clear()

    threading.Thread(target=write, daemon=True).start()
    eventually("no more is taken", lambda: daemon.stats().channels["vm1"].get("log_held", 0) >= 4 << 20, 60)
    assert daemon.rss() < before + (48 << 20)
    daemon.kill9()


@pytest.mark.parametrize("killed", [False, True], ids=["terminated", "killed"])
def test_a_program_that_reads_nothing_ends_with_the_daemon(scene: Scene, killed: bool) -> None:
    program = script(scene, "program", "#!/bin/sh\nwhile :; do sleep 0.1; done\n")
    collecting = Collecting(scene, [f"exec:{program}"])
    daemon = collecting.start()
    eventually("it runs", lambda: processes_of(program))
    if killed:
        daemon.kill9()
    else:
        daemon.terminate()
    eventually("it has ended", lambda: not processes_of(program), 30)


def test_a_program_that_cannot_be_run_is_an_error_of_the_start(scene: Scene) -> None:
    collecting = Collecting(scene, [f"exec:{scene.directory / 'none'}"])
    daemon = scene.daemon(*collecting.args, wait=False)
    daemon.check_exit(code=1)
    assert re.search(r"--collect exec:\S+: cannot run \S+: No such file", daemon.stderr())
