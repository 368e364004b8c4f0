"""virtagent in both directions: one port and two, crossing calls, streams through two daemons, events, the host."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import struct
import termios
import threading
import time
from pathlib import Path

import pytest

from agent_ends import Agent, Line, await_that, call, run, takes_connections
from harness import PATIENCE, SANITIZED, Pair, Scene, scaled

CROSSING = int(os.environ.get("VIRTPROXY_AGENT_CALLS") or 0)


def caller(at: Path, method: str, count: int, failures: list[str]) -> None:
    try:
        with Line(at) as line:
            for number in range(count):
                line.send('{"execute":"%s","id":%d}\n' % (method, number))
                answer = line.message()
                if answer.get("id") != number or answer.get("return") != {}:
                    failures.append(f"{method} {number}: {answer}")
                    return
    except (OSError, EOFError) as error:
        failures.append(f"{method}: {error}")


def cross(guest_local: Path, host_local: Path, count: int, clients: int = 2) -> None:
    failures: list[str] = []
    threads = [threading.Thread(target=caller, args=(at, method, count, failures))
               for at, method in ((guest_local, "host-ping"), (host_local, "guest-ping")) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


@pytest.mark.parametrize("ports", [1, 2])
def test_crossing_calls(scene: Scene, ports: int) -> None:
    """At full rate, both ends through each port. VIRTPROXY_AGENT_CALLS=1000000 for the long form."""
    a, b = scene.directory / "a", scene.directory / "b"
    guest_local, host_local = scene.directory / "guest-local", scene.directory / "host-local"
    if ports == 1:
        listening, connecting = ["-c", f"unix-listen:{a}"], ["-c", f"unix-connect:{a}"]
    else:
        listening = ["--client", f"unix-listen:{a}", "--server", f"unix-listen:{b}"]
        connecting = ["--client", f"unix-connect:{b}", "--server", f"unix-connect:{a}"]
    quiet = ["--log", "warn"] if CROSSING else []
    guest = Agent(scene, *quiet, "guest", *listening, "--local", guest_local, name="guest", wait=not CROSSING)
    await_that("the guest listens", lambda: takes_connections(a))
    host = Agent(scene, *quiet, "host", *connecting, "--local", host_local, name="host", wait=not CROSSING)
    await_that("the host listens", lambda: takes_connections(host_local))
    cross(guest_local, host_local, 50)
    before = guest.rss(), host.rss(), guest.fds(), host.fds()
    each = max(1, (CROSSING or scaled(2000)) // 4)
    begun = time.monotonic()
    cross(guest_local, host_local, each)
    print(f"{4 * each / (time.monotonic() - begun):,.0f} calls a second")
    await_that("descriptors are given back", lambda: (guest.fds(), host.fds()) <= before[2:])
    if not SANITIZED:
        assert guest.rss() - before[0] < 2 << 20 and host.rss() - before[1] < 2 << 20


def test_hello_events_and_restarts(scene: Scene) -> None:
    port, local, guest_local = scene.directory / "p", scene.directory / "local", scene.directory / "guest-local"
    host = Agent(scene, "host", "-c", f"unix-connect:{port}", "--local", local, name="host")
    watcher = scene.spawn([*run_args("events", local)], "events")
    guest_args = ("guest", "-c", f"unix-listen:{port}", "--local", guest_local)
    guest = Agent(scene, *guest_args, name="guest")
    host.log(r"the other end is virtagent \d\S+, \d+ methods")
    guest.log(r"the other end is virtagent \S+, \d+ methods")
    host.log("va-events: ok")
    assert call(guest_local, "host-notify", "event=ready", 'data={"a":"b"}') == {}
    assert json.loads(watcher.out.wait_for("va-notify", 10 * PATIENCE).group(0) and
                      watcher.out.lines()[-1])["data"] == {"event": "ready", "data": {"a": "b"}}
    assert call(local, "guest-get-osinfo")["kernel-release"] == os.uname().release
    watcher.kill()
    for _ in range(3):
        mark = host.mark()
        guest.process.send_signal(signal.SIGKILL)
        guest.process.wait(10)
        guest = Agent(scene, *guest_args, name="guest")
        host.log("the other end is virtagent", since=mark)
        assert call(local, "guest-ping") == {}
        assert call(guest_local, "host-ping") == {}
    mark = guest.mark()
    host.process.send_signal(signal.SIGKILL)
    host.process.wait(10)
    host = Agent(scene, "host", "-c", f"unix-connect:{port}", "--local", local, name="host")
    guest.log("the other end is virtagent", since=mark)
    assert call(guest_local, "host-ping") == {}
    watcher = scene.spawn([*run_args("events", local)], "later events")
    host.log("va-events: ok")
    mark = host.mark()
    guest.terminate()
    host.log("event va-stopping", since=mark)
    stopping = json.loads(watcher.out.wait_for("va-stopping", 10 * PATIENCE) and
                          next(each for each in watcher.out.lines() if "va-stopping" in each))
    assert abs(stopping["timestamp"]["seconds"] - time.time()) < 60 * PATIENCE
    watcher.kill()


def test_a_call_without_another_end_is_refused_soon(scene: Scene) -> None:
    """At once where nobody has been there for long, and not while an end is restarted."""
    port, local, host_local = (scene.directory / name for name in ("p", "local", "host-local"))
    host_args = ("host", "-c", f"unix-connect:{port}", "--local", host_local)
    host = Agent(scene, *host_args, name="host")
    time.sleep(2)
    done = run("call", host_local, "guest-ping")
    assert done.returncode == 1 and b"no guest is connected to unix-connect:" in done.stderr, done.stderr
    guest = Agent(scene, "guest", "-c", f"unix-listen:{port}", "--local", local, name="guest")
    host.log("the other end is virtagent")
    assert call(host_local, "guest-ping") == {} and call(local, "host-ping") == {}
    # On a busy machine the restart may take longer than an absent end is waited for.
    for _ in range(5):
        mark = guest.mark()
        host.process.kill()
        guest.log("closed", mark)
        with Line(local) as line:
            line.send('{"execute":"host-ping"}\n')
            host = Agent(scene, *host_args, name="host")
            answer = line.message()
        host.log("the other end is virtagent")
        if answer == {"return": {}}:
            break
    assert answer == {"return": {}}
    mark = guest.mark()
    host.process.kill()
    guest.log("closed", mark)
    time.sleep(2)
    begun = time.monotonic()
    lines = [Line(local) for _ in range(3)]
    for line in lines:
        line.send('{"execute":"host-ping"}\n')
    for line in lines:
        assert line.message()["error"]["code"] == "io:ENOTCONN"
        line.close()
    assert 0.4 < time.monotonic() - begun < 1 + PATIENCE
    Agent(scene, *host_args, name="host").log("the other end is virtagent")
    assert call(local, "host-ping") == {}


def run_args(*args: str | Path) -> list[str | Path]:
    from harness import BIN  # noqa: PLC0415
    return [BIN / "virtagent", *args]


def test_the_host_is_asked_nothing_before_it_says_hello(scene: Scene) -> None:
    port, local = scene.directory / "p", scene.directory / "local"
    Agent(scene, "guest", "-c", f"unix-listen:{port}", "--local", local)
    with Line(port) as line:
        assert line.message()["event"] == "va-started"
        waiting = Line(local)
        waiting.send('{"execute":"host-ping","id":1}\n')
        line.send('{"execute":"guest-sync", "arguments":{"id":3}}\n')
        assert line.message() == {"return": 3}
        line.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            line.line()
        line.socket.settimeout(10 * PATIENCE)
        line.send('{"execute":"va-hello","arguments":{"version":"1","methods":["host-ping"]},"id":9}\n')
        seen = [line.message(), line.message()]
        assert {"return", "id"} == set(next(each for each in seen if "return" in each))
        sync = next(each for each in seen if "execute" in each)
        assert sync["execute"] == "guest-sync-delimited"
        line.send(json.dumps({"return": sync["arguments"]["id"]}) + "\n")
        hello = line.message()
        assert hello["execute"] == "va-hello" and hello["arguments"]["role"] == "guest"
        line.send(json.dumps({"return": {}, "id": hello["id"]}) + "\n")
        ping = line.message()
        assert ping["execute"] == "host-ping"
        # Lines that are no answer of this call are passed over.
        line.send('{"return":{"x":1},"id":12345}\nrubbish\n' + json.dumps({"return": {"y": 2}, "id": ping["id"]}) + "\n")
        assert waiting.message() == {"return": {"y": 2}, "id": 1}
        waiting.close()


@pytest.mark.parametrize("during", ["guest-sync-delimited", "va-hello"])
def test_a_call_that_comes_while_the_host_is_greeted_goes_out_behind(scene: Scene, during: str) -> None:
    """Nothing but the answer to the greeting comes to remind the guest of it."""
    port, local = scene.directory / "p", scene.directory / "local"
    Agent(scene, "guest", "-c", f"unix-listen:{port}", "--local", local)
    with Line(port) as line, Line(local) as client:

        def asked(method: str) -> dict:
            while (message := line.message()).get("execute") is None:
                pass
            assert message["execute"] == method
            if method == during:
                client.send('{"execute":"host-ping","id":1}\n')
                await_that("the guest has read the call", lambda: unread(client.socket) == 0)
            return message

        line.send('{"execute":"va-hello","arguments":{"version":"1","methods":["host-ping"]},"id":9}\n')
        line.send(json.dumps({"return": asked("guest-sync-delimited")["arguments"]["id"]}) + "\n")
        line.send(json.dumps({"return": {}, "id": asked("va-hello")["id"]}) + "\n")
        line.send(json.dumps({"return": {}, "id": asked("host-ping")["id"]}) + "\n")
        assert client.message() == {"return": {}, "id": 1}


def unread(sock: socket.socket) -> int:
    """Bytes that the other end of a unix socket has not read."""
    return struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0" * 4))[0]


def test_the_methods_of_the_host(scene: Scene) -> None:
    at = scene.directory / "h"
    metadata = scene.directory / "metadata"
    metadata.mkdir()
    (metadata / "name").write_text("vm1")
    (metadata / "large").write_text("x" * 16385)
    (metadata / ".hidden").write_text("x")
    (metadata / "out").symlink_to("/etc/passwd")
    host = Agent(scene, "host", "--listen", at, "--metadata", metadata)
    with Line(at) as line:
        assert line.value("host-ping") == {}
        assert line.value("host-get-metadata", key="name") == "vm1"
        for key, code in (("no-such", "not-found"), ("large", "too-large"), ("out", "not-allowed"), (".hidden", "bad-argument"),
                          ("../metadata/name", "bad-argument"), ("", "bad-argument"), ("a\nb", "bad-argument")):
            assert line.code("host-get-metadata", key=key) == code, key
        assert line.code("host-notify", event="A b") == "bad-argument"
        assert line.code("va-events") == "unsupported"
        assert line.code("guest-ping") == "unsupported"
        codes = [line.ask("host-get-time") for _ in range(20)]
        assert sum("return" in each for each in codes) in range(10, 15)
        assert line.code("host-log", level=8, tag="t", message="m") == "bad-argument"
        assert line.value("host-log", level=4, tag="t\x1b[31m\u009b", message="one\ntwo", fields={"a": 1}) == {"dropped": 0}
    found = host.log(r"warn +guest log 4 .*").group(0)
    assert '"tag":"t\\u001b[31m\\u009b"' in found and '"message":"one\\ntwo"' in found


def test_a_flood_of_messages_is_refused_and_counted(scene: Scene) -> None:
    at = scene.directory / "h"
    host = Agent(scene, "host", "--listen", at)
    total = scaled(20_000 if not CROSSING else 100_000, 1000)
    line = Line(at)
    codes: dict[str, int] = {}
    dropped = 0

    def read() -> None:
        nonlocal dropped
        for _ in range(total):
            answer = line.message()
            code = answer["error"]["code"] if "error" in answer else "ok"
            codes[code] = codes.get(code, 0) + 1
            dropped += answer["return"]["dropped"] if "return" in answer else 0

    reader = threading.Thread(target=read)
    reader.start()
    begun = time.monotonic()
    text = b'{"execute":"host-log","arguments":{"level":6,"tag":"t","message":"flood"}}\n'
    for _ in range(total // 100):
        line.send(text * 100)
    reader.join()
    seconds = time.monotonic() - begun
    print(f"{total / seconds:,.0f} a second")
    assert set(codes) == {"ok", "rate-limited"}
    assert 200 <= codes["ok"] <= 200 + 100 * (seconds + 1)
    lines = host.process.err.count()
    assert lines < codes["ok"] + 200 * (seconds + 2)
    time.sleep(0.02)
    # Each answer counts those that were refused since the one before.
    dropped += line.value("host-log", level=6, tag="t", message="after")["dropped"]
    assert dropped == codes["rate-limited"]
    assert host.rss() < 32 << 20 or SANITIZED


@pytest.fixture
def proxied(scene: Scene) -> tuple[Pair, dict[str, Path]]:
    """A guest's agent and a host's behind two daemons, and where each is reached."""
    places = {name: scene.directory / name for name in ("guest", "host", "to-guest", "to-host")}
    files = scene.directory / "files"
    files.mkdir()
    (files / "big").write_bytes(os.urandom(scaled(30_000_000)))
    Agent(scene, "guest", "--listen", places["guest"], "--allow-read", files, "--allow-write", files, name="guest")
    Agent(scene, "host", "--listen", places["host"], name="host")
    pair = Pair(scene, near=["-o", f"virtagent:{places['to-guest']}:-", "-i", f"virtagent-host:{places['host']}:-"],
                far=["-i", f"virtagent:{places['guest']}:-", "-o", f"virtagent-host:{places['to-host']}:-"])
    places["files"] = files
    return pair, places


def test_behind_the_proxy(scene: Scene, proxied: tuple[Pair, dict[str, Path]]) -> None:
    _, places = proxied
    content = (places["files"] / "big").read_bytes()
    out = scene.directory / "out"
    assert call(places["to-guest"], "guest-ping") == {}
    assert call(places["to-host"], "host-ping") == {}
    begun = time.monotonic()
    assert run("get", places["to-guest"], places["files"] / "big", out, timeout=60).returncode == 0
    print(f"{len(content) / 1e6 / (time.monotonic() - begun):,.0f} MB/s")
    assert out.read_bytes() == content
    assert run("put", places["to-guest"], out, places["files"] / "copy", timeout=60).returncode == 0
    assert (places["files"] / "copy").read_bytes() == content
    done = run("get", places["to-guest"], "/etc/passwd", "-")
    assert done.returncode == 1 and b"not-allowed" in done.stderr


def test_64_clients_and_calls_that_cross_behind_the_proxy(scene: Scene, proxied: tuple[Pair, dict[str, Path]]) -> None:
    _, places = proxied
    # One takes a file and does not read it; 64 others are served all the same, in both directions.
    stalled = Line(places["to-guest"])
    stalled.send(json.dumps({"execute": "va-get", "arguments": {"path": str(places["files"] / "big")}}) + "\n")
    assert "size" in stalled.message()["return"]
    cross(places["to-host"], places["to-guest"], scaled(20, 3), clients=32)
    stalled.close()
