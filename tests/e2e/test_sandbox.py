"""System calls that a running daemon must not make, made from inside it; and those it must."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

import intruder as intrusion
from addresses import Address
from confined import as_root, break_in, sandboxed, status_of_threads, with_files
from harness import BIN, Daemon, Pair, Scene, into, out
from intruder import Killed, intruder
from name_server import NameServer
from stage import carry, echo, echo_once, expect_client_reset, wait_for_echo


@pytest.fixture(name="scene")
def fixture_scene(scene: Scene) -> Scene:
    """Everybody may enter the directory of this scene."""
    scene.directory.chmod(0o755)
    return scene


AT_FDCWD = -100 & 0xFFFFFFFF
INET = b"\x02\x00\x1f\x90\x7f\x00\x00\x01".ljust(16, b"\0")
REFUSED_CALLS: list[tuple[str, tuple[int | bytes, ...]]] = [
    ("openat", (AT_FDCWD, b"/etc/passwd", os.O_RDONLY)),
    ("openat", (AT_FDCWD, b"/tmp/virtproxy-was-here", os.O_CREAT | os.O_WRONLY, 0o666)),
    ("openat2", (AT_FDCWD, b"/etc/passwd", b"".ljust(24, b"\0"), 24)),
    ("open", (b"/etc/passwd", os.O_RDONLY)),
    ("creat", (b"/tmp/virtproxy-was-here", 0o666)),
    ("mkdir", (b"/tmp/virtproxy-was-here", 0o777)),
    ("mknod", (b"/tmp/virtproxy-was-here", 0o10666, 0)),
    ("symlink", (b"/etc/passwd", b"/tmp/virtproxy-was-here")),
    ("link", (b"/etc/passwd", b"/tmp/virtproxy-was-here")),
    ("rename", (b"/tmp/a", b"/tmp/b")),
    ("chmod", (b"/tmp", 0o777)),
    ("chown", (b"/tmp", 0, 0)),
    ("socket", (socket.AF_UNIX, socket.SOCK_STREAM, 0)),
    ("socket", (socket.AF_INET, socket.SOCK_DGRAM, 0)),
    ("socket", (socket.AF_INET, socket.SOCK_RAW, 1)),
    ("socket", (socket.AF_NETLINK, socket.SOCK_RAW, 0)),
    ("socket", (socket.AF_PACKET, socket.SOCK_RAW, 0)),
    ("socket", (socket.AF_VSOCK, socket.SOCK_STREAM, 0)),
    ("bind", (0, INET, 16)),
    ("listen", (0, 1)),
    ("accept", (0, 0, 0)),
    ("setsockopt", (0, socket.SOL_SOCKET, 26, 0, 0)),  # SO_ATTACH_FILTER
    ("ioctl", (0, 0x5412, b"x")),  # TIOCSTI
    ("dup2", (0, 1)),
    ("memfd_create", (b"code", 0)),
    ("mmap", (0, 4096, 7, 0x22, -1, 0)),  # Readable, writable and executable.
    ("mprotect", (0x10000, 4096, 5)),
    ("clone", (0x11, 0, 0, 0, 0)),
    ("clone", (0x1200011, 0, 0, 0, 0)),  # What fork(3) of the C library calls.
    ("clone3", (b"".ljust(64, b"\0"), 64)),
    ("kill", (1, 0)),
    ("tkill", (1, 0)),
    ("tgkill", (1, 1, 0)),
    ("pidfd_open", (1, 0)),
    ("prctl", (4, 1, 0, 0, 0)),  # PR_SET_DUMPABLE
    ("seccomp", (0, 0, 0)),
    ("setrlimit", (7, b"\xff" * 16)),
    ("landlock_create_ruleset", (0, 0, 1)),
    ("landlock_add_rule", (-1, 1, 0, 0)),
    ("landlock_restrict_self", (-1, 0)),
]
FATAL_CALLS: list[tuple[str, tuple[int | bytes, ...]]] = [
    ("execve", (b"/bin/true", 0, 0)),
    ("execveat", (AT_FDCWD, b"/bin/true", 0, 0, 0)),
    ("fork", ()),
    ("ptrace", (0, 0, 0, 0)),
    ("process_vm_readv", (1, 0, 0, 0, 0, 0)),
    ("process_vm_writev", (1, 0, 0, 0, 0, 0)),
    ("pidfd_getfd", (0, 0, 0)),
    ("io_uring_setup", (8, b"".ljust(120, b"\0"))),
    ("setuid", (0,)),
    ("setgroups", (0, 0)),
    ("capset", (0, 0)),
    ("unshare", (0x10000000,)),
    ("setns", (0, 0)),
    ("mount", (b"/", b"/", 0, 0, 0)),
    ("chroot", (b"/",)),
    ("bpf", (0, 0, 0)),
    ("perf_event_open", (0, 0, 0, 0, 0)),
]


def host_daemon(scene: Scene, *args: str) -> tuple[Daemon, Address]:
    """A daemon that dials one TCP service, for the other end's clients at the door."""
    service, door = scene.echo_service(), scene.addresses.unix()
    pair = Pair(scene, "unix", near=[*into("echo", service), *args], far=out("echo", door))
    pair.near.intruded = True
    echo_once(door)
    return pair.near, door


@break_in
@pytest.mark.parametrize("user", [(), ("--user", "nobody")], ids=["root", "nobody"])
def test_calls_that_the_job_does_not_take_are_refused(scene: Scene, user: tuple[str, ...]) -> None:
    daemon, door = host_daemon(scene, *user)
    with door.connect() as before:
        echo(before)
        for tid in intrusion.threads(daemon.pid):
            with intruder(daemon.pid, tid) as inside:
                assert inside.call("getpid") == daemon.pid
                for name, args in REFUSED_CALLS:
                    assert inside.call(name, *args) == -errno.EPERM, (name, args)
        for name in {name for name, _ in REFUSED_CALLS}:
            daemon.wait_for_log(rf"error the sandbox refused the system call {name} \(")
        echo(before, b"and it goes on")
    echo_once(door)
    daemon.stats()
    assert len([line for line in daemon.err.lines() if "system call openat " in line]) == 1
    assert not os.path.exists("/tmp/virtproxy-was-here")


@break_in
@pytest.mark.parametrize("name,args", FATAL_CALLS, ids=[name for name, _ in FATAL_CALLS])
def test_calls_of_an_intruder_end_the_process(
    scene: Scene, name: str, args: tuple[int | bytes, ...]
) -> None:
    channel = scene.addresses.unix()
    daemon = scene.daemon("-c", f"unix-listen:{channel.spec}")
    with pytest.raises(Killed) as death, intruder(daemon.pid) as inside:
        inside.call(name, *args)
    assert death.value.signal == signal.SIGSYS
    daemon.check_exit(code=-signal.SIGSYS)


@break_in
def test_another_architecture_s_calls_end_the_process(scene: Scene) -> None:
    """x32: the numbers of x86-64 with one bit more."""
    daemon = scene.daemon("-c", f"unix-listen:{scene.addresses.unix().spec}")
    intrusion.NUMBERS["x32 getpid"] = 0x40000000 | intrusion.NUMBERS["getpid"]
    with pytest.raises(Killed) as death, intruder(daemon.pid) as inside:
        inside.call("x32 getpid")
    assert death.value.signal == signal.SIGSYS
    daemon.check_exit(code=-signal.SIGSYS)


@break_in
def test_a_call_newer_than_the_program_is_not_there(scene: Scene) -> None:
    """So that a C library that learns it falls back to what it did before."""
    daemon = scene.daemon("-c", f"unix-listen:{scene.addresses.unix().spec}")
    daemon.intruded = True
    intrusion.NUMBERS["of the future"] = 999
    with intruder(daemon.pid) as inside:
        assert inside.call("of the future") == -errno.ENOSYS
    daemon.wait_for_log(r"the sandbox refused the system call .* \(999\)")


@break_in
def test_without_the_sandbox_the_same_calls_work(scene: Scene) -> None:
    """What the tests above refuse is what the sandbox refuses."""
    daemon, door = host_daemon(scene, "--sandbox", "off")
    daemon.wait_for_log("not filtered: --sandbox off")
    assert {status["Seccomp"] for status in status_of_threads(daemon)} == {"0"}
    assert {status["NoNewPrivs"] for status in status_of_threads(daemon)} == {"1"}
    with intruder(daemon.pid) as inside:
        fd = inside.call("openat", AT_FDCWD, b"/etc/passwd", os.O_RDONLY)
        assert fd >= 0
        assert inside.call("kill", 1, 0) in (0, -errno.EPERM)
        assert inside.call("io_uring_setup", 8, b"".ljust(120, b"\0")) >= 0
    echo_once(door)


@break_in
def test_a_daemon_that_dials_nothing_has_no_sockets_to_open(scene: Scene) -> None:
    pair, doors = carry(scene, "unix", {"echo": scene.echo_service()})
    pair.near.intruded = True
    with intruder(pair.near.pid) as inside:
        for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6):
            assert inside.call("socket", family, socket.SOCK_STREAM, 0) == -errno.EPERM
        assert inside.call("connect", 0, INET, 16) == -errno.EPERM
    with intruder(pair.far.pid) as inside:
        assert inside.call("socket", socket.AF_INET, socket.SOCK_STREAM, 0) >= 0
    echo_once(doors["echo"])


@sandboxed
def test_where_seccomp_is_forbidden_it_says_so_and_goes_on(scene: Scene) -> None:
    script = Path(__file__).with_name("without_call.py")
    channel = scene.addresses.unix()
    daemon = scene.daemon(
        *("-c", f"unix-listen:{channel.spec}"), wrapper=[sys.executable, script, "seccomp"]
    )
    daemon.wait_for_log("warn .*system calls are not filtered: .*seccomp")


@sandboxed
def test_where_the_ring_cannot_be_restricted_it_does_not_start_unless_told(scene: Scene) -> None:
    script = Path(__file__).with_name("without_call.py")
    wrapper = [sys.executable, script, "io_uring_restrictions"]
    args = ["-c", f"unix-listen:{scene.addresses.unix().spec}", "--driver", "io_uring"]
    process = scene.run([*wrapper, BIN / "virtproxy", *args], timeout=10, expect=1)
    errors = [line for line in process.stderr().splitlines() if " error " in line]
    assert len(errors) == 1, process.everything()
    assert "restrict the ring" in errors[0] and "--disable restrictions" in errors[0]
    assert "ready" not in process.stderr()
    features = scene.run([*wrapper, BIN / "virtproxy", "--features", "--driver", "io_uring", "--disable", "restrictions"])
    assert "restrictions no" in features.stdout().splitlines()
    scene.daemon(*args, "--disable", "restrictions", wrapper=wrapper)


# --- names, looked up by a daemon that has given everything up ---------------------------------


@as_root
def test_host_names_are_looked_up_inside_the_sandbox(scene: Scene) -> None:
    """Files and servers, over UDP and TCP, and resolv.conf changed while it runs."""
    server = NameServer("127.0.0.77")
    scene.cleanup(server.close)
    service, channel = scene.echo_service(), scene.addresses.unix()
    wrapper = with_files(scene, resolv_conf="nameserver 127.0.0.78\noptions timeout:1\n")
    doors = {"files": scene.addresses.tcp(), "servers": scene.addresses.tcp()}
    far = scene.daemon(
        *("-c", f"unix-listen:{channel.spec}", "--user", "nobody"),
        *("-i", f"files:localhost:{service.port}", "-i", f"servers:far.test.:{service.port}"),
        wrapper=wrapper,
    )
    near = scene.daemon(
        *("-c", f"unix-connect:{channel.spec}", *out("files", doors["files"])),
        *out("servers", doors["servers"]),
    )
    near.wait_up()
    echo_once(doors["files"])
    expect_client_reset(doors["servers"], 12)
    with open(scene.directory / "resolv_conf", "r+", encoding="ascii") as conf:
        conf.write("nameserver 127.0.0.77\noptions timeout:2\n")
    wait_for_echo(doors["servers"])
    assert server.asked["udp"] > 0 and server.asked["tcp"] > 0
    assert far.alive()


