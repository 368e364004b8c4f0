"""`virtproxyctl logs`, and what `why` shows of sources that are blocked."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path

from collecting import Collecting
from harness import BIN, PATIENCE, Scene
from log_guest import Log
from log_shipping import LogPeer, send_dgrams
from stage import eventually
import log_guest as wire


def ask(control: Path, *words: str) -> list[dict]:
    shown = subprocess.run([BIN / "virtproxyctl", *words, "--json", "--control", control], capture_output=True,
                           text=True, timeout=30 * PATIENCE, check=True)
    return json.loads(shown.stdout)


def test_a_source_that_is_blocked_is_shown_with_why(scene: Scene) -> None:
    control, path = scene.directory / "control", scene.directory / "log"
    channel = scene.addresses.unix()
    scene.daemon("-c", f"unix-connect:{channel.spec}:host", "--ship", f"unix-dgram:{path},name=app,full=block,block-for=600",
                 "--ship", f"unix-dgram:{path}2,name=other,rate=10", "--ship-memory", "256K", "--ship-flush-timeout", "0",
                 "--control", control)
    assert ask(control, "why") == []
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.connect(str(path))
    sock.setblocking(False)
    sent = 0

    def fill() -> list[dict]:
        nonlocal sent
        try:
            while True:
                sock.send(b"x" * 1000)
                sent += 1
        except BlockingIOError:
            return ask(control, "why")

    eventually("it is blocked", lambda: any(row["side"] == "source" for row in fill()))
    send_dgrams(f"{path}2", [b"y"] * 30)
    row, shipping = ask(control, "why", "host")
    assert (shipping["service"], shipping["side"], shipping["waits_for"]) == ("log shipping", "shipping", "session")
    assert shipping["waiting"] > 0 and "lines are held" in shipping["reason"]
    assert row["service"] == "source app" and row["channel"] == "host" and row["side"] == "source"
    assert row["waits_for"] == "session" and row["in_all"] >= row["waiting"] >= 0
    assert "no room for lines" in row["reason"]

    def rows() -> dict[str, dict]:
        return {row["name"]: row for row in ask(control, "logs")}

    eventually("the rate is limited", lambda: rows()["other"]["received"] == 30)
    app, other = rows()["app"], rows()["other"]
    assert app["state"] == "blocked" and app["blocked"] > 0 and app["oldest"] > 0 and app["held"] > 100_000
    assert app["dropped"] == 0 and other["dropped"] == other["dropped_rate"] == 20
    assert other["bytes"] == 30 and other["rate"] >= 1
    shipping = rows()[""]
    assert shipping["what"] == "shipping" and shipping["state"] == "waits"

    peer = LogPeer(scene, channel)
    peer.wait_numbered("app", app["received"])
    eventually("it is read again", lambda: ask(control, "why") == [])
    eventually("all is acknowledged", lambda: rows()["app"]["acknowledged"] == sent)
    assert rows()["app"]["delivered"] is None
    assert rows()["app"]["state"] == "" and rows()[""]["state"] == "up"
    text = subprocess.run([BIN / "virtproxyctl", "logs", "--control", control], capture_output=True, text=True,
                          check=True).stdout
    assert text.splitlines()[0].split()[:5] == ["channel", "what", "name", "state", "received"]


def test_what_is_collected_is_shown_by_vm_sink_and_spool(scene: Scene) -> None:
    control, file = scene.directory / "control", scene.directory / "out"
    away = scene.addresses.unix()
    collecting = Collecting(scene, [f"file:{file}", f"syslog+unix:{away.place}"], ("vm1", "vm2"),
                            f"{scene.directory / 'spool'}:8M")
    collecting.start("--control", str(control))
    log = Log()
    guest = collecting.guest()
    assert guest.begin(log)
    data = wire.batch(log.id, 0, (0, 0), [wire.line(b"one"), wire.drop(wire.RATE, 5, 50), wire.line(b"two")])
    log.position = len(data)
    assert guest.send(data)
    assert guest.wait_acked(log)

    def rows() -> dict[tuple[str, str, str], dict]:
        return {(row["channel"], row["what"], row["name"]): row for row in ask(control, "logs")}

    eventually("the file has them", lambda: rows()["", "sink", f"file:{file}"]["delivered"] == 3)
    found = rows()
    vm = found["vm1", "collecting", ""]
    assert (vm["received"], vm["delivered"], vm["dropped"], vm["dropped_rate"], vm["unaccounted"]) == (7, 2, 5, 5, 0)
    assert vm["bytes"] == 56
    source = found["vm1", "guest's source", "dev-log"]
    assert (source["received"], source["delivered"], source["dropped"]) == (7, 2, 5)
    there, gone = found["", "sink", f"file:{file}"], found["", "sink", f"syslog+unix:{away.place}"]
    assert there["state"] == "up" and gone["state"] == "down"
    assert there["oldest"] == 0 and gone["oldest"] > 0 and gone["delivered"] == 0
    assert source["dropped_rate"] is None and vm["dropped_rate"] == 5, "the account of a source has the sum alone"
    eventually("the sink that is away is the reason", lambda: [
        (row["service"], row["waits_for"], row["side"]) for row in ask(control, "why")
    ] == [(f"sink syslog+unix:{away.place}", "sink", "collecting")])
    spool = found["", "collecting spool", ""]
    assert 0 < spool["held"] < spool["size"]
    assert {row["channel"] for row in ask(control, "logs", "vm2")} == {"vm2"}
    guest.peer.close()


def test_the_rate_of_a_sink_falls_when_no_lines_come(scene: Scene) -> None:
    """Nothing wakes the thread of the sinks then."""
    control, file = scene.directory / "control", scene.directory / "out"
    collecting = Collecting(scene, [f"file:{file}"])
    collecting.start("--control", str(control))
    log = Log()
    guest = collecting.guest()
    assert guest.begin(log)
    assert guest.send(log.add([b"a line"] * 5000))
    assert guest.wait_acked(log)

    def rate() -> int:
        (row,) = (row for row in ask(control, "logs") if row["what"] == "sink")
        return row["rate"]

    first = rate()
    assert first > 100
    eventually("it falls", lambda: rate() < first - 50)
    guest.peer.close()


def test_a_guest_is_told_that_the_other_end_does_not_acknowledge(scene: Scene) -> None:
    """The channel is up, and the only sink of the collector is away."""
    control, host, path = (scene.directory / name for name in ("guest-control", "host-control", "log"))
    channel, away = scene.addresses.unix(), scene.addresses.tcp()
    scene.daemon("-c", f"unix-listen:{channel.spec}:vm1", "--collect", f"relp:{away.spec}", "--control", host,
                 channels=("vm1",))
    scene.daemon("-c", f"unix-connect:{channel.spec}:host", "--ship", f"unix-dgram:{path},name=app",
                 "--ship-flush-timeout", "0", "--control", control, channels=("host",)).wait_up("host")
    send_dgrams(str(path), [b"x" * 100] * 50)
    eventually("it is shown", lambda: bool(ask(control, "why")))
    (row,) = ask(control, "why", "host")
    assert (row["service"], row["waits_for"], row["side"]) == ("log shipping", "acknowledgement", "shipping")
    assert row["waiting"] >= 1
    (shipping,) = (row for row in ask(control, "logs") if row["what"] == "shipping")
    assert shipping["held"] >= 5000, "lines that were sent are held until they are acknowledged"
    (row,) = ask(host, "why")
    assert (row["service"], row["waits_for"]) == (f"sink relp:{away.spec}", "sink")
