"""Channels and forwards that change while streams carry checked bytes."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import selectors
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from addresses import Address
from confined import NOBODY, as_root
from harness import BIN, PATIENCE, SANITIZED, Daemon, Scene, scaled
from manager import Manager
from stage import Controlled, echo, eventually, receive, wait_for_echo

WAIT = 15 * PATIENCE
# The size of the promise is 1000 reloads and 200 streams: VIRTPROXY_RELOADS=1000.
RELOADS = int(os.environ.get("VIRTPROXY_RELOADS") or scaled(60, 10))
STREAMS = 200 if not SANITIZED else 40


class CheckedStreams:
    """Clients of an echo service that send random bytes without end, and compare what comes back."""

    def __init__(self, door: Address, count: int) -> None:
        self.carried = 0  # bytes, there and back
        self.trouble = ""
        self._random = random.Random(7)
        self._blocks = [self._random.randbytes(4096) for _ in range(16)]
        self._stop = threading.Event()
        self._sockets = [door.connect(WAIT) for _ in range(count)]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        selector = selectors.DefaultSelector()
        due: dict[socket.socket, bytes] = {}
        for sock in self._sockets:
            selector.register(sock, selectors.EVENT_READ)
            due[sock] = self._send(sock)
        try:
            while due and not self.trouble:
                for key, _ in selector.select(0.2):
                    sock = key.fileobj
                    assert isinstance(sock, socket.socket)
                    data = sock.recv(4096)
                    if not data or not due[sock].startswith(data):
                        self.trouble = f"{len(data)} bytes came that were not sent, or an end"
                        break
                    self.carried += len(data)
                    due[sock] = due[sock][len(data):]
                    if due[sock]:
                        continue
                    if self._stop.is_set():
                        del due[sock]
                        selector.unregister(sock)
                    else:
                        due[sock] = self._send(sock)
        except OSError as error:
            self.trouble = str(error)

    def _send(self, sock: socket.socket) -> bytes:
        block = self._random.choice(self._blocks)
        sock.sendall(block)
        return block

    def finish(self) -> int:
        """All bytes that were sent have come back, and no stream has ended before. Returns how many."""
        self._stop.set()
        self._thread.join(60 * PATIENCE)
        assert not self._thread.is_alive() and not self.trouble, self.trouble
        for sock in self._sockets:
            sock.close()
        return self.carried


class Stage:
    """The near end has a file and a control socket, the far end offers `echo`."""

    def __init__(self, scene: Scene, process: str = "", more: str = "", manager: Manager | None = None) -> None:
        self.scene = scene
        service = scene.addresses.unix()
        scene.serve("echo", service)
        self.link = scene.addresses.unix()
        self.door = scene.addresses.tcp()
        self.control = scene.addresses.unix().place
        self.file = scene.directory / "near" / "virtproxy.toml"
        self.file.parent.mkdir()
        self.base = f"""
[process]
{process}
[channel.vm1]
transport = "unix-connect:{self.link.place}"
memory = "32M"
[[channel.vm1.listen.echo]]
at = "{self.door.spec}"
"""
        self.write(more)
        self.far: Daemon = scene.daemon(
            "-c", f"unix-listen:{self.link.spec}", "-i", f"echo:{service.spec}", name="far")
        args = ["--config", self.file, "--control", self.control]
        start = manager.start if manager else scene.daemon
        self.near: Daemon = start(*args, name="near", channels=("vm1",))
        self.near.wait_up("vm1")
        wait_for_echo(self.door)

    def write(self, more: str = "", base: str | None = None) -> None:
        self.file.write_text((self.base if base is None else base) + more, encoding="ascii")

    def ctl(self, *args: str | Path) -> subprocess.CompletedProcess[str]:
        command = [BIN / "virtproxyctl", args[0], "--control", self.control, *args[1:]]
        return subprocess.run(command, capture_output=True, text=True, timeout=WAIT, check=False)

    def done(self, *args: str | Path) -> str:
        """What was done, without the names."""
        result = self.ctl(*args)
        assert result.returncode == 0, result.stderr
        return re.sub(r" \([^)]*\)", "", result.stdout.strip())

    def fails(self, *args: str | Path) -> list[str]:
        result = self.ctl(*args)
        assert result.returncode == 1, result.stdout
        lines = result.stderr.splitlines()
        assert all(line.startswith("virtproxyctl: ") for line in lines), lines
        return [line.removeprefix("virtproxyctl: ") for line in lines]

    def rows(self, command: str) -> list[dict]:
        return json.loads(self.done(command, "--json"))


def listen(service: str, address: Address, channel: str = "vm1", more: str = "") -> str:
    at = address.spec if address.is_tcp else f"unix:{address.place}"
    return f'[[channel.{channel}.listen.{service}]]\nat = "{at}"\n{more}\n'


def refuses(address: Address) -> bool:
    try:
        address.connect(WAIT).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    return False


def wait_refused(address: Address) -> None:
    """For a listener that was removed: the kernel lets go of it in a turn of its worker behind the answer."""
    eventually(f"{address.traffic} refuses", lambda: refuses(address))


def test_streams_go_on_through_reloads(scene: Scene) -> None:
    """Forwards and a second channel come, change and go; the streams of the first one see nothing."""
    stage = Stage(scene)
    doors = [scene.addresses.tcp(), scene.addresses.unix(), scene.addresses.tcp()]
    second = scene.addresses.unix()
    channel = f'[channel.vm2]\ntransport = "unix-listen:{second.place}"\nmemory = "8M"\n'
    variants = [
        "",
        listen("echo2", doors[0]),
        listen("echo2", doors[0], more='priority = "bulk"') + listen("db", doors[1]),
        listen("db", doors[1]) + channel + listen("web", doors[2], "vm2"),
        channel + 'window = "128K"\n' + listen("web", doors[2], "vm2"),
        listen("web", doors[2]),
    ]
    opened = stage.near.fds()
    streams = CheckedStreams(stage.door, STREAMS)
    begun = time.monotonic()
    for number in range(RELOADS):
        stage.write(variants[(number + 1) % len(variants)])
        stage.done("reload")
    took = time.monotonic() - begun
    stage.write()
    stage.done("reload")
    carried = streams.finish()
    assert [row["channel"] for row in stage.rows("channels")] == ["vm1"]
    for door in doors:
        wait_refused(door)
    eventually("no stream is left", lambda: not stage.rows("streams"))
    eventually("descriptors come back", lambda: stage.near.fds() <= opened + 4)
    (forward,) = stage.rows("forwards")
    assert forward["sent"] == forward["received"] >= carried
    print(f"{RELOADS} reloads in {took:.1f} s, {STREAMS} streams, {carried / 1e6:.0f} MB checked")


def test_a_removed_forward_drains_and_a_changed_one_goes_on(scene: Scene) -> None:
    stage = Stage(scene)
    other = scene.addresses.unix()
    stage.write(listen("echo", other, more='mode = "0600"'))
    assert stage.done("reload") == "1 forward added"
    client = other.connect(WAIT)
    echo(client)
    stage.write(listen("echo", other, more='mode = "0600"\npriority = "interactive"'))
    assert stage.done("reload") == "1 forward changed"
    echo(client)
    # Its mode belongs to the path that is bound.
    stage.write(listen("echo", other, more='mode = "0660"'))
    (error,) = stage.fails("reload")
    assert "mode of" in error and "cannot change while it listens there" in error
    stage.write()
    assert stage.done("reload") == "1 forward removed"
    wait_refused(other)
    assert not Path(other.place).exists()
    echo(client, b"x" * 100_000)
    client.close()
    assert stage.done("reload") == "no channel or forward is different"


def test_a_changed_channel_is_replaced_and_refuses_no_client(scene: Scene) -> None:
    stage = Stage(scene)
    client = stage.door.connect(WAIT)
    echo(client)
    stage.write(base=stage.base.replace('memory = "32M"', 'memory = "16M"'))
    assert stage.done("reload") == "1 channel replaced"
    echo(client)  # It may finish.
    late = stage.door.connect(WAIT)  # Waits for the new one.
    late.sendall(b"late")
    client.close()
    assert receive(late, 4) == b"late"
    late.close()
    assert 'memory = "16M"' in stage.done("config")
    assert json.loads(stage.done("config", "--json"))["config"].rstrip() == stage.done("config").rstrip()


def test_an_error_changes_nothing(scene: Scene) -> None:
    """Each kind of error beside a good change: the message names it, and the change is not made."""
    stage = Stage(scene, process='drain-timeout = "1s"')
    good, taken = scene.addresses.tcp(), scene.addresses.tcp()
    holder = socket.create_server(("127.0.0.1", taken.port))
    added = listen("echo", good)
    text = stage.base + added
    before = stage.done("config")
    cases = [
        ("[defaults]\nwidnow = 1\n" + text, "unknown key 'widnow'"),
        ('[defaults]\nwindow = "many"\n' + text, "window"),
        ("not toml\n" + text, "virtproxy.toml:1:"),
        (text.replace("[process]", "[process]\nthreads = 3"), "threads cannot change while it runs"),
        (text.replace("[process]", "[process]\nsandbox = false"), "sandbox cannot change while it runs"),
        (text.replace("[process]", '[process]\nuser = "65534:65534"'), "user cannot change"),
        (text.replace("[process]", '[process]\ndriver = "epoll"\ndisable = ["splice"]'), "disable cannot change"),
        (text + listen("echo", taken), "another process listens there"),
        (text + listen("echo", good), "already used by"),
        (text + '[channel.vm1.listen.low]\nat = "unix:/nowhere/x.sock"\n', "/nowhere"),
        (text + '[channel.vm3]\ntransport = "unix-connect:/dev/null"\n', "no socket"),
        (text.replace("[process]", '[process]\nmemory = "32M"')
         + '[channel.vm3]\ntransport = "unix-connect:/run/x"\n', "is too little"),
        ("", "no channel is configured"),
    ]
    with stage.door.connect(WAIT) as client:
        for config, message in cases:
            stage.write(base=config)
            errors = stage.fails("reload")
            assert any(message in line for line in errors), (message, errors)
            assert refuses(good)
            assert stage.done("config") == before
            echo(client)
        # All of them, not the first.
        stage.write(base=text.replace("[process]", "[process]\nthreads = 3\nsandbox = false")
                    + listen("echo", taken))
        assert len(stage.fails("reload")) == 2
        stage.file.unlink()
        assert "cannot be read" in stage.fails("reload")[0]
        stage.write(base=text)
        assert stage.done("reload") == "1 forward added"
        wait_for_echo(good)
        echo(client)
    holder.close()


@pytest.mark.skipif(SANITIZED, reason="a build with sanitizers has no sandbox")
def test_what_the_sandbox_does_not_allow_is_named(scene: Scene) -> None:
    stage = Stage(scene)
    if not json.loads(stage.done("status", "--json"))["sandbox"]:
        pytest.skip("there is no system call filter here")
    landlock = "files and ports are not confined" not in stage.near.everything()
    cases = [
        ('[channel.vm2]\ntransport = "virtio-serial:/dev/virtio-ports/x"\n', "channel vm2", "devices"),
        ('[channel.vm2]\ntransport = "vsock-listen:any:5000"\n[channel.vm3]\n'
         'transport = "vsock-connect:2:5000"\n', "channel vm3", "vsock"),
        ('[channel.vm2]\ntransport = "vsock-listen:any:5000"\n', "channel vm2", "vsock"),
        ('[channel.vm1.offer.web]\nto = "localhost:80"\n', "service web of channel vm1", ""),
        ('[channel.vm1.listen.web]\nat = "localhost:8080"\n', "service web of channel vm1", "host names"),
    ]
    if landlock:
        cases.append(('[channel.vm1.offer.web]\nto = "127.0.0.1:8081"\n', "service web of channel vm1",
                      "connections to TCP port 8081"))
    for more, what, missing in cases:
        stage.write(more)
        errors = stage.fails("reload")
        assert any(line.startswith(what) and "the sandbox was made at the start and does not allow" in line
                   and missing in line for line in errors), errors
    # Sockets beside those that were there, and any port above 1023.
    stage.write(listen("echo", scene.addresses.tcp()))
    assert stage.done("reload") == "1 forward added"


@as_root
@pytest.mark.skipif(SANITIZED, reason="a build with sanitizers has no sandbox")
def test_a_process_without_privileges_adds_what_its_user_may(scene: Scene) -> None:
    """A path of its own, with the owner that it has by default; a low port is an error that says why."""
    scene.directory.chmod(0o711)
    for who, args, why in (
        ("nobody", ("--user", "nobody"), "the process has no more rights than its user (--user) since its start"),
        ("root", (), "root has dropped its capabilities at the start"),
    ):
        own = scene.directory / who
        own.mkdir()
        shutil.chown(own, who)
        near = Controlled(scene, f"near of {who}", "-c", f"unix-listen:{own}/channel:-:vm1", *args)
        path = own / "added"
        done = near.ctl("forward-add", "-o", f"echo:unix:{path}:-:vm1")
        assert (done.returncode, done.stdout) == (
            0, f"1 forward added (-o echo of vm1 on {path})\n"), done
        assert path.stat().st_uid == (NOBODY if args else 0)
        low = near.ctl("forward-add", "-o", "echo:127.0.0.1:1:vm1")
        assert low.returncode == 1
        assert low.stderr == (
            "virtproxyctl: channel vm1: cannot listen on 127.0.0.1:1: Permission denied (ports below 1024 and other "
            f"users' directories need privileges); {why}: restart it for that, or have the service manager pass the "
            "socket\n")
        assert "the sandbox refused" not in near.daemon.everything()


@pytest.mark.skipif(SANITIZED, reason="a build with sanitizers reserves more memory than there is")
def test_a_channel_that_finds_no_memory_is_not_there(scene: Scene) -> None:
    """What a worker cannot begin is an error of the command, and may be tried again."""
    stage = Stage(scene)
    streams = CheckedStreams(stage.door, 5)
    extra, door = scene.addresses.unix(), scene.addresses.tcp()
    before = resource.prlimit(stage.near.pid, resource.RLIMIT_AS)
    size = int(re.search(r"VmSize:\s*(\d+)", Path(f"/proc/{stage.near.pid}/status").read_text()).group(1)) << 10
    resource.prlimit(stage.near.pid, resource.RLIMIT_AS, (size + (2 << 20), before[1]))
    text = f'[channel.vm2]\ntransport = "unix-listen:{extra.place}"\n' + listen("echo", door, "vm2")
    stage.write(text)
    for _ in range(2):
        errors = stage.fails("reload")
        assert errors == ["channel vm2 cannot begin: not enough memory: give it less with memory, or raise ulimit -v"]
        assert [row["channel"] for row in stage.rows("channels")] == ["vm1"]
        assert {row["channel"] for row in stage.rows("forwards")} == {"vm1"}
        assert refuses(door) and not Path(extra.place).exists()
    resource.prlimit(stage.near.pid, resource.RLIMIT_AS, before)
    assert stage.done("reload") == "1 channel added, 1 forward added"
    assert [row["channel"] for row in stage.rows("channels")] == ["vm1", "vm2"]
    streams.finish()


def test_the_signal_reloads_and_tells_the_service_manager(scene: Scene) -> None:
    manager = Manager(scene)
    stage = Stage(scene, manager=manager)
    manager.wait_key("READY")
    extra = scene.addresses.tcp()
    stage.write(listen("echo", extra))
    begun = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    stage.near.send_signal(signal.SIGHUP)
    told = manager.wait_key("RELOADING")
    assert begun <= int(told["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    # At two addresses.
    assert manager.wait_key("READY")["STATUS"] == (
        "ready: channels 1, listening for 1 services, offering 0")
    wait_for_echo(extra)
    stage.write("nonsense\n")
    mark = stage.near.mark()
    stage.near.send_signal(signal.SIGHUP)
    stage.near.wait_for_log(r"reload: .*virtproxy.toml:\d+:\d+: ", since=mark)
    stage.near.wait_for_log(r"reload: nothing is changed", since=mark)
    wait_for_echo(extra)


def test_channels_and_forwards_come_and_go_by_command(scene: Scene) -> None:
    stage = Stage(scene)
    streams = CheckedStreams(stage.door, 20)
    link, door = scene.addresses.unix(), scene.addresses.tcp()
    services = [scene.addresses.unix() for _ in range(2)]
    for service in services:
        scene.serve("echo", service)
    far_control = scene.addresses.unix().place
    far = scene.daemon("-c", f"unix-listen:{link.spec}", "-i", f"echo:{services[0].spec}",
                       "--control", far_control, name="other far")
    for _ in range(3):
        added = stage.done("channel-add", f"unix-connect:{link.spec}:vm2")
        assert added == "1 channel added"
        assert stage.done("forward-add", "-o", f"echo:{door.spec}:vm2") == "1 forward added"
        wait_for_echo(door)
        assert [row["channel"] for row in stage.rows("forwards")] == ["vm1", "vm2"]
        client = door.connect(WAIT)
        echo(client)
        assert stage.done("forward-remove", "-o", f"echo:{door.spec}:vm2") == "1 forward removed"
        wait_refused(door)
        echo(client)
        client.close()
        assert stage.done("forward-add", "-o", f"echo:{door.spec}:vm2") == "1 forward added"
        wait_for_echo(door)
        assert stage.done("drain", "vm2") == "1 channel removed, 1 forward removed"
        wait_refused(door)
    # Offered to the other end, and taken back.
    assert stage.done("channel-add", f"unix-connect:{link.spec}:vm2") == "1 channel added"
    assert stage.done("forward-add", "-i", f"back:{services[1].spec}:vm2") == "1 forward added"
    back = scene.addresses.tcp()
    assert "1 forward added" in subprocess.run(
        [BIN / "virtproxyctl", "forward-add", "--control", far_control, "-o", f"back:{back.spec}"], capture_output=True, text=True, check=True, timeout=WAIT).stdout
    wait_for_echo(back)
    client = back.connect(WAIT)
    echo(client)
    assert stage.done("forward-remove", "-i", f"back:{services[1].spec}:vm2") == "1 forward removed"
    echo(client)
    mark = far.mark()
    stage.done("reset", "vm2")
    far.wait_down(since=mark)
    for args, message in (
        (("channel-add", "unix-connect:nowhere"), "the form is"),
        (("channel-add", f"unix-connect:{link.spec}:vm2"), "is already"),
        (("channel-remove", "vm9"), "there is no channel 'vm9'"),
        (("forward-add", "-o", f"echo:{door.spec}:vm9"), "vm9"),
        (("forward-remove", "-o", "echo:127.0.0.1:1:vm2"), "there is no -o echo:127.0.0.1:1:vm2"),
        (("reset", "vm9"), "there is no channel 'vm9'"),
    ):
        errors = stage.fails(*args)
        assert message in errors[0], (args, errors)
    # The file has none of it.
    assert "1 channel removed" in stage.done("reload")
    assert "channel vm1 is the last one" in stage.fails("channel-remove", "vm1")[0]
    streams.finish()
    client.close()


def test_without_a_file_there_is_nothing_to_read(scene: Scene) -> None:
    control = scene.addresses.unix().place
    near = scene.daemon("-c", f"unix-listen:{scene.addresses.unix().spec}", "-o",
                        f"x:{scene.addresses.tcp().spec}", "--control", control)
    done = subprocess.run([BIN / "virtproxyctl", "reload", "--control", control], capture_output=True,
                          text=True, check=False, timeout=WAIT)
    assert (done.returncode, "without --config" in done.stderr) == (1, True)
    mark = near.mark()
    near.send_signal(signal.SIGHUP)
    near.wait_for_log("SIGHUP is ignored: there is no --config FILE", since=mark)
