"""`virtproxyctl far`: what the other end of a channel knows of it, asked over the channel itself (FAR.md)."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

import hostile_peer as wire
from harness import BIN, PATIENCE, Scene, into, out
from hostile_peer import HostilePeer, number
from stage import Controlled, ListeningService, echo, eventually, receive, wait_for_echo

WAIT = 10 * PATIENCE
SERVICE = "virtproxy.control"
ANSWERS_WITHIN = 5.0  # FarAsker::kPatience
VISIT = 10.0  # FarService::kVisitLimit


class Ends:
    """Two daemons, each with a service that is played by hand; the far one may be asked."""

    def __init__(self, scene: Scene, *far: str, protocol: int = 2) -> None:
        self.there, self.here = ListeningService(scene, "unix"), ListeningService(scene, "unix")
        self.door, self.far_door = scene.addresses.unix(), scene.addresses.unix()
        self.channel = scene.addresses.unix()
        self.far = Controlled(scene, "far", "-c", f"unix-listen:{self.channel.spec}:guest",
                              *into("there", self.there.address), *out("here", self.far_door), *far)
        self.near = Controlled(scene, "near", "-c", f"unix-connect:{self.channel.spec}:host",
                               *into("here", self.here.address), *out("there", self.door),
                               "--protocol", str(protocol))
        self.near.daemon.wait_up("host", protocol=protocol)
        self.far.daemon.wait_up("guest", protocol=protocol)

    def refused(self, *command: str) -> str:
        """The one line of a question that fails."""
        done = self.near.ctl("far", *command)
        assert (done.returncode, done.stdout) == (1, ""), done
        assert done.stderr.startswith("virtproxyctl: ") and done.stderr.count("\n") == 1
        return done.stderr.removeprefix("virtproxyctl: ").strip()


def test_both_views_of_streams_stand_side_by_side(scene: Scene) -> None:
    """Of two streams that have one number, each opened by another end: they are not mistaken."""
    ends = Ends(scene, "--share-stats")
    # The older one is the first in the list.
    out_of = ends.door.connect(WAIT)
    out_of.sendall(b"x" * 1000)
    service = ends.there.accept()
    receive(service, 1000)
    back = ends.far_door.connect(WAIT)
    back.sendall(b"y" * 70)
    other = ends.here.accept()
    receive(other, 70)
    eventually("both are accounted", lambda: [r["arrived"] for r in ends.near.ask("far", "streams")] == [1000, 0])
    forth, reverse = ends.near.ask("far", "streams", "host")
    assert forth["number"] == reverse["number"] is not None
    assert (forth["service"], forth["side"], forth["sent"], forth["received"]) == ("there", "client", 1000, 0)
    assert (reverse["service"], reverse["side"], reverse["received"]) == ("here", "service", 70)
    assert (forth["sent_there"], reverse["sent_there"]) == (0, 70)
    for row, side in ((forth, "service"), (reverse, "client")):
        (seen,) = [each for each in ends.far.ask("streams") if each["stream"] == row["stream_there"]]
        assert (seen["service"], seen["side"], seen["number"]) == (row["service"], side, row["number"])
    status = ends.near.ask("far", "status")
    assert status["version"] and (status["state"], status["channel"]) == ("serving", "guest")
    assert (status["streams"], status["sent"], status["received"]) >= (2, 70, 1000)
    assert set(status) == {"version", "state", "uptime", "driver", "channel", "sessions", "streams", "sent",
                           "received", "in_flight", "buffered", "memory_limit"}
    text = ends.near.ctl("far", "streams").stdout.splitlines()
    assert text[0].split()[:4] == ["stream", "service", "sent", "arrived"] and len(text) == 3
    assert all(len(line) <= 80 for line in text)
    for sock in (out_of, back, service, other):
        sock.close()


def test_a_stall_is_seen_from_both_ends(scene: Scene) -> None:
    ends = Ends(scene, "--share-stats")
    with ends.door.connect(WAIT) as client, ends.there.accept():
        client.setblocking(False)
        waits: list[dict] = []

        def both() -> bool:
            try:
                while True:
                    client.send(bytes(1 << 16))
            except BlockingIOError:
                pass
            waits[:] = ends.near.ask("far", "why")
            return {row["end"] for row in waits} == {"here", "there"}

        eventually("both ends see it", both)
        assert {(row["end"], row["waits_for"]) for row in waits} == {("here", "credit"), ("there", "application")}
        assert {row["reason"] for row in waits} == {"the application at the other end does not read"}
        (stream,) = {row["stream"] for row in waits}
        assert {row["stream"] for row in ends.near.ask("far", "why", stream)} == {stream}
        done = ends.near.ctl("far", "why", stream + "0")
        assert (done.returncode, done.stdout) == (0, "no stream waits at either end\n")


def test_what_keeps_the_other_end_from_being_asked_is_named(scene: Scene) -> None:
    silent = Ends(scene)
    assert silent.refused("status") == (
        "the other end of channel host answers no questions: it is to be a virtproxy that runs with "
        "--share-stats (share-stats = true)")
    assert silent.refused("why", "nowhere") == "there is no channel 'nowhere'; the channel is host"
    wrong = silent.near.ctl("far", "config")
    assert wrong.returncode == 2 and "config" in wrong.stderr
    old = Ends(scene, "--share-stats", protocol=1)
    with old.door.connect(WAIT) as client, old.there.accept() as service:
        client.sendall(b"!")
        receive(service, 1)
        assert old.refused("streams") == (
            "the other end of channel host speaks protocol 1, in which it cannot be asked: that takes "
            "virtproxy with protocol 2 there")
    two = Controlled(scene, "two", "-c", f"unix-connect:{scene.addresses.unix().spec}:a",
                     "-c", f"unix-connect:{scene.addresses.unix().spec}:b")
    assert two.ctl("far", "why").stderr == (
        "virtproxyctl: there are several channels: name the one whose other end is meant\n")
    assert two.ctl("far", "why", "b").stderr == (
        "virtproxyctl: channel b is down: there is no other end to ask\n")


def test_an_end_that_is_stopped_has_a_time_out(scene: Scene) -> None:
    ends = Ends(scene, "--share-stats")
    assert ends.near.ask("far", "streams") == []
    ends.far.daemon.send_signal(signal.SIGSTOP)
    begin = time.monotonic()
    asking = [subprocess.Popen([BIN / "virtproxyctl", "far", "streams", "--control", ends.near.path],
                               stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for each in asking:
        _, said = each.communicate(timeout=WAIT)
        assert said == "virtproxyctl: the other end of channel host has not answered within 5 s\n"
    took = time.monotonic() - begin
    assert ANSWERS_WITHIN <= took < ANSWERS_WITHIN + 2 * PATIENCE, took
    ends.far.daemon.send_signal(signal.SIGCONT)
    eventually("it answers again", lambda: ends.near.ctl("far", "streams").returncode == 0)
    assert ends.near.ask("streams") == []


def test_the_answer_is_of_one_channel(scene: Scene) -> None:
    """A guest learns nothing of the others of its host, nor who its clients are."""
    service = scene.addresses.unix()
    scene.serve("echo", service)
    channels, doors = [scene.addresses.unix() for _ in range(2)], [scene.addresses.unix() for _ in range(2)]
    host = Controlled(scene, "host", *("-c", f"unix-listen:{channels[0].spec}:a", "-c", f"unix-listen:{channels[1].spec}:b"),
                      *out("echo", doors[0]), "-o", f"echo:{doors[1].spec}:b", "--share-stats")
    guests = [Controlled(scene, f"guest {name}", "-c", f"unix-connect:{channel.spec}", *into("echo", service))
              for name, channel in zip("ab", channels)]
    clients = []
    for door in (doors[0], doors[1], doors[1]):
        wait_for_echo(door)
        clients.append(door.connect(WAIT))
        echo(clients[-1])
    eventually("each sees its own", lambda: [len(each.ask("far", "streams")) for each in guests] == [1, 2])
    for guest, name in zip(guests, "ab"):
        rows = guest.ask("far", "streams")
        assert {row["stream_there"].split("/")[0] for row in rows} == {name}
        assert guest.ask("far", "status")["channel"] == name
    for client in clients:
        client.close()
    assert host.ask("status")["channels"] == 2


@contextmanager
def hostile_far_end(scene: Scene):
    """A daemon that can be asked to ask, and the peer at its other end."""
    channel = scene.addresses.unix()
    near = Controlled(scene, "near", "-c", f"unix-listen:{channel.spec}")
    with HostilePeer(channel, WAIT) as peer:
        peer.greet()
        near.daemon.wait_up()
        yield near, peer


@dataclass
class Asked:
    """The stream that the daemon asks over."""

    stream: int
    credit: int
    line: bytes


def asked_of(peer: HostilePeer) -> Asked:
    opened = next(frame for frame in peer.frames() if frame.kind == wire.OPEN)
    assert opened.payload[4:].startswith(SERVICE.encode())
    line = b""
    while not line.endswith(b"\n"):
        line += peer.wait_for(wire.DATA, opened.stream).payload
    return Asked(opened.stream, opened.argument, line)


def answer(peer: HostilePeer, asked: Asked, text: bytes) -> None:
    if text:
        peer.send(peer.frame(wire.DATA, asked.stream, 0, text))
    peer.send(peer.frame(wire.END, asked.stream, len(text)))
    peer.send(peer.frame(wire.DONE, asked.stream, len(asked.line)))


ROW = b"stream\tnumber\tside\tservice\tage\tsent\treceived\twaits_for\twaiting\n"
EVIL = "\x1b]0;owned\x07\x1b[2J\r\x9b".encode("latin-1")
GARBAGE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "it has no line"),
    "no end of a line": (b"ok", "it has no line"),
    "something else": (EVIL + b"\n", "'\\x1b]0;owned\\x07\\x1b[2J\\x0d\\x9b'"),
    "no names": (b"ok\n", "it ends before the names of the columns"),
    "cut off": (b"ok\n" + ROW + b"a/0.1\t0\tservice\techo\t1\t1\t1\t-\t-\n", "it is cut off"),
    "a line too short": (b"ok\na\tb\nc\nend\n", "a line has not as many cells as there are names"),
    "a line too long": (b"ok\na\nb\tc\nend\n", "a line has not as many cells as there are names"),
    "a long cell": (b"ok\na\n" + b"x" * 161 + b"\nend\n", "a cell is too long, or a line has too many"),
    "many cells": (b"ok\n" + b"\t" * 33 + b"\nend\n", "a cell is too long, or a line has too many"),
    "many lines": (b"ok\na\n" + b"b\n" * 1025 + b"end\n", "it has too many lines"),
}


@pytest.mark.parametrize("case", GARBAGE)
def test_garbage_of_the_other_end_is_refused(scene: Scene, case: str) -> None:
    text, what = GARBAGE[case]
    with hostile_far_end(scene) as (near, peer):
        asking = start(near, "streams")
        asked = asked_of(peer)
        assert asked.line == b"streams\n"
        answer(peer, asked, text)
        assert said_by(asking) == (1, "", f"virtproxyctl: the other end of channel 0 has sent what is no answer: {what}\n")


def start(near: Controlled, *question: str) -> subprocess.Popen[str]:
    return subprocess.Popen([BIN / "virtproxyctl", "far", *question, "--control", near.path],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def said_by(asking: subprocess.Popen[str]) -> tuple[int, str, str]:
    stdout, stderr = asking.communicate(timeout=2 * WAIT)
    return asking.returncode, stdout, stderr


def test_what_the_other_end_says_is_printed_safely(scene: Scene) -> None:
    row = EVIL + b"\t7\tservice\t" + EVIL + b"\t-1\t18446744073709551616\tx\t" + EVIL + b"\t9\n"
    with hostile_far_end(scene) as (near, peer):
        for question in ("streams", "why"):
            for extra in ([], ["--json"]):
                asking = start(near, question, *extra)
                answer(peer, asked_of(peer), b"ok\n" + ROW + row + b"end\n")
                code, text, errors = said_by(asking)
                assert (code, errors) == (0, "")
                assert all(" " <= char < "\x7f" or char == "\n" for char in text), text
                assert "owned" in text
                if extra:
                    (shown,) = json.loads(text)
                    assert shown.get("age_there") is None and shown.get("arrived") is None
        asking = start(near, "status")
        answer(peer, asked_of(peer), b"error " + EVIL + b"x" * 1000 + b"\n")
        code, text, errors = said_by(asking)
        assert (code, text) == (1, "") and errors.count("\n") == 1 and len(errors) < 800
        assert all(" " <= char < "\x7f" for char in errors[:-1]), errors
        assert errors.startswith("virtproxyctl: the other end of channel 0 answers: \\x1b]0;owned")


def flood(peer: HostilePeer, asked: Asked) -> None:
    """Without an end, for as long as there is credit."""
    sent, granted, stream = 0, asked.credit, asked.stream
    while True:
        while sent < granted:
            size = min(16384, granted - sent)
            peer.send(peer.frame(wire.DATA, stream, sent, bytes(size)))
            sent += size
        frame = next(one for one in peer.frames() if one.stream == stream and one.kind in (wire.CREDIT, wire.RESET))
        if frame.kind == wire.RESET:
            return
        granted = frame.argument


HOSTILE: dict[str, tuple[Callable[[HostilePeer, Asked], None], str]] = {
    "a reset": (lambda peer, asked: peer.send(peer.frame(wire.RESET, asked.stream, wire.NO_RESOURCES)),
                "gave no answer: out of descriptors or memory"),
    "a flood": (flood, "has sent a longer answer than there can be"),
    "a session that ends": (lambda peer, _: peer.close(), "gave no answer: the link was lost"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_an_end_that_does_its_worst_is_left(scene: Scene, case: str) -> None:
    act, what = HOSTILE[case]
    with hostile_far_end(scene) as (near, peer):
        asking = start(near, "streams")
        act(peer, asked_of(peer))
        assert said_by(asking) == (1, "", f"virtproxyctl: the other end of channel 0 {what}\n")
        eventually("nothing is left of it", lambda: near.ask("streams") == [])


def test_an_end_that_asks_too_much_is_bounded(scene: Scene) -> None:
    channel = scene.addresses.unix()
    asked = Controlled(scene, "asked", "-c", f"unix-listen:{channel.spec}", "--share-stats", "--log-level", "debug")
    with HostilePeer(channel, VISIT + WAIT) as peer:
        peer.greet()
        # A line that never ends, bytes that are none, a command that changes something.
        peer.send(peer.open_frame(0, SERVICE) + peer.frame(wire.DATA, number(0), 0, b"x" * 257, mine=True))
        peer.wait_for(wire.RESET, number(0))
        for slot, line in ((1, EVIL), (2, b"stop"), (3, b"streams --limit 65536")):
            peer.send(peer.open_frame(slot, SERVICE) + peer.frame(wire.DATA, number(slot), 0, line + b"\nstop\n", mine=True))
            frame = peer.wait_for(wire.DATA, number(slot))
            assert frame.payload == b"error no such question: status, streams and why are known\n"
            peer.send(peer.frame(wire.RESET, number(slot), 1, mine=True))
        # Four at once; they read nothing, and are gone after their time.
        begin = time.monotonic()
        for slot in range(10, 15):
            peer.send(peer.open_frame(slot, SERVICE, credit=0) + peer.frame(wire.DATA, number(slot), 0, b"status\n", mine=True))
        late = [number(slot) for slot in range(10, 15)]
        gone = [next(one for one in peer.frames() if one.kind == wire.RESET and one.stream in late) for _ in late]
        assert [one.stream for one in gone] == [late[-1], *late[:-1]]
        assert [one.argument for one in gone] == [wire.NO_RESOURCES] + [wire.TIMED_OUT] * 4
        assert VISIT <= time.monotonic() - begin
        # Ten a second.
        begin = time.monotonic()
        for slot in range(20, 31):
            peer.send(peer.open_frame(slot, SERVICE) + peer.frame(wire.DATA, number(slot), 0, b"streams\n", mine=True))
            assert peer.wait_for(wire.DATA, number(slot)).payload.startswith(b"ok\n")
            peer.send(peer.frame(wire.RESET, number(slot), 1, mine=True))
        assert time.monotonic() - begin >= 1.0
    assert "the other end asks for '\\x1b]0;owned" in asked.daemon.everything()


def test_a_channel_that_came_later_asks_and_is_recorded(scene: Scene) -> None:
    ends = Ends(scene)
    channel = scene.addresses.unix()
    for end, method, name in ((ends.far, "listen", "later"), (ends.near, "connect", "new")):
        assert end.ctl("channel-add", f"unix-{method}:{channel.spec}:{name}").returncode == 0
    ends.near.daemon.wait_up("new")
    assert "answers no questions" in ends.refused("status", "new")
    assert [event["event"] for event in ends.near.ask("events", "new")][0] == "up"
    assert ends.near.ctl("channel-remove", "new").returncode == 0
