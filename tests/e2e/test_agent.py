"""virtagent over unix sockets: its methods, qemu-ga's clients, what is refused, and who may not hurt whom."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent_ends import Agent, Line, await_that, call, run
from harness import BIN, PATIENCE, SANITIZED, Scene

LIBVIRT = Path(__file__).with_name("libvirt_conversation.txt")
WITHOUT_CALL = Path(__file__).with_name("without_call.py")


@pytest.fixture
def tree(scene: Scene) -> Path:
    """A directory that may be read and written, beside one that may not."""
    base = scene.directory / "files"
    (base / "deep").mkdir(parents=True)
    (base / "a").write_bytes(b"hello\n")
    (base / "deep/b").write_bytes(os.urandom(300_000))
    secret = scene.directory / "secret"
    secret.write_text("secret")
    (base / "link-out").symlink_to(secret)
    (base / "link-in").symlink_to("a")
    (base / "dir-out").symlink_to(scene.directory)
    (base / "proc").symlink_to("/proc/self/root")
    os.mkfifo(base / "fifo")
    (base / "null").symlink_to("/dev/null")
    return base


def test_the_default_set(scene: Scene) -> None:
    at = scene.directory / "g"
    guest = Agent(scene, "guest", "--listen", at)
    assert call(at, "guest-ping") == {}
    info = call(at, "guest-info")
    enabled = {each["name"] for each in info["supported_commands"] if each["enabled"]}
    assert "guest-get-osinfo" in enabled and "va-get" not in enabled and "guest-shutdown" not in enabled
    assert {"guest-exec", "guest-set-user-password"}.isdisjoint(
        each["name"] for each in info["supported_commands"])
    assert abs(call(at, "guest-get-time") / 1e9 - time.time()) < 60
    assert call(at, "guest-get-host-name") == {"host-name": socket.gethostname()}
    assert call(at, "guest-get-osinfo")["kernel-release"] == os.uname().release
    assert "offset" in call(at, "guest-get-timezone")
    assert isinstance(call(at, "guest-get-users"), list)
    assert "load1m" in call(at, "guest-get-load")
    assert sum(cpu["online"] for cpu in call(at, "guest-get-vcpus")) == os.cpu_count()
    loopback = next(each for each in call(at, "guest-network-get-interfaces") if each["name"] == "lo")
    assert {"ip-address": "127.0.0.1", "ip-address-type": "ipv4", "prefix": 8} in loopback["ip-addresses"]
    for mount in call(at, "guest-get-fsinfo"):
        assert mount["disk"] == [] and mount["used-bytes"] <= mount["total-bytes"]
    for method, code in (("guest-shutdown", "not-allowed"), ("va-dmesg", "not-allowed"),
                         ("guest-fsfreeze-freeze", "not-allowed"), ("guest-exec", "unsupported")):
        done = run("call", at, method)
        assert done.returncode == 1
        assert re.fullmatch(rf"virtagent: {at}: {method}: .* \({code}\)\n", done.stderr.decode()), done.stderr
    # Each call is one line, with who, what and the result.
    lines = [line for line in guest.process.err.lines() if " call " in line]
    assert len(lines) == 15 and re.search(r"call stream uid=\d+ pid=\d+ guest-ping: ok$", lines[0]), lines
    guest.terminate()
    assert not at.exists()


def alike(recorded, now) -> bool:
    """The same kind of value, with at least the keys that the recorded one has."""
    if isinstance(recorded, dict):
        return isinstance(now, dict) and all(key in now and alike(value, now[key]) for key, value in recorded.items())
    if isinstance(recorded, list):
        return isinstance(now, list) and (not recorded or not now or alike(recorded[0], now[0]))
    return type(recorded) is type(now)


# As recorded: guest-sync once for each connection and after a command that it gave up, without 0xFF, and commands
# without an id. It takes answers in their order, passes events over, and closes an agent that asks it anything.
def test_the_conversation_of_libvirt(scene: Scene) -> None:
    at = scene.directory / "org.qemu.guest_agent.0"
    slow = scene.directory / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 600\n")
    slow.chmod(0o755)
    Agent(scene, "guest", "-c", f"unix-listen:{at}", "--hook", f"slow={slow}")
    said = [line.rstrip("\n") for line in LIBVIRT.open(encoding="utf-8") if not line.startswith("#")]
    assert sum(line.startswith("> ") for line in said) == 29
    for _ in range(2):
        with Line(at) as line:
            for each in said:
                if each.startswith("> "):
                    asked = each[2:] + "\n"
                    line.send(asked)
                    continue
                recorded, now = json.loads(each[2:]), line.message()
                if "error" in recorded:
                    assert [now["error"][key] for key in ("class", "code", "desc")] == [
                        recorded["error"][key] for key in ("class", "code", "desc")]
                assert alike(recorded, now), f"{now}\ninstead of\n{recorded}"
                if "guest-sync" in asked:
                    assert "event" in now or now == recorded, "the answer of another one"


# guest-sync before each command, without 0xFF, and commands without an id.
def test_a_client_that_synchronises_before_each_command(scene: Scene) -> None:
    at = scene.directory / "org.qemu.guest_agent.0"
    Agent(scene, "guest", "-c", f"unix-listen:{at}")
    for serial in range(3):
        with Line(at) as line:
            assert line.message()["event"] == "va-started"
            for step, command in enumerate(("guest-get-time", "guest-network-get-interfaces", "guest-get-fsinfo",
                                            "guest-get-osinfo", "guest-get-timezone", "guest-get-host-name",
                                            "guest-get-users", "guest-info")):
                number = 1690000000000 + 10 * serial + step
                line.send('{"execute":"guest-sync", "arguments":{"id":%d}}\n' % number)
                assert line.message() == {"return": number}
                line.send('{"execute":"%s"}\n' % command)
                assert list(line.message()) == ["return"]
            line.send('{"execute":"guest-suspend-ram"}\n')
            assert line.message()["error"]["class"] == "CommandNotFound"
            # One that gave up and came back: the answer of the slow command is not given to the next.
            line.send('{"execute":"guest-get-fsinfo"}\n{"execute":"guest-sync", "arguments":{"id":5}}\n')
            assert line.message() == {"return": 5}
            line.send('{"execute":"guest-get-time"}\n')
            assert isinstance(line.message()["return"], int)


def test_a_client_of_qemu_ga_resynchronises(scene: Scene) -> None:
    at = scene.directory / "port"
    Agent(scene, "guest", "-c", f"unix-listen:{at}")
    with Line(at) as line:
        line.message()
        line.send(b'{"execute":"guest-pi\xff{"execute":"guest-sync-delimited","arguments":{"id":7}}\n')
        assert line.line() == b'\xff{"return":7}'
        line.send(b"\xc3\x28 rubbish\n")
        assert line.message()["error"]["code"] == "bad-argument"
        assert line.ask("guest-ping") == {"return": {}}
        line.send('{"execute":"guest-ping","id":{"a":[1.50,"x"]}}\n')
        assert line.line() == b'{"return":{},"id":{"a":[1.50,"x"]}}'


def test_bounds_of_messages(scene: Scene) -> None:
    at = scene.directory / "g"
    guest = Agent(scene, "guest", "--listen", at)
    with Line(at) as line:
        for text, code in (("[" * 100_000, "too-large"), ('{"execute":"a","arguments":' + "[" * 20 + "]" * 20 + "}",
                           "too-large"), ('{"a":1,"a":2}', "bad-argument"), ("[" + "1," * 5000 + "1]", "too-large"),
                           ("1" * 400, "too-large"), ('{"execute":"guest-ping","x":1}', "bad-argument"),
                           ('{"execute":"guest-ping","arguments":{"x":1}}', "bad-argument"), ("\0", "bad-argument"),
                           ("x" * (1 << 20), "too-large")):
            line.send(text + "\n")
            assert line.message()["error"]["code"] == code, text[:40]
        assert line.value("guest-ping") == {}
    assert SANITIZED or guest.rss() < 64 << 20


def test_a_transfer_that_stands_still_fails(scene: Scene, tree: Path) -> None:
    at = scene.directory / "g"
    with open(tree / "endless", "wb") as file:
        file.truncate(1 << 32)
    guest = Agent(scene, "guest", "--listen", at, "--allow-read", tree, "--allow-write", tree, "--max-put", 1 << 33)
    stall = ("--stall-timeout", str(0.5 * PATIENCE))
    with subprocess.Popen([BIN / "virtagent", "get", at, tree / "endless", "-", *stall], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as get:
        assert get.stdout.read(1)  # It is under way, and waits for its reader.
        os.kill(guest.pid, signal.SIGSTOP)
        _, text = get.communicate(timeout=60 * PATIENCE)
    assert get.returncode == 1 and b": va-get: nothing came for" in text and b"bytes are missing" in text, text
    done = run("put", at, tree / "endless", tree / "copy", *stall)
    assert done.returncode == 1 and b"nothing was taken and no answer came for" in done.stderr, done.stderr
    os.kill(guest.pid, signal.SIGCONT)
    with Line(at) as line:
        assert line.value("guest-ping") == {}
    assert not (tree / "copy").exists()


def test_files(scene: Scene, tree: Path) -> None:
    at = scene.directory / "g"
    guest = Agent(scene, "guest", "--listen", at, "--allow-read", tree, "--allow-write", tree, "--max-put", 1_000_000)
    content = (tree / "deep/b").read_bytes()
    out = scene.directory / "out"
    assert run("get", at, tree / "deep/b", out).returncode == 0
    assert out.read_bytes() == content
    assert run("get", at, tree / "deep/b", "-", "--offset", "100", "--length", "50").stdout == content[100:150]
    assert run("get", at, tree / "deep/b", "-", "--offset", "400000").stdout == b""
    assert run("put", at, out, tree / "deep/c", "--mode", "0640").returncode == 0
    assert (tree / "deep/c").read_bytes() == content and (tree / "deep/c").stat().st_mode & 0o777 == 0o640
    (scene.directory / "none").touch()
    assert run("put", at, scene.directory / "none", tree / "none").returncode == 0
    assert (tree / "none").read_bytes() == b""
    (scene.directory / "huge").write_bytes(bytes(1_000_001))
    done = run("put", at, scene.directory / "huge", tree / "huge")
    assert done.returncode == 1 and b"too-large" in done.stderr
    with Line(at) as line:
        handle = line.value("guest-file-open", path=str(tree / "deep/b"))
        assert line.value("guest-file-seek", handle=handle, offset=-10, whence="end")["position"] == len(content) - 10
        read = line.value("guest-file-read", handle=handle, count=100)
        assert base64.b64decode(read["buf-b64"]) == content[-10:] and read["eof"] and read["count"] == 10
        assert line.value("guest-file-close", handle=handle) == {}
        assert line.code("guest-file-read", handle=handle) == "not-found"
        handle = line.value("guest-file-open", path=str(tree / "new"), mode="w")
        assert line.value("guest-file-write", handle=handle, buf_b64=base64.b64encode(b"abcd").decode())["count"] == 4
        assert line.code("guest-file-write", handle=handle, buf_b64="x===") == "bad-argument"
        assert line.code("guest-file-read", handle=handle) == "bad-argument"
        assert (tree / "new").read_bytes() == b"abcd"
        for _ in range(15):
            line.value("guest-file-open", path=str(tree / "a"))
        assert line.code("guest-file-open", path=str(tree / "a")) == "busy"
        with Line(at) as other:
            assert other.code("guest-file-read", handle=handle) == "not-found"
        held = guest.fds()
    await_that("handles are gone with their connection", lambda: guest.fds() <= held - 17)
    guest.log(r"call stream .* va-get path=\S+/deep/b: ok bytes=300000$")


def test_a_download_that_is_cut_off_leaves_nothing(scene: Scene, tree: Path) -> None:
    at, out = scene.directory / "g", scene.directory / "out"
    out.mkdir()
    with open(tree / "endless", "wb") as file:
        file.truncate(1 << 40)
    Agent(scene, "guest", "--listen", at, "--allow-read", tree)
    (out / "old").write_text("old")
    (out / "old").chmod(0o640)
    (out / "link").symlink_to("old")
    for end in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        with subprocess.Popen([BIN / "virtagent", "get", at, tree / "endless", out / "old"]) as get:
            await_that("it has begun", lambda: any(each.stat().st_size for each in out.glob(".virtagent-*")))
            get.send_signal(end)
        assert get.returncode == -end
        assert (out / "old").read_text() == "old"
        if end != signal.SIGKILL:
            assert sorted(os.listdir(out)) == ["link", "old"]
    for each in out.glob(".virtagent-*"):
        each.unlink()
    # A server that sends less than it has announced.
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(scene.directory / "s"))
        server.listen()
        with subprocess.Popen([BIN / "virtagent", "get", scene.directory / "s", "/x", out / "old"],
                              stderr=subprocess.PIPE) as get:
            with Line(server.accept()[0]) as line:
                line.send(json.dumps({"return": {"size": 100}, "id": line.message()["id"]}) + "\nshort")
            assert b"95 bytes early" in get.stderr.read()
    assert get.returncode == 1 and sorted(os.listdir(out)) == ["link", "old"] and (out / "old").read_text() == "old"
    # What is there keeps its mode, and a link goes on leading to it.
    assert run("get", at, tree / "a", out / "link").returncode == 0
    assert (out / "link").is_symlink() and (out / "old").read_bytes() == b"hello\n"
    assert (out / "old").stat().st_mode & 0o777 == 0o640
    assert run("get", at, tree / "a", "/dev/null").returncode == 0 and Path("/dev/null").is_char_device()
    done = run("get", at, tree / "a", out / "no" / "such")
    assert done.returncode == 1 and b"cannot write" in done.stderr


def test_standard_input_is_put(scene: Scene, tree: Path) -> None:
    at = scene.directory / "g"
    Agent(scene, "guest", "--listen", at, "--allow-write", tree)
    content = os.urandom(300_000)
    assert run("put", at, "-", tree / "piped", data=content).returncode == 0
    assert (tree / "piped").read_bytes() == content
    assert run("put", at, "-", tree / "empty", data=b"").returncode == 0 and (tree / "empty").read_bytes() == b""
    with (tree / "piped").open("rb") as file:
        file.seek(100)
        os.lseek(file.fileno(), 100, os.SEEK_SET)
        done = subprocess.run([BIN / "virtagent", "put", at, "-", tree / "rest"], stdin=file, check=False)
    assert done.returncode == 0 and (tree / "rest").read_bytes() == content[100:]
    done = run("put", at, tree / "a", tree / "no/such")
    assert done.returncode == 1 and f"the directory {tree}/no is not there" in done.stderr.decode(), done.stderr
    done = run("put", at, tree / "a", tree / "a/b")
    assert done.returncode == 1 and f"{tree}/a is no directory" in done.stderr.decode(), done.stderr


def test_an_upload_that_is_cut_off_leaves_nothing(scene: Scene, tree: Path) -> None:
    """The client has gone when the agent is about to send va-continue, has just sent it, or waits for the rest."""
    at = scene.directory / "g"
    guest = Agent(scene, "guest", "--listen", at, "--allow-write", tree)
    before = sorted(os.listdir(tree))
    call = json.dumps({"execute": "va-put", "arguments": {"path": str(tree / "a"), "size": 100}}) + "\n"

    def begun() -> bool:
        return len(os.listdir(tree)) > len(before)

    for waits in (False, True) * 20:
        mark = guest.mark()
        with Line(at) as line:
            line.send(call)
            line.send(b"x" * 99)
            if waits:
                assert line.message()["event"] == "va-continue" and begun()
            else:
                deadline = time.monotonic() + 10 * PATIENCE
                while not begun():
                    assert time.monotonic() < deadline, "the upload has not begun"
        guest.log("va-put .*: io:ECONNRESET$", mark)
        assert sorted(os.listdir(tree)) == before
    assert (tree / "a").read_bytes() == b"hello\n"
    # A client that has ended what it sends is told what is wrong with it.
    with Line(at) as line:
        line.send(call)
        assert line.message()["event"] == "va-continue"
        line.send(b"x" * 99)
        line.socket.shutdown(socket.SHUT_WR)
        assert line.message()["error"]["code"] == "bad-argument"
    await_that("its file is gone", lambda: sorted(os.listdir(tree)) == before)
    guest.log("va-put .*: bad-argument$")


def test_a_file_that_is_refused_is_not_taken_for_calls(scene: Scene, tree: Path) -> None:
    """Neither from our client, which waits to be told to go on, nor from one that sends the file at once."""
    hook, ran = scene.directory / "hook", scene.directory / "ran"
    hook.write_text(f"#!/bin/sh\ntouch {ran}\n")
    hook.chmod(0o755)
    config = scene.directory / "va.toml"
    config.write_text(f'allow-write = ["{tree}"]\nhook.backup = "{hook}"\n')
    port, local, stream = scene.directory / "p", scene.directory / "local", scene.directory / "stream"
    # Where nothing may be written, the method itself is refused.
    closed = scene.directory / "closed"
    reader = Agent(scene, "guest", "--listen", closed, name="reader")
    guest = Agent(scene, "guest", "-c", f"unix-listen:{port}", "--listen", stream, "--config", config, name="guest")
    host = Agent(scene, "host", "-c", f"unix-connect:{port}", "--local", local, name="host")
    host.log("virtagent")
    injected = b'\n{"execute":"va-hook","arguments":{"name":"backup"}}\n'
    file = scene.directory / "file"
    file.write_bytes(injected * 1000)
    for target, path, code in ((local, tree / "new", b"unsupported"), (stream, "/etc/new", b"not-allowed"),
                               (closed, tree / "new", b"not-allowed")):
        done = run("put", target, file, path)
        assert done.returncode == 1 and code in done.stderr, done.stderr
        with Line(target) as line:
            request = {"execute": "va-put", "arguments": {"path": str(path), "size": len(injected)}}
            line.send(json.dumps(request).encode() + b"\n" + injected)
            assert "error" in line.message()
            assert line.ended()
    # The hook is there, and would have run.
    mark = guest.mark()
    assert call(local, "va-hook", "name=backup")["exitcode"] == 0
    guest.log("va-hook", mark)
    assert ran.exists()
    assert guest.process.everything().count("va-hook") == 1
    assert "va-hook" not in reader.process.everything()


def test_paths_stay_where_they_are_allowed(scene: Scene, tree: Path) -> None:
    at = scene.directory / "g"
    mount = tree / "mount"
    mount.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "none", mount], check=False).returncode == 0
    if mounted:
        scene.cleanup(lambda: subprocess.run(["umount", mount], check=True))
        (mount / "x").write_text("x")
    Agent(scene, "guest", "--listen", at, "--allow-read", tree, "--allow-write", tree)
    refused = {"link-out": "not-allowed", "link-in": "not-allowed", "dir-out/secret": "not-allowed",
               "../secret": "not-allowed", "deep/../../secret": "not-allowed", "proc/etc/passwd": "not-allowed",
               "fifo": "not-allowed", "null": "not-allowed", "deep": "not-allowed", "no-such": "not-found",
               "": "bad-argument", "a/": "bad-argument", "a\0b": "bad-argument"}
    if mounted:
        refused["mount/x"] = "not-allowed"
    for name, code in refused.items():
        with Line(at) as line:
            assert line.code("va-get", path=f"{tree}/{name}") == code, name
            assert line.code("guest-file-open", path=f"{tree}/{name}") == code, name
        if name != "no-such":
            with Line(at) as line:
                assert line.code("va-put", path=f"{tree}/{name}", size=1) in ("not-allowed", "bad-argument"), name
    with Line(at) as line:
        assert line.code("va-get", path="/etc/passwd") == "not-allowed"
        assert line.code("va-get", path=f"{tree}x/a") == "not-allowed"
        assert line.code("guest-file-open", path=f"{tree}/fifo", mode="w") == "not-allowed"
        assert line.code("guest-file-open", path=f"{tree}/link-out", mode="w") == "not-allowed"
        assert line.value("guest-file-open", path=f"{tree}/deep/../a") >= 0
    assert (scene.directory / "secret").read_text() == "secret"


@pytest.mark.parametrize("kernel", [(), (sys.executable, WITHOUT_CALL, "linux-4.18")], ids=["this", "4.18"])
def test_a_hook_inherits_no_descriptor(scene: Scene, kernel: tuple[str | Path, ...]) -> None:
    at = scene.directory / "g"
    script = scene.directory / "hook"
    script.write_text("#!/bin/sh\nls /proc/self/fd\n")
    script.chmod(0o755)
    inherited = ("sh", "-c", 'exec "$0" "$@" 7</dev/null', *kernel)
    Agent(scene, "guest", "--listen", at, "--hook", f"h={script}", wrapper=inherited)
    with Line(at) as line:
        # Its own three, and the directory that ls reads.
        assert line.value("va-hook", name="h", args=[])["out"].split() == ["0", "1", "2", "3"]


def test_hooks(scene: Scene) -> None:
    at = scene.directory / "g"
    script = scene.directory / "hook"
    script.write_text("#!/bin/sh\ncase $1 in\nlong) sleep 60 & sleep 60 ;;\nbig) head -c 100000 /dev/zero | tr '\\0' x ;;\n"
                      "*) echo \"$# $1 $PATH $HOME\"; ls /proc/self/fd | wc -l; exit 3 ;;\nesac\n")
    script.chmod(0o755)
    Agent(scene, "guest", "--listen", at, "--hook", f"h={script}")
    with Line(at) as line:
        done = line.value("va-hook", name="h", args=["a b; ls", "c"])
        assert done["exitcode"] == 3 and not done["truncated"]
        first, descriptors = done["out"].splitlines()
        # No environment but PATH, and no descriptor of ours.
        assert first == "2 a b; ls /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "
        assert int(descriptors) == 4
        done = line.value("va-hook", name="h", args=["big"])
        assert len(done["out"]) == 65536 and done["truncated"]
        assert line.code("va-hook", name="other") == "not-found"
        assert line.code("va-hook", name="h", args=["a\0b"]) == "bad-argument"

    def sleepers() -> int:
        found = subprocess.run(["pgrep", "-f", f"{script} long"], capture_output=True, check=False).stdout
        return len(found.split())

    line = Line(at)
    line.send('{"execute":"va-hook","arguments":{"name":"h","args":["long"]}}\n')
    await_that("the hook runs", lambda: sleepers() > 0)
    # It holds up nobody, and ends with who has asked for it.
    assert call(at, "guest-ping") == {}
    line.close()
    await_that("the hook is killed", lambda: sleepers() == 0)


def test_a_port_answers_while_a_method_runs(scene: Scene) -> None:
    at = scene.directory / "port"
    script = scene.directory / "hook"
    fifo = scene.directory / "go"
    os.mkfifo(fifo)
    script.write_text(f"#!/bin/sh\nread x < {fifo}\n")
    script.chmod(0o755)
    Agent(scene, "guest", "-c", f"unix-listen:{at}", "--hook", f"h={script}")
    with Line(at) as line:
        line.message()
        line.send('{"execute":"va-hook","arguments":{"name":"h"},"id":1}\n{"execute":"guest-ping","id":2}\n')
        assert line.message() == {"return": {}, "id": 2}
        line.send('{"execute":"guest-get-load","id":3}\n{"execute":"guest-get-load","id":4}\n')
        assert line.message()["id"] == 4, "the third is refused"
        with fifo.open("w") as go:
            go.write("\n")
        assert line.message()["id"] == 1
        assert line.message()["id"] == 3


def test_a_client_that_does_not_read_costs_nothing(scene: Scene) -> None:
    at = scene.directory / "port"
    base = scene.directory / "files"
    base.mkdir()
    (base / "big").write_bytes(bytes(1 << 20))
    guest = Agent(scene, "guest", "-c", f"unix-listen:{at}", "--listen", scene.directory / "g", "--allow-read", base)
    lazy = Line(at)
    handle = lazy.ask("guest-file-open", path=str(base / "big"))
    handle = lazy.message()["return"] if "event" in handle else handle["return"]
    lazy.socket.setblocking(False)
    request = json.dumps({"execute": "guest-file-read", "arguments": {"handle": handle, "count": 49152}}) + "\n"
    sent = 0
    deadline = time.monotonic() + 10 * PATIENCE
    while time.monotonic() < deadline:
        try:
            sent += lazy.socket.send(request.encode() * 100)
        except BlockingIOError:
            if call(scene.directory / "g", "guest-ping") == {}:
                break
    before = guest.cpu()
    time.sleep(0.3)
    assert guest.cpu() - before < 0.1
    assert SANITIZED or guest.rss() < 32 << 20
    # It leaves in the middle of an answer; the next one is served.
    lazy.close()
    await_that("the port is open again", lambda: "return" in try_ping(at))


def try_ping(at: Path) -> dict:
    try:
        with Line(at) as line:
            line.message()
            return line.ask("guest-ping")
    except (OSError, EOFError):
        return {}


CONFIG = """
allow = ["dmesg"]
allow-read = ["{tree}"]
max-put = 5
[hook]
date = "/bin/date"
"""


def test_the_configuration_is_taken_or_refused_as_a_whole(scene: Scene, tree: Path) -> None:
    at = scene.directory / "g"
    config = scene.directory / "virtagent.toml"
    config.write_text(CONFIG.format(tree=tree))
    Agent(scene, "guest", "--listen", at, "--config", config)
    with Line(at) as line:
        assert line.value("guest-file-open", path=f"{tree}/a") >= 0
        assert line.value("va-hook", name="date")["exitcode"] == 0
        assert line.code("guest-shutdown") == "not-allowed"
    for text, where in (('allow = ["dmesg"]\nallow = []\n', ":2:"), ('\nallow = ["exec"]\n', ":2:"),
                        ("alow = []\n", ":1:"), ('allow-read = ["x"]\n', ":1:"), ("allow-read = [\n1]\n", ":2:"),
                        ("[hook]\n\nx = 1\n", ":3:"), ("hook.x = \"y\"\n", ":1:"), ("max-put = -1\n", ":1:"), ("max-freeze = 601\n", ":1:"),
                        ("= 1\n", ":1:")):
        config.write_text(text)
        done = run("guest", "--listen", scene.directory / "other", "--config", config)
        assert done.returncode == 1, text
        assert where in done.stderr.decode() and done.stderr.count(b"\n") == 1, (text, done.stderr)
    os.mkfifo(scene.directory / "pipe")
    for name, why in (("no-such", "No such file or directory"), ("/dev/zero", "it has more than 1 MiB"),
                      (".", "Is a directory")):
        done = run("guest", "--listen", "x", "--config", scene.directory / name)
        assert done.returncode == 1
        assert done.stderr.decode() == f"virtagent: cannot read {scene.directory / name}: {why}\n"
    # Nobody writes to it, so that it is empty.
    assert run("guest", "--listen", at, "--config", scene.directory / "pipe").returncode == 1


@pytest.mark.parametrize("args", [
    ["guest", "--client", "unix-connect:/x"], ["guest", "-c", "nonsense:/x"], ["guest", "-c", "isa-serial:/x:7"],
    ["guest", "--allow", "exec", "--listen", "/x"], ["guest", "--hook", "x", "--listen", "/x"], ["host"],
    ["call", "/x"], ["call", "unix-listen:/x", "m"], ["call", "/no/such", "m"], ["call", "x", "m"],
    ["get", "unix-connect:/x", "a", "b"], ["put", "/x", "/etc/passwd", "b", "--mode", "9"], ["nonsense"],
    ["guest", "-c", "virtio-serial:/dev/null"], ["guest", "-c", "isa-serial:/etc/passwd"],
    ["guest", "--listen", "/x", "--max-put", "-3"], ["guest", "--listne", "x"], ["get", "/x", "a", "b", "--offset=-1"],
    ["call", "/x", "m", "a"], ["call", "/x", "m", "{\"a\":1,\"a\":2}"], ["--log", "loud", "guest"],
], ids=" ".join)
def test_a_command_line_that_is_wrong_gets_one_line(args: list[str]) -> None:
    done = run(*args)
    assert done.returncode == 1 and done.stdout == b""
    assert done.stderr.count(b"\n") == 1 and done.stderr.startswith(b"virtagent: "), done.stderr


def test_what_is_unknown_or_missing_is_named(scene: Scene) -> None:
    for args, line in ((("guest", "--listne", "x"), "unknown option: --listne: the nearest is --listen; see 'virtagent guest --help'"),
                       (("nonsense",), "there is no command 'nonsense'; see 'virtagent --help'"),
                       (("gues",), "there is no command 'gues': the nearest is guest; see 'virtagent --help'"),
                       (("events", "/x", "more"), "unexpected argument: more; see 'virtagent events --help'")):
        assert run(*args).stderr.decode() == f"virtagent: {line}\n"
    done = run("call", "/etc/passwd", "guest-ping")
    assert done.stderr == b"virtagent: cannot open /etc/passwd: that is no socket\n"
    done = run("guest", "--listen", scene.directory / "none" / "g")
    assert done.returncode == 1 and f"the directory {scene.directory}/none is not there" in done.stderr.decode()
    for program, why in (("/no/such", "No such file"), (scene.directory, "a directory"), (__file__, "may run")):
        done = run("guest", "--listen", scene.directory / "g", "--hook", f"x={program}")
        assert done.returncode == 1 and f"hook x: {program}" in done.stderr.decode() and why in done.stderr.decode()


def test_setting_the_clock_by_decades_is_refused(scene: Scene) -> None:
    at = scene.directory / "g"
    Agent(scene, "guest", "--listen", at, "--allow", "set-time")
    with Line(at) as line:
        assert line.code("guest-set-time", time=0) == "bad-argument"
        assert line.code("guest-set-time", time=(1 << 63) - 1) == "bad-argument"


# The program that is run is the one of a mount namespace of its own.
def test_shutdown(scene: Scene) -> None:
    at = scene.directory / "g"
    marks = scene.directory / "marks"
    fake = scene.directory / "shutdown"
    broken = scene.directory / "broken"
    fake.write_text(f"#!/bin/sh\n[ ! -e {broken} ] || exit 1\necho \"$@\" >> {marks}\n")
    broken.touch()
    fake.chmod(0o755)
    target = Path("/sbin/shutdown").resolve()
    if not target.exists():
        pytest.skip("there is no /sbin/shutdown")
    probe = subprocess.run(["unshare", "-m", "mount", "--bind", fake, target], check=False)
    if probe.returncode != 0:
        pytest.skip("no mount namespace here")
    process = scene.spawn(["unshare", "-m", "sh", "-c", f"mount --bind {fake} {target} && exec {BIN}/virtagent guest "
                           f"--listen {at} --allow shutdown"], "guest")
    process.err.wait_for("ready", 10 * PATIENCE)
    with Line(at) as line:
        assert line.code("va-shutdown", mode="off") == "bad-argument"
        # One that fails does not keep the next one from being tried.
        assert line.code("guest-shutdown") == "unsupported"
        assert line.value("va-shutdown", mode="powerdown") == {}
        await_that("it is tried", lambda: process.stderr().count("/sbin/shutdown failed: status 1") == 2)
        broken.unlink()
        assert line.value("va-shutdown", mode="reboot") == {}
        assert line.code("guest-shutdown") == "shutting-down"
    await_that("it is run", marks.exists)
    await_that("with its arguments", lambda: marks.read_text() == "-r +0\n")
