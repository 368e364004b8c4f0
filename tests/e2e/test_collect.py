"""Logs of guests through a collecting daemon into each kind of sink.

The guests are written from the protocol alone. What a guest numbered is in the sink once, or covered by a
record, whatever is killed meanwhile; and nothing that a guest sends becomes a line of another one.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import struct
from collections import Counter
from pathlib import Path

import pytest

import log_guest as wire
from collecting import SEED, Collecting, batches, parse_5424, some_lines, text_of
from harness import PATIENCE, SANITIZED, Scene, scaled
from hostile_peer import NO_RESOURCES
from log_collectors import ForwardServer, OtlpServer
from log_guest import Log
from log_servers import Reader, Rsyslog
from stage import eventually


@pytest.mark.parametrize("spool", [False, True], ids=["no-spool", "spool"])
def test_a_file_has_every_line_once_whatever_is_killed(scene: Scene, spool: bool) -> None:
    """SIGKILL of the collecting daemon while a guest sends, at moments that it does not choose."""
    rng = random.Random(SEED)
    file = scene.directory / "guests.json"
    collecting = Collecting(scene, [f"file:{file},format=json"],
                            spool=f"{scene.directory / 'spool'}:16M" if spool else "")
    lines = some_lines(rng, scaled(6000, 800))
    parts = list(batches(lines, 16 * 1024))
    log = Log()
    kills = 8
    todo = parts
    for kill in range(kills + 1):
        daemon = collecting.start()
        guest = collecting.guest()
        try:
            good = guest.begin(log)
            share = len(parts) // kills if kill < kills else len(todo)
            mine, todo = todo[:share], todo[share:]
            for number, part in enumerate(mine):
                data = log.add(part)
                good = good and guest.send(data)
                if kill < kills and number == len(mine) // 2:
                    daemon.kill9()
            if kill == kills:
                assert good and guest.wait_acked(log)
        except OSError:
            assert kill < kills
        except EOFError:
            assert kill < kills
        finally:
            guest.peer.close()
        for part in mine[number + 1 :] if kill < kills else []:
            log.add(part)
        if kill < kills and daemon.alive():
            daemon.kill9()
    assert not log.kept
    eventually("the file has them", lambda: file.read_bytes().count(b"\n") == len(lines))
    entries = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [entry["seq"] for entry in entries] == list(range(len(lines)))
    assert all(entry["vm"] == "vm1" for entry in entries)
    assert [text_of(entry) for entry in entries] == lines


def test_records_of_what_was_dropped_complete_the_account(scene: Scene) -> None:
    file = scene.directory / "guests.json"
    collecting = Collecting(scene, [f"file:{file},format=json"])
    daemon = collecting.start("--control", str(scene.directory / "control"))
    log = Log()
    guest = collecting.guest()
    assert guest.begin(log)
    data = wire.batch(log.id, 0, (0, 0), [
        wire.line(b"zero"), wire.drop(wire.NEWEST, 3, 600), wire.line(b"four"),
        wire.drop(wire.KERNEL, 1, 0)])
    assert guest.send(data)
    gap = wire.batch(log.id, len(data), (10, 1008), [wire.line(b"ten")])
    assert guest.send(gap)
    log.position = len(data) + len(gap)
    assert guest.wait_acked(log)
    assert guest.send(wire.state(log.id, [wire.mark(12, 1031)]))
    while not log.finished:
        answer = guest.message()
        assert answer is not None
        log.finished = answer[0] == wire.ACKED and bool(answer[1][20] & 1)
    entries = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    covered = Counter()
    for entry in entries:
        what = entry.get("drop") or entry.get("unaccounted")
        covered.update(range(entry["seq"], entry["seq"] + (what["count"] if what else 1)))
    assert covered == Counter(range(12))
    assert [entry["drop"]["reason"] for entry in entries if "drop" in entry] == [
        "newest", "kernel-overflow"]
    assert [entry["unaccounted"]["bytes"] for entry in entries if "unaccounted" in entry] == [400, 20]
    daemon.wait_for_log(r"channel vm1: 4 lines \(400 bytes\) unaccounted in source 'dev-log'")
    daemon.wait_for_log(
        r"channel vm1: the other end dropped 4 lines \(600 bytes\) of its logs: newest 3, kernel-overflow 1; "
        "4 since the start")
    counts = daemon.stats().channels["vm1"]
    assert counts["log_lines"] == 12 and counts["log_delivered"] == 3
    assert counts["log_dropped"] == 4 and counts["log_unaccounted"] == 5
    guest.peer.close()


def test_files_are_rotated_inside_the_sandbox(scene: Scene) -> None:
    file = scene.directory / "guests.log"
    collecting = Collecting(scene, [f"file:{file},rotate=256K,keep=2,sync=on"])
    collecting.start()
    log = Log()
    lines = [b"%06d" % number + b"x" * 500 for number in range(2000)]
    collecting.send(log, list(batches(lines, 8192)))
    found = [parse_5424(line) for name in (f"{file}.2", f"{file}.1", str(file))
             for line in Path(name).read_bytes().splitlines()]
    assert not Path(f"{file}.3").exists()
    assert all(Path(name).stat().st_size <= 262144 for name in (f"{file}.2", f"{file}.1", str(file)))
    assert [text for _, _, _, text in found] == lines[-len(found) :]
    assert len(found) * 600 > 256 * 1024


def test_a_guest_writes_no_line_of_another_one(scene: Scene) -> None:
    file = scene.directory / "guests.log"
    listening = scene.addresses.unix()
    reader = Reader(listening.listen())
    reader.may_read.set()
    plain = scene.directory / "guests.txt"
    collecting = Collecting(scene, [f"file:{file}", f"syslog+unix:{listening.place}", f"file:{plain},format=text"],
                            ("vm1", "vm2"))
    collecting.start()
    forged_text = b"2026-11-30T01:02:03.000000Z vm2 dev-log: forged"
    forged = (b'<13>1 2026-11-30T01:02:03.000000Z vm2 dev-log - - [virtproxy@32473 vm="vm2" '
              b'source="dev-log" log="00" seq="0"] forged')
    lines = [b"innocent\n" + forged, b"\n" + forged, forged + b"\r\n" + forged, b"\0\n" + forged,
             b"5 hello\n10 " + forged, b'"] ' + forged, b"\\x0a" + forged, b"\x1b[2J" + forged,
             b"innocent\n" + forged_text, b"! 5 lines dropped"]
    collecting.send(Log(), [lines])
    collecting.send(Log(), [[b"mine"]], "vm2")
    for found in (file.read_bytes().splitlines(), reader.messages()):
        parsed = [parse_5424(line) for line in found]
        assert [text for vm, _, _, text in parsed if vm == "vm2"] == [b"mine"]
        assert len([1 for vm, *_ in parsed if vm == "vm1"]) == len(lines)
    parsed = [parse_5424(line)[3] for line in file.read_bytes().splitlines()]
    assert parsed[: len(lines)] == [re.sub(rb"^<13>", b"", line) for line in lines]
    rows = [line.split(b" ", 3) for line in plain.read_bytes().splitlines()]
    assert [(vm, source) for _, vm, source, _ in rows] == [(b"vm1", b"dev-log:")] * len(lines) + [(b"vm2", b"dev-log:")]
    reader.close()


def test_a_stream_that_breaks_the_protocol_ends_and_no_other_does(scene: Scene) -> None:
    file = scene.directory / "guests.json"
    log = Log()
    hello = wire.hello(log.id)
    crimes = (
        b"\0" * 4096,
        wire.batch(log.id, 0, (0, 0), [wire.line(b"before HELLO")]),
        hello + wire.batch(log.id, 0, (0, 0), [wire.drop(wire.OLDEST, 1 << 62, 0)]),
        hello + wire.batch(log.id, 0, (5, 50), [wire.line(b"x")])
        + wire.batch(log.id, 200, (7, 20), [wire.line(b"fewer bytes than before")]),
        hello + wire.batch(b"Z" * 16, 0, (0, 0), [wire.line(b"of another log")]),
        hello + hello,
    )
    vms = tuple(f"vm{number}" for number in range(len(crimes)))
    collecting = Collecting(scene, [f"file:{file},format=json"], ("good", *vms))
    daemon = collecting.start()
    good = collecting.guest("good")
    mine = Log()
    assert good.begin(mine)
    for vm, data in zip(vms, crimes):
        bad = collecting.guest(vm)
        bad.open()
        bad.send(data)
        while bad.reset is None:
            bad.pump()
        daemon.wait_for_log(rf"channel {vm}: the log stream is reset: .*refused for 500 ms")
        bad.open()
        while bad.reset is None:
            bad.pump()
        assert bad.reset == NO_RESOURCES, "for a while"
        bad.peer.close()
        assert good.send(mine.add([vm.encode()]))
        assert good.wait_acked(mine)
    entries = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [entry["message"] for entry in entries if entry["vm"] == "good"] == list(vms)
    good.peer.close()


def test_a_guest_with_a_log_for_every_line_takes_no_more_memory(scene: Scene) -> None:
    file = scene.directory / "guests.json"
    collecting = Collecting(scene, [f"file:{file},format=json"])
    daemon = collecting.start()
    guest = collecting.guest()
    guest.open()
    count = scaled(4000, 200)
    sources = [(f"source {number}", wire.mark(), wire.mark()) for number in range(64)]
    for number in range(count):
        log = number.to_bytes(16, "little")
        many = number % 10 == 0
        assert guest.send(wire.hello(log, sources=sources if many else ()))
        answer = guest.message()
        assert answer and answer[0] == wire.WANT
        assert guest.send(wire.state(log, [wire.mark()] * (64 if many else 1)))
        answer = guest.message()
        assert answer and answer[0] == wire.ACKED
        if number == count // 4:
            before = daemon.rss()
    if not SANITIZED:
        assert daemon.rss() < before + (8 << 20)
    assert (scene.directory / "guests.json.state").stat().st_blocks * 512 < 16 << 20
    guest.peer.close()


@pytest.mark.parametrize("kind", ["syslog+unix", "syslog+tcp", "unix-dgram"])
def test_what_a_receiver_has_not_read_is_not_acknowledged(scene: Scene, kind: str) -> None:
    """With syslog+tcp it is the kernel of the receiver that has it."""
    address = scene.addresses.tcp() if kind == "syslog+tcp" else scene.addresses.unix()
    if kind == "unix-dgram":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.bind(address.place)
    else:
        sock = address.listen()
    reader = Reader(sock)
    target = address.spec if kind == "syslog+tcp" else address.place
    collecting = Collecting(scene, [f"{kind}:{target}"])
    daemon = collecting.start()
    guest = collecting.guest()
    log = Log()
    assert guest.begin(log)
    lines = [b"line %d\n" % number for number in range(100)]
    assert guest.send(log.add(lines[:50]))
    if kind == "syslog+tcp":
        assert guest.wait_acked(log)
    else:
        eventually("what was sent is here", lambda: daemon.stats().channels["vm1"]["log_delivered"] == 50)
        assert daemon.stats().channels["vm1"]["log_held"] > 0 and log.acked == 0
    reader.may_read.set()
    assert guest.wait_acked(log)
    assert guest.send(log.add(lines[50:]))
    assert guest.wait_acked(log)
    eventually("all is read", lambda: len(reader.messages()) == 100)
    assert [parse_5424(message)[3] for message in reader.messages()] == lines
    guest.peer.close()
    reader.close()


@pytest.mark.parametrize("replaced", [False, True], ids=["gone", "replaced"])
@pytest.mark.parametrize("kind", ["syslog+unix", "unix-dgram"])
def test_what_a_receiver_had_not_read_when_it_died_comes_again(scene: Scene, kind: str, replaced: bool) -> None:
    """The kernel empties its queue, which looks as if it had read all of it. The next receiver may be there before
    the daemon looks: it is stopped here until then."""
    address = scene.addresses.unix()

    def listen() -> socket.socket:
        if kind != "unix-dgram":
            return address.listen()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.bind(address.place)
        return sock

    dead = listen()
    dead.settimeout(20 * PATIENCE)
    collecting = Collecting(scene, [f"{kind}:{address.place}"])
    daemon = collecting.start()
    guest = collecting.guest()
    log = Log()
    assert guest.begin(log)
    lines = [b"line %d" % number for number in range(5)]
    assert guest.send(log.add(lines))
    connection = dead if kind == "unix-dgram" else dead.accept()[0]
    assert connection.recv(1, socket.MSG_PEEK)
    if replaced:
        os.kill(daemon.pid, signal.SIGSTOP)
    if kind != "unix-dgram":
        connection.sendall(b"?")
        connection.close()
    dead.close()
    if not replaced:
        daemon.wait_for_log("trying again|connecting again")
    Path(address.place).unlink()
    reader = Reader(listen())
    if replaced:
        os.kill(daemon.pid, signal.SIGCONT)
        daemon.wait_for_log("trying again|connecting again")
    reader.may_read.set()
    assert guest.wait_acked(log)
    eventually("all is read", lambda: len(reader.messages()) == 5)
    assert [parse_5424(message)[3] for message in reader.messages()] == lines
    guest.peer.close()
    reader.close()


def test_rsyslog_has_every_line_over_relp_whatever_is_killed(scene: Scene) -> None:
    """None is lost; what is there twice is what was not acknowledged when something was killed."""
    rng = random.Random(SEED)
    rsyslog = Rsyslog(scene, relp=scene.addresses.tcp())
    rsyslog.start()
    collecting = Collecting(scene, [f"relp:{rsyslog.address.spec}"])
    daemon = collecting.start()
    log = Log()
    lines = some_lines(rng, scaled(400, 150))
    parts = todo = list(batches(lines, 4096))
    for victim in ("kill rsyslog", "stop rsyslog", "daemon", None):
        guest = collecting.guest()
        mine, todo = (todo[: len(parts) // 4], todo[len(parts) // 4 :]) if victim else (todo, [])
        try:
            assert guest.begin(log)
            for number, part in enumerate(mine):
                assert guest.send(log.add(part))
                if number != len(mine) // 2:
                    continue
                if victim == "kill rsyslog":
                    # In the middle of a write it loses what it has answered, whatever is synced.
                    assert guest.wait_acked(log)
                    rsyslog.kill()
                    rsyslog.start()
                elif victim == "stop rsyslog":
                    rsyslog.stop()
                    rsyslog.start()
            if victim == "daemon":
                daemon.kill9()
                daemon = collecting.start()
            else:
                assert guest.wait_acked(log)
        finally:
            guest.peer.close()
    eventually("rsyslog has them",
               lambda: len({parse_5424(line)[2] for line in rsyslog.lines()}) == len(lines), 60)
    found = [parse_5424(line) for line in rsyslog.lines()]
    texts = {seq: text for _, _, seq, text in found}
    assert [texts[seq] for seq in range(len(lines))] == lines
    doubled = len(found) - len(lines)
    print(f"lines {len(lines)}, lost 0, doubled {doubled}")
    first = list(dict.fromkeys(seq for _, _, seq, _ in found))
    assert first == sorted(first), "in order, but for what came again"


def test_rsyslog_takes_octet_counted_lines(scene: Scene) -> None:
    rng = random.Random(SEED)
    rsyslog = Rsyslog(scene, tcp=scene.addresses.tcp())
    rsyslog.start()
    collecting = Collecting(scene, [f"syslog+tcp:{rsyslog.address.spec}"])
    collecting.start()
    lines = some_lines(rng, 100)
    collecting.send(Log(), list(batches(lines)))
    eventually("rsyslog has them", lambda: len(rsyslog.lines()) == len(lines), 30)
    assert [parse_5424(line)[3] for line in rsyslog.lines()] == lines


def test_standard_output_has_json_lines(scene: Scene) -> None:
    collecting = Collecting(scene, ["stdout"])
    daemon = collecting.start()
    lines = [b"number %d" % number for number in range(2000)]
    collecting.send(Log(), list(batches(lines)))
    daemon.terminate()
    entries = [json.loads(line) for line in daemon.out.lines()]
    assert [text_of(entry) for entry in entries] == lines


def test_a_configuration_file_names_the_sinks(scene: Scene) -> None:
    file = scene.directory / "guests.log"
    config = scene.directory / "virtproxy.toml"
    channel = scene.addresses.unix()
    config.write_text(
        f'[collect]\nsink = ["file:{file},format=json"]\n'
        f'[channel.vm1]\ntransport = "unix-listen:{channel.place}"\n', encoding="utf-8")
    collecting = Collecting(scene, [])
    collecting.channels = {"vm1": channel}
    collecting.args = ["--config", str(config)]
    collecting.start()
    collecting.send(Log(), [[b"hello"]])
    assert text_of(json.loads(file.read_text(encoding="utf-8"))) == b"hello"


def test_a_chunk_of_forward_is_safe_when_it_is_acknowledged(scene: Scene) -> None:
    rng = random.Random(SEED)
    address = scene.addresses.tcp()
    server = ForwardServer(address)
    collecting = Collecting(scene, [f"forward:{address.spec}"])
    daemon = collecting.start()
    lines = some_lines(rng, 500) + [b"\xff\xfe"]
    log = Log()
    guest = collecting.guest()
    assert guest.begin(log)
    for part in batches(lines):
        assert guest.send(log.add(part))
    eventually("a chunk is there", lambda: bool(server.chunks))
    assert daemon.stats().channels["vm1"]["log_held"] > 0 and log.acked == 0
    # Without an answer it comes again, as the same chunk.
    first = server.chunks[0][:2]
    server.drop_connections()
    eventually("it comes again", lambda: [chunk[:2] for chunk in server.chunks].count(first) >= 2)
    server.may_answer.set()
    assert guest.wait_acked(log)
    chunks = {chunk: entries for _, chunk, entries in server.chunks}
    found = {fields["seq"]: fields for entries in chunks.values() for _, fields in entries}
    as_bytes = [found[seq]["message"] for seq in range(len(lines))]
    assert [text.encode() if isinstance(text, str) else text for text in as_bytes] == lines
    assert {fields["vm"] for fields in found.values()} == {"vm1"}
    assert {tag for tag, *_ in server.chunks} == {"virtproxy.vm1"}
    guest.peer.close()
    server.close()


def test_records_over_otlp_are_safe_when_they_are_taken(scene: Scene) -> None:
    rng = random.Random(SEED)
    address = scene.addresses.tcp()
    server = OtlpServer(address)
    collecting = Collecting(scene, [f"otlp:{address.spec}"], ("vm1", "vm2"))
    daemon = collecting.start()
    answers = iter([(429, {"Retry-After": "0"}, 0), (503, {}, 0), (401, {}, 0)])
    server.judge = lambda records: next(answers, (200, {}, 0))
    lines = [b"<11>error", b"\xff", *some_lines(rng, 300)]
    collecting.send(Log(), list(batches(lines)))
    collecting.send(Log(), [[b"two"]], "vm2")
    assert next(answers, None) is None
    texts = [record.body.string_value.encode() or record.body.bytes_value
             for vm, record in server.records if vm == "vm1"]
    assert texts == lines
    assert [record.body.string_value for vm, record in server.records if vm == "vm2"] == ["two"]
    assert server.records[0][1].severity_number == 17
    uids = {pair.value.string_value for _, record in server.records for pair in record.attributes
            if pair.key == "log.record.uid"}
    assert len(uids) == len(lines) + 1

    # One record that is refused is found, and the others are not lost with it.
    server.records.clear()
    server.judge = lambda records: (
        400 if any(record.body.string_value == "poison" for _, record in records) else 200, {}, 0)
    guest = collecting.guest()
    log = Log()
    assert guest.begin(log)
    assert guest.send(log.add([b"a", b"b", b"poison", b"c", b"d"]))
    rejected = []
    while log.acked < log.position:
        kind, body = guest.message()
        if kind == wire.REJECT:
            rejected.append(struct.unpack_from("<QIIQQQ", body)[3:])
        elif kind == wire.ACKED:
            log.acked = struct.unpack_from("<Q", body, 8)[0]
    assert rejected == [(2, 1, 6)]
    assert [record.body.string_value for _, record in server.records] == ["a", "b", "c", "d"]
    counts = daemon.stats().channels["vm1"]
    assert counts["log_dropped"] == 1 and counts["log_delivered"] == len(lines) + 4
    guest.peer.close()
    server.close()
