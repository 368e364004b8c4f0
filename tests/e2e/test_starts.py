"""Starts that cannot be meant are refused, or warned about, in one line that says what would be
right; signals that mean nothing do no harm; what a daemon that drains gives up is free at once."""

from __future__ import annotations

import os
import pty
import re
import signal
import socket
import stat

import pytest

from harness import BIN, PATIENCE, Scene, into, out
from stage import ListeningService, eventually, receive


def refusal(scene: Scene, *args: str) -> str:
    """The one line of a daemon that does not start."""
    process = scene.spawn([str(BIN / "virtproxy"), *args])
    assert process.wait(10 * PATIENCE) == 1, process.everything()
    lines = [line for line in process.err.lines() if re.search(r" error |^virtproxy: ", line)]
    assert len(lines) == 1, process.everything()
    return lines[0]


@pytest.mark.parametrize("method", ["virtio-serial", "isa-serial"])
@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("/dev/null", "no port: give one such as /dev/virtio-ports/NAME"),
        ("/dev/zero", "no port: give one such as /dev/virtio-ports/NAME"),
        ("{dir}", "is a directory, no character device"),
        ("{dir}/file", "is a regular file, no character device: give a port"),
        ("{dir}/socket", "is a socket, no character device: use unix-connect"),
    ],
)
def test_a_device_that_is_no_port(scene: Scene, method: str, path: str, complaint: str) -> None:
    lay_out(scene)
    path = path.format(dir=scene.directory)
    line = refusal(scene, "-c", f"{method}:{path}:-", "-i", "echo:127.0.0.1:7")
    assert path in line
    assert complaint in line


def lay_out(scene: Scene) -> None:
    (scene.directory / "file").write_text("data", encoding="ascii")
    os.mkfifo(scene.directory / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(scene.directory / "socket"))


@pytest.mark.parametrize("option", [
    ("--ship", "unix:{dir}/log,full=spool", "--ship-spool", "{none}/spool:8M"),
    ("--ship", "unix:{dir}/log", "--ship-spool", "{dir}/file/spool:8M"),
    ("--ship", "journal,cursor={none}/cursor"),
    ("--collect", "file:{none}/log"),
    ("--collect", "exec:/bin/cat", "--collect-spool", "{none}/spool:8M"),
], ids=" ".join)  # fmt: skip
def test_a_directory_that_is_missing_is_named(scene: Scene, option: tuple[str, ...]) -> None:
    lay_out(scene)
    none = scene.directory / "none"
    given = [word.format(dir=scene.directory, none=none) for word in option]
    line = refusal(scene, "-c", f"unix-listen:{scene.addresses.unix().spec}", *given)
    file = f"{scene.directory}/file"
    assert (f"{file} is no directory" if file in given[-1] else f"the directory {none} is not there") in line, line


@pytest.mark.parametrize("options", [
    ("--ship", "unix-dgram:{dir}/none/log", "--ship-spool", "{dir}/spool:1M"),
    ("--ship", "tcp:127.0.0.1:{port}", "--ship-spool", "{dir}/spool:1M"),
    ("--ship", "journal,cursor={dir}/none/cursor", "--ship-spool", "{dir}/spool:1M"),
    ("--ship", "kmsg,cursor={dir}/cursor", "--ship", "unix:{dir}/none/log"),
    ("--collect", "file:{dir}/a", "--collect", "file:{dir}/none/b"),
    ("--collect", "file:{dir}/a", "--collect", "exec:{dir}/none/program", "--collect-spool", "{dir}/spool:8M"),
], ids=" ".join)  # fmt: skip
def test_a_start_that_fails_leaves_no_files(scene: Scene, options: tuple[str, ...]) -> None:
    taken = scene.addresses.tcp()
    with taken.listen():
        args = [option.format(dir=scene.directory, port=taken.port) for option in options]
        refusal(scene, "-c", f"unix-connect:{scene.directory}/channel:-:vm1", *args)
    assert list(scene.directory.iterdir()) == []


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_an_address_that_is_in_use_is_waited_for_and_that_is_said(scene: Scene, kind: str) -> None:
    door = getattr(scene.addresses, kind)()
    args = ["-c", f"unix-connect:{scene.addresses.unix().spec}", *out("echo", door)]
    waits = f"another process still listens on {re.escape(door.place)}\\S*: waiting up to"
    with door.listen():
        assert f"cannot listen on {door.place}" in refusal(scene, *args)
        assert re.search(waits, scene.processes[-1].everything())


@pytest.mark.parametrize("path", ["/dev/null", "{dir}", "{dir}/file", "{dir}/fifo"])
@pytest.mark.parametrize("use", ["channel", "service"])
def test_a_path_to_connect_to_that_is_no_socket(scene: Scene, use: str, path: str) -> None:
    lay_out(scene)
    path = path.format(dir=scene.directory)
    channel = f"unix-listen:{scene.addresses.unix().spec}"
    args = {
        "channel": ["-c", f"unix-connect:{path}:-", "-i", "echo:127.0.0.1:7"],
        "service": ["-c", channel, "-i", f"echo:{path}:-"],
    }
    line = refusal(scene, *args[use])
    assert f"{path} is a" in line
    assert "no socket" in line


def test_a_path_to_listen_on_that_is_no_socket(scene: Scene) -> None:
    lay_out(scene)
    channel = f"unix-listen:{scene.addresses.unix().spec}"
    for args in (
        ["-c", f"unix-listen:{scene.directory}/file:-", "-i", "echo:127.0.0.1:7"],
        ["-c", channel, "-o", f"echo:{scene.directory}/file:-"],
    ):
        assert "no socket is there: remove it, or give another path" in refusal(scene, *args)
    assert stat.S_ISREG(os.stat(scene.directory / "file").st_mode)


def test_two_names_of_one_channel(scene: Scene) -> None:
    lay_out(scene)
    (scene.directory / "alias").symlink_to(scene.directory / "socket")
    near, far = pty.openpty()
    (scene.directory / "port").symlink_to(os.ttyname(far))
    try:
        for first, second in (
            (f"unix-connect:{scene.directory}/socket:-", f"unix-connect:{scene.directory}/alias:-"),
            (f"isa-serial:{os.ttyname(far)}:-", f"virtio-serial:{scene.directory}/port:-"),
        ):
            line = refusal(scene, "-c", first, "-c", second, "-i", "a:127.0.0.1:7")
            assert f"{second}: that is the same as {first} under another name" in line
    finally:
        os.close(near)
        os.close(far)


def test_what_is_not_there_yet_is_waited_for(scene: Scene) -> None:
    late, service = scene.addresses.unix(), scene.addresses.unix()
    daemon = scene.daemon("-c", f"unix-connect:{late.spec}", *into("echo", service))
    daemon.wait_for_log("No such file or directory; trying again")
    with late.listen() as listener:
        listener.settimeout(10 * PATIENCE)
        listener.accept()[0].close()


def test_a_channel_without_a_forward_is_warned_about(scene: Scene) -> None:
    channels = [f"unix-listen:{scene.addresses.unix().spec}" for _ in range(3)]
    args = [arg for channel in channels for arg in ("-c", channel)]
    forwards = [*out("a", scene.addresses.unix()), *into("b", scene.addresses.unix(), 2)]
    daemon = scene.daemon(*args, *forwards, channels=range(3))
    warnings = [line for line in daemon.err.lines() if "has no forward" in line]
    assert len(warnings) == 1, warnings
    assert f"channel 1: it has no forward: nothing can pass over {channels[1]} without" in warnings[0]
    assert "-i SERVICE:ADDRESS:PORT:1" in warnings[0]


@pytest.mark.parametrize("level", ["error", "warn"])
def test_figures_are_logged_at_any_level(scene: Scene, level: str) -> None:
    channel = f"unix-listen:{scene.addresses.unix().spec}"
    args = ["-c", channel, "--log-level", level, *out("a", scene.addresses.unix())]
    daemon = scene.spawn([str(BIN / "virtproxy"), *args])
    eventually("its listener", lambda: any(scene.directory.iterdir()))
    # Before its signals are set up it would die of the first one.
    eventually("signals", lambda: blocks(daemon.pid, signal.SIGUSR1))
    daemon.send_signal(signal.SIGUSR1)
    daemon.err.wait_for(r"stats channel=0\b.*", 10 * PATIENCE)
    daemon.err.wait_for(r"stats process\b.*", 10 * PATIENCE)


def blocks(pid: int, number: int) -> bool:
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        blocked = next(line for line in status if line.startswith("SigBlk:"))
    return bool(int(blocked.split()[1], 16) >> (number - 1) & 1)


def test_sigusr2_is_ignored_with_a_line(scene: Scene) -> None:
    daemon = scene.daemon(
        "-c", f"unix-listen:{scene.addresses.unix().spec}", *out("a", scene.addresses.unix())
    )
    daemon.send_signal(signal.SIGUSR2)
    daemon.wait_for_log("SIGUSR2 is ignored")
    daemon.stats()
    daemon.terminate()


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_a_successor_takes_over_while_streams_drain(scene: Scene, kind: str) -> None:
    """The address of the channel is free as soon as the draining begins, and the stream goes on."""
    channel = scene.addresses.of_kind(kind)
    service = ListeningService(scene)
    doors = scene.addresses.unix(), scene.addresses.unix()
    listen = f"{kind}-listen:{channel.spec}"
    drain = ["--drain-timeout", f"{20 * PATIENCE:g}"]
    old = scene.daemon("-c", listen, *into("raw", service.address), *drain, name="old")
    far = scene.daemon("-c", f"{kind}-connect:{channel.spec}", *out("raw", doors[0]), name="far")
    far.wait_up()
    old.wait_up()
    with doors[0].connect(10 * PATIENCE) as client:
        client.sendall(b"?")
        with service.accept() as served:
            assert receive(served, 1) == b"?"
            old.expected_death = True
            old.send_signal(signal.SIGTERM)
            old.wait_for_log("stopping")
            new = scene.daemon("-c", listen, *into("raw", service.address), name="new")
            served.sendall(b"late")
            assert receive(client, 4) == b"late"
            client.shutdown(socket.SHUT_WR)
            assert served.recv(1) == b""
    old.check_exit()
    new.wait_up()
