"""The spool of a collecting daemon: guests go on while its sinks are away, whatever is killed.

A line is acknowledged once it is in the spool. It is in the sink later, once, and what has no room waits in the
guest.
"""

from __future__ import annotations

import json
import random
import re
import socket
import subprocess
import threading

import pytest

from collecting import SEED, Collecting, batches, parse_5424, some_lines, text_of
from harness import BIN, PATIENCE, Scene, scaled
from log_guest import Log
from log_servers import Reader
from log_shipping import send_dgrams
from stage import eventually


@pytest.mark.parametrize("sync", ["never", "batch", "50ms"])
def test_a_guest_goes_on_while_the_sink_is_away(scene: Scene, sync: str) -> None:
    """The daemon is killed three times meanwhile, and once when the sink is there again. Datagrams: none of them is
    cut by that."""
    rng = random.Random(SEED)
    listening = scene.addresses.unix()
    state = scene.directory / "state"
    collecting = Collecting(scene, [f"unix-dgram:{listening.place},state={state}"], ("vm1", "vm2"),
                            f"{scene.directory / 'spool'}:16M,sync={sync}")
    sent: dict[str, list[bytes]] = {"vm1": [], "vm2": []}
    logs = {vm: Log() for vm in sent}
    for _ in range(3):
        daemon = collecting.start()
        for vm, log in logs.items():
            lines = [line[:2000] for line in some_lines(rng, scaled(500, 100))]
            sent[vm] += lines
            collecting.send(log, list(batches(lines, 8192)), vm)
        daemon.kill9()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(listening.place)
    reader = Reader(sock)
    reader.may_read.set()
    daemon = collecting.start()
    eventually("something is there", lambda: bool(reader.messages()))
    daemon.kill9()
    collecting.start()

    def found() -> dict[str, dict[int, bytes]]:
        texts: dict[str, dict[int, bytes]] = {vm: {} for vm in sent}
        for message in reader.messages():
            vm, _, seq, text = parse_5424(message)
            assert texts[vm].setdefault(seq, text) == text
        return texts

    wanted = {vm: dict(enumerate(lines)) for vm, lines in sent.items()}
    eventually("all of it is there", lambda: found() == wanted, 30)
    reader.close()


def test_two_sinks_read_from_one_spool_and_have_each_line_once(scene: Scene) -> None:
    """One of them is away. The daemon is killed, and the one that was there has nothing twice."""
    rng = random.Random(SEED)
    listening = scene.addresses.unix()
    file = scene.directory / "guests.json"
    collecting = Collecting(
        scene, [f"file:{file},format=json", f"unix-dgram:{listening.place},state={scene.directory / 'state'}"],
        spool=f"{scene.directory / 'spool'}:16M")
    lines = [line[:2000] for line in some_lines(rng, scaled(2000, 300))]
    log = Log()
    daemon = collecting.start()
    half = len(lines) // 2
    collecting.send(log, list(batches(lines[:half], 8192)))
    eventually("the file has them", lambda: file.exists() and file.read_bytes().count(b"\n") == half)
    daemon.kill9()
    daemon = collecting.start()
    collecting.send(log, list(batches(lines[half:], 8192)))
    daemon.kill9()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(listening.place)
    reader = Reader(sock)
    reader.may_read.set()
    collecting.start()
    eventually("both have them", lambda: file.read_bytes().count(b"\n") == len(lines)
               and len({parse_5424(each)[2] for each in reader.messages()}) == len(lines), 30)
    entries = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [(entry["seq"], text_of(entry)) for entry in entries] == list(enumerate(lines))
    reader.close()


def test_what_has_no_room_in_the_spool_waits_in_the_guest(scene: Scene) -> None:
    listening = scene.addresses.tcp()
    spool = scene.directory / "spool"
    collecting = Collecting(scene, [f"syslog+tcp:{listening.spec}"], ("vm1", "vm2"), f"{spool}:8M")
    control = scene.directory / "control"
    daemon = collecting.start("--control", str(control))
    size = spool.stat().st_size
    log = Log()
    text = b"x" * 1000
    count = 12 << 10
    parts = [[b"%d " % number + text for number in range(first, first + 32)] for first in range(0, count, 32)]
    guest = collecting.guest()

    def write() -> None:
        assert guest.begin(log)
        for part in parts:
            assert guest.send(log.add(part))
        assert guest.wait_acked(log)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()

    def used() -> int:
        shown = subprocess.run([BIN / "virtproxyctl", "metrics", "--control", control], capture_output=True, text=True,
                               check=True).stdout
        return int(re.search(r"^virtproxy_log_spool_used_bytes (\d+)$", shown, re.MULTILINE)[1])

    eventually("the spool and the memory are full",
               lambda: used() > 6 << 20 and daemon.stats().channels["vm1"]["log_held"] >= 4 << 20)
    assert used() <= size and daemon.stats().channels["vm1"]["log_bytes"] < 15 << 20 and writer.is_alive()
    assert spool.stat().st_size == size and spool.stat().st_blocks * 512 <= size + 65536
    # Nothing of another VM has room either: it is not acknowledged, and not lost.
    other, mine = collecting.guest("vm2"), Log()
    assert other.begin(mine)
    assert other.send(mine.add([b"waits too"]))
    eventually("it is here", lambda: daemon.stats().channels["vm2"].get("log_delivered") == 1)
    assert mine.acked == 0

    reader = Reader(listening.listen())
    reader.may_read.set()
    assert other.wait_acked(mine)
    writer.join(120 * PATIENCE)
    assert not writer.is_alive() and not log.kept
    eventually("all of it is there", lambda: len(reader.messages()) == count + 1, 30)
    found = [parse_5424(message) for message in reader.messages()]
    assert [seq for vm, _, seq, _ in found if vm == "vm1"] == list(range(count))
    guest.peer.close()
    other.peer.close()
    reader.close()


def test_from_a_source_to_a_file_with_a_spool_at_each_end(scene: Scene) -> None:
    """Both daemons are killed; nothing is lost or doubled behind the source's socket."""
    source = scene.directory / "log"
    file = scene.directory / "guests.json"
    channel = scene.addresses.unix()
    host_args = ["-c", f"unix-listen:{channel.spec}:vm1", "--collect", f"file:{file},format=json",
                 "--collect-spool", f"{scene.directory / 'host'}:8M"]
    guest_args = ["-c", f"unix-connect:{channel.spec}", "--ship", f"unix-dgram:{source},full=spool",
                  "--ship-spool", f"{scene.directory / 'guest'}:8M", "--ship-flush-timeout", "0.2"]
    host = scene.daemon(*host_args, name="host", channels=("vm1",))
    guest = scene.daemon(*guest_args, name="guest")
    guest.wait_up()
    lines: list[bytes] = []
    had = 0  # lines of the guest's daemons before
    for turn in range(4):
        mine = [b"%d: line %d" % (turn, number) for number in range(scaled(2000, 400))]
        send_dgrams(str(source), mine)
        lines += mine
        if turn % 2 == 0:
            host.kill9()
            host = scene.daemon(*host_args, name="host", channels=("vm1",))
        else:
            # What the kernel still holds, or what is not written yet, would be lost with the daemon.
            guest.wait_stats("it is written", lambda stats: stats.channels[0]["ship_received"] == len(lines) - had
                             and stats.channels[0]["ship_held"] == stats.channels[0]["ship_unwritten"] == 0)
            had = len(lines)
            guest.kill9()
            guest = scene.daemon(*guest_args, name="guest")
    eventually("the file has them", lambda: file.read_bytes().count(b"\n") >= len(lines), 30)
    entries = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [text_of(entry) for entry in entries] == lines


def test_what_is_wrong_with_a_spool_is_one_line(scene: Scene) -> None:
    spool, sink = scene.directory / "spool", f"file:{scene.directory / 'out'}"
    channel = f"unix-listen:{scene.addresses.unix().spec}"
    for args, wanted in (
        (["--collect", sink, "--collect-spool", f"{spool}:1M"], f"--collect-spool: {spool}:1M is too small: this spool has at least 8M"),
        (["--collect-spool", f"{spool}:8M"], "--collect-spool is of collecting logs, and there is no sink: "),
        (["--collect", sink, "--collect-ack", "spool"], "--collect-ack spool: there is no spool: give"),
        (["--collect", sink, "--collect-ack", "sink", "--collect-spool", f"{spool}:8M"], "leave out the spool"),
    ):
        process = scene.spawn([BIN / "virtproxy", "-c", channel, *args])
        assert process.wait(20) != 0
        assert wanted in process.everything(), process.everything()
    assert not spool.exists()
