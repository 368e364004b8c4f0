"""Who is turned away is named, however many others are; what is held back is counted; nobody tries in a tight loop."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterable

import pytest

from addresses import Address
from confined import as_root
from harness import PATIENCE, Daemon, Scene, into, out
from stage import Controlled, echo_once, eventually, expect_client_reset

CROWD = 41010
OTHERS = range(41011, 41020)
CALLS = 40
NOT_LISTED = "is not on the list (--allow-uid, --allow-gid)"


@pytest.fixture(name="scene")
def fixture_scene(scene: Scene) -> Scene:
    """Everybody may enter the directory of this scene."""
    scene.directory.chmod(0o755)
    return scene


def knock_as(uid: int, door: Address) -> None:
    os.seteuid(uid)
    try:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
            sock.connect(door.place)
    finally:
        os.seteuid(0)


def refusals_of(daemon: Daemon, uid: int) -> int:
    """How many refusals of the user the log has, those that are only counted included."""
    said = [line for line in daemon.err.lines() if f"client refused: uid {uid} " in line]
    return sum(1 + int(more[1]) if (more := re.search(r"\(and (\d+) alike\)", line)) else 1 for line in said)


def knock_all(daemon: Daemon, doors: Iterable[Address]) -> None:
    first, second = doors
    for _ in range(CALLS):
        knock_as(CROWD, first)
    for number, uid in enumerate(OTHERS):
        knock_as(uid, (first, second)[number % 2])


@as_root
def test_every_user_that_is_refused_is_named_once_and_the_others_are_counted(scene: Scene) -> None:
    doors = [scene.addresses.unix(), scene.addresses.unix()]
    channel = scene.addresses.unix()
    near = Controlled(
        scene, "near",
        *("-c", f"unix-listen:{channel.spec}:vm1", "--allow-uid", "41001", "--socket-mode", "0666"),
        *out("one", doors[0]), *out("two", doors[1]), channels=("vm1",),
    )  # fmt: skip
    knock_all(near.daemon, doors)
    begin = time.monotonic()
    for uid in OTHERS:
        near.daemon.wait_for_log(rf"client refused: uid {uid} gid \d+ pid {os.getpid()} is not on the list", 2)
    # Though no other comes.
    eventually("the count", lambda: refusals_of(near.daemon, CROWD) == CALLS, 3)
    assert time.monotonic() - begin < 3 * PATIENCE
    events = [event for event in near.ask("events") if event["event"] == "client_refused"]
    for uid in (CROWD, *OTHERS):
        assert [event for event in events if re.fullmatch(
            rf"uid {uid} gid \d+ pid {os.getpid()} {re.escape(NOT_LISTED)}.*", event["text"]
        )], (uid, events)
    assert sum(1 + event["suppressed"] for event in events) == CALLS + len(OTHERS)
    assert "\\x" not in near.ctl("events").stdout
    # At the stop as well.
    knock_all(near.daemon, doors)
    near.daemon.terminate()
    assert refusals_of(near.daemon, CROWD) == 2 * CALLS


@as_root
def test_an_end_that_is_on_no_list_tries_ever_less_often_and_is_named_seldom(scene: Scene) -> None:
    channel, door = scene.addresses.unix(), scene.addresses.unix()
    near_args = ("-c", f"unix-listen:{channel.spec}", "--socket-mode", "0666", *out("echo", door))
    operated = Controlled(scene, "near", *near_args, "--channel-allow-uid", "nobody")
    near = operated.daemon
    far = scene.daemon("-c", f"unix-connect:{channel.spec}", *into("echo", scene.echo_service()), name="far")
    far.wait_for_log("the other end closes every connection at once and sends nothing")
    refused = [event["text"] for event in operated.ask("events") if event["event"] == "peer_refused"]
    assert refused
    for text in refused:
        assert re.fullmatch(rf"uid 0 gid 0 pid {far.pid} is not on the list", text), text
    seconds = 8
    time.sleep(seconds)
    metric = re.search(r"(?m)^virtproxy_channel_peers_refused_total\{.*\} (\d+)$", operated.ctl("metrics").stdout)
    near.terminate()
    said = [line for line in near.err.lines() if "peer refused: uid 0 " in line]
    assert len(said) == 4, said
    more = re.search(r"\(and (\d+) alike\)", said[-1])
    assert more is not None
    # One more may have come behind the metrics.
    assert metric is not None and 0 <= len(said) + int(more[1]) - int(metric[1]) <= 1 * PATIENCE
    # Eight quick ones, seven that double up to 2 s, then one each 2 s.
    assert 12 <= len(said) + int(more[1]) <= 8 + 7 + (seconds + 4) * PATIENCE, said
    # Once it may, it does not have to wait for long.
    mark = far.mark()
    scene.daemon(*near_args, name="near again")
    far.wait_up(since=mark, timeout=4)
    echo_once(door)


def objects(daemon: Daemon) -> list[dict]:
    return [json.loads(line) for line in daemon.err.lines()]


def test_lines_of_the_json_log_name_the_peer_and_the_channel(scene: Scene) -> None:
    channel, door = scene.addresses.unix(), scene.addresses.tcp()
    json_log = ("--log-format", "json", "--log-level", "debug")
    near = Controlled(
        scene, "near", *("-c", f"unix-listen:{channel.spec}:vm1", *out("echo", door), *json_log), channels=("vm1",)
    )
    far = scene.daemon(
        *("-c", f"unix-connect:{channel.spec}:vm1", *into("echo", scene.echo_service()), *json_log),
        name="far", channels=("vm1",),
    )  # fmt: skip
    near.daemon.wait_for_log("up, protocol 2")
    with door.connect() as client:
        own = "{}:{}".format(*client.getsockname())
        client.sendall(b"word")
        client.shutdown(socket.SHUT_WR)
        while client.recv(100):
            pass
    for daemon in (near.daemon, far):
        daemon.wait_for_log('"message":"stream ended')
        ends = [line for line in objects(daemon) if line["message"].startswith("stream ended")]
        assert [line["peer"] for line in ends] == [own]
    with door.connect() as client:
        client.sendall(b"word")
        client.recv(4)
        stream = near.ask("streams")[0]["stream"]
        near.ctl("kill", stream)
    mark = near.daemon.mark()
    near.ctl("reset", "vm1")
    near.daemon.wait_for_log("up, protocol 2", since=mark)
    for what in (f"stream {stream}", "channel vm1"):
        said = [line for line in objects(near.daemon) if line["message"] == f"control: {what} is reset"]
        assert [line.get("channel") for line in said] == ["vm1"], what
    assert all(line.get("peer") != "unknown" for line in objects(near.daemon) + objects(far))
    listening = [line for line in objects(near.daemon) if line["message"].endswith(" for service echo")]
    assert [(line["channel"], line["service"]) for line in listening] == [("vm1", "echo")]
    near.daemon.send_signal(signal.SIGUSR1)
    near.daemon.wait_for_log("stats channel=vm1")
    assert [line["channel"] for line in objects(near.daemon) if "stats channel=" in line["message"]] == ["vm1"]
    near.daemon.terminate()
    (stopped,) = [line for line in objects(near.daemon) if line["message"] == "down: stopped"]
    assert stopped["reason"] == "going_away"


def test_the_json_log_states_who_is_refused_and_what_is_not_offered(scene: Scene) -> None:
    channel, closed, door = scene.addresses.unix(), scene.addresses.unix(), scene.addresses.tcp()
    json_log = ("--log-format", "json")
    far = scene.daemon("-c", f"unix-listen:{channel.spec}:vm1", *json_log, name="far", channels=("vm1",))
    strict = scene.daemon(
        *("-c", f"unix-listen:{closed.spec}:vm2", "--channel-allow-uid", "nobody", *json_log),
        name="strict", channels=("vm2",),
    )  # fmt: skip
    near = scene.daemon("-c", f"unix-connect:{channel.spec}:0", *out("echo", door), name="near")
    near.wait_up()
    closed.connect().close()
    expect_client_reset(door, 10)
    strict.wait_for_log('"message":"peer refused')
    far.wait_for_log("asks for service echo")
    (refused,) = [line for line in objects(strict) if line["message"].startswith("peer refused")]
    assert refused["channel"] == "vm2" and refused["reason"] == "not_allowed"
    assert refused["peer"] == f"uid {os.getuid()} gid {os.getgid()} pid {os.getpid()}"
    (asked,) = [line for line in objects(far) if "asks for service" in line["message"]]
    assert (asked["channel"], asked["service"], asked["reason"]) == ("vm1", "echo", "not_offered")
