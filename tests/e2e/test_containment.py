"""Each measure of containment, by trying to break it: privileges, system calls, listeners, names."""

from __future__ import annotations

import errno
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import intruder as intrusion
from addresses import Address
from harness import BIN, PATIENCE, SANITIZED, Daemon, Pair, Scene, into, out
from intruder import Killed, intruder
from processes import Process
from stage import carry, echo, echo_once, eventually, expect_client_reset, wait_for_echo
from stranger import DATA, RESET, UNKNOWN_SERVICE, Stranger

NOBODY = 65534
STRANGER, MEMBER, GROUP = 41001, 41002, 41003
CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
CAP_DAC_OVERRIDE, CAP_IPC_LOCK = 1 << 1, 1 << 14

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
sandboxed = pytest.mark.skipif(SANITIZED, reason="a build with sanitizers has no sandbox")
break_in = pytest.mark.skipif(
    SANITIZED or not intrusion.POSSIBLE, reason="needs root on x86-64 and a sandbox"
)


@pytest.fixture(name="scene")
def fixture_scene(scene: Scene) -> Scene:
    """Everybody may enter the directory of this scene."""
    scene.directory.chmod(0o755)
    return scene


def status_of_threads(daemon: Daemon) -> list[dict[str, str]]:
    found = []
    for tid in intrusion.threads(daemon.pid):
        text = Path(f"/proc/{daemon.pid}/task/{tid}/status").read_text(encoding="ascii")
        found.append(dict(re.findall(r"^(\w+):[ \t]*(.*?)[ \t]*$", text, re.MULTILINE)))
    return found


def complaint(scene: Scene, *args: str | Path, wrapper: tuple[str | Path, ...] = ()) -> str:
    """What a daemon says that must not start: one line that is an error, and nothing served."""
    process = scene.run([*wrapper, BIN / "virtproxy", *args], timeout=10, expect=1)
    lines = process.stderr().splitlines()
    assert len([line for line in lines if "warn" not in line]) == 1, process.everything()
    return lines[-1]


def try_as(uid: int, gid: int, groups: list[int], address: Address) -> str:
    """What a process of that user gets from an echo service: its word, or the error."""
    program = (
        "import socket, sys\n"
        "place = sys.argv[1]\n"
        "place = '\\0' + place[1:] if place[0] == '@' else place\n"
        "sock = socket.socket(socket.AF_UNIX)\n"
        "sock.settimeout(20)\n"
        "try:\n"
        "    sock.connect(place)\n"
        "    sock.sendall(b'hello')\n"
        "    print(sock.recv(5).decode() or 'end')\n"
        "except OSError as error:\n"
        "    print(type(error).__name__)\n"
    )
    run = subprocess.run(
        ["/usr/bin/python3", "-c", program, address.place],
        user=uid, group=gid, extra_groups=groups, cwd="/",
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return run.stdout.strip()


TURNED_AWAY = ("end", "ConnectionResetError", "BrokenPipeError")


# --- privileges -------------------------------------------------------------------------------


@as_root
@pytest.mark.parametrize("user", ["nobody", "65534", "nobody:nogroup", "nobody:dialout"])
def test_user_leaves_no_privilege_to_any_thread(scene: Scene, user: str) -> None:
    channels = [scene.addresses.unix(), scene.addresses.unix()]
    door = Address("tcp", "127.0.0.1", free_low_port())
    args = ["--user", user, "--threads", "2", *out("echo", door)]
    for channel in channels:
        args += ["-c", f"unix-listen:{channel.spec}"]
    # Root's own groups must not stay.
    near = scene.daemon(*args, channels=(0, 1), wrapper=["setpriv", "--groups", "41009,41010"])
    far = scene.daemon(
        *("-c", f"unix-connect:{channels[0].spec}", *into("echo", scene.echo_service()))
    )
    far.wait_up()
    echo_once(door)
    gid = 20 if user.endswith("dialout") else NOBODY
    threads = status_of_threads(near)
    assert len(threads) >= 3
    for status in threads:
        assert status["Uid"].split() == [str(NOBODY)] * 4
        assert status["Gid"].split() == [str(gid)] * 4
        assert status["Groups"] == ""
        for name in CAPABILITIES:
            assert int(status[name], 16) == 0, name
        assert status["NoNewPrivs"] == "1"
        assert SANITIZED or status["Seccomp"] == "2"
    # Not dumpable: what belongs to the process in /proc is root's.
    assert SANITIZED or os.stat(f"/proc/{near.pid}/fd").st_uid == 0


def free_low_port() -> int:
    """One that takes a privilege to listen on."""
    for port in range(600, 1000):
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise AssertionError("no free port below 1000")


@as_root
def test_root_without_user_keeps_what_the_job_takes(scene: Scene) -> None:
    listening = ["-c", f"unix-listen:{scene.addresses.unix().spec}"]
    dialling = ["-c", f"unix-connect:{scene.addresses.unix().spec}"]
    for args, kept in (
        (listening, CAP_IPC_LOCK),
        (dialling, CAP_IPC_LOCK | CAP_DAC_OVERRIDE),
        ([*listening, *into("x", scene.addresses.unix())], CAP_IPC_LOCK | CAP_DAC_OVERRIDE),
        ([*listening, *into("x", scene.addresses.abstract())], CAP_IPC_LOCK),
    ):
        daemon = scene.daemon(*args)
        for status in status_of_threads(daemon):
            assert status["Uid"].split() == ["0"] * 4
            for name in CAPABILITIES:
                wanted = kept if name in ("CapPrm", "CapEff") else 0
                assert int(status[name], 16) & ~wanted == 0, (args, name, status[name])
            assert status["NoNewPrivs"] == "1"
        daemon.terminate()


@as_root
def test_only_root_can_become_somebody(scene: Scene) -> None:
    channel = Address("abstract", f"@{scene.directory.name}")
    prefix = ("setpriv", "--reuid=41001", "--regid=41001", "--clear-groups")
    said = complaint(
        scene, "-c", f"unix-listen:{channel.spec}", "--user", "nobody", wrapper=prefix
    )
    assert "only root" in said and "41001" in said


@as_root
def test_a_device_closed_to_the_user_is_said_at_the_start(scene: Scene) -> None:
    master, slave = os.openpty()
    path = os.ttyname(slave)
    os.chown(path, 0, 0)
    os.chmod(path, 0o660)
    args = ["-c", f"isa-serial:{path}:-", "--user", "nobody:dialout"]
    said = complaint(scene, *args)
    assert path in said and "udev" in said and "65534" in said, said
    os.chown(path, 0, 20)
    scene.daemon(*args).terminate()
    for fd in (master, slave):
        os.close(fd)


@as_root
def test_a_device_is_opened_again_after_everything_was_given_up(scene: Scene) -> None:
    """Two ports, of which the first hangs up: the link is made anew, raw, and bytes go."""
    port = scene.directory / "port"
    ends = [os.openpty() for _ in range(2)]
    port.symlink_to(os.ttyname(ends[0][1]))
    for _, slave in ends:
        os.chown(os.ttyname(slave), NOBODY, NOBODY)
    daemon = scene.daemon("-c", f"isa-serial:{port}:115200", "--user", "nobody")
    for index, (master, slave) in enumerate(ends):
        assert select.select([master], [], [], 10 * PATIENCE)[0], f"port {index} stays silent"
        assert os.read(master, 4) == b"\x01\x00\x00\x00"  # A greeting.
        if index == 0:
            port.unlink()
            port.symlink_to(os.ttyname(ends[1][1]))
        os.close(slave)
        os.close(master)
    daemon.wait_for_log("trying again")


@as_root
def test_a_path_that_the_user_cannot_remove_is_taken_over_next_time(scene: Scene) -> None:
    channel = scene.addresses.unix()  # In a directory of root's.
    args = ["-c", f"unix-listen:{channel.spec}", "--user", "nobody"]
    first = scene.daemon(*args)
    first.terminate()
    first.wait_for_log("stays behind")
    assert os.path.exists(channel.place)
    os.chown(scene.directory, NOBODY, NOBODY)
    scene.daemon(*args).terminate()
    assert not os.path.exists(channel.place)


# --- system calls -----------------------------------------------------------------------------

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
    ("accept4", (0, 0, 0, 0)),
    ("setsockopt", (0, socket.SOL_SOCKET, 26, 0, 0)),  # SO_ATTACH_FILTER
    ("ioctl", (0, 0x5412, b"x")),  # TIOCSTI
    ("dup2", (0, 1)),
    ("memfd_create", (b"code", 0)),
    ("mmap", (0, 4096, 7, 0x22, -1, 0)),  # Readable, writable and executable.
    ("mprotect", (0x10000, 4096, 5)),
    ("clone", (0x11, 0, 0, 0, 0)),
    ("clone3", (b"".ljust(64, b"\0"), 64)),
    ("kill", (1, 0)),
    ("tkill", (1, 0)),
    ("tgkill", (1, 1, 0)),
    ("pidfd_open", (1, 0)),
    ("prctl", (4, 1, 0, 0, 0)),  # PR_SET_DUMPABLE
    ("seccomp", (0, 0, 0)),
    ("setrlimit", (7, b"\xff" * 16)),
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


# --- names, looked up by a daemon that has given everything up ---------------------------------


class NameServer:
    """Answers every question for an address with 127.0.0.1; over UDP only that TCP is needed."""

    def __init__(self) -> None:
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.tcp = socket.socket()
        self.tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for sock in (self.udp, self.tcp):
            sock.bind(("127.0.0.77", 53))
        self.tcp.listen()
        self.asked = {"udp": 0, "tcp": 0}
        for run in (self._serve_udp, self._serve_tcp):
            threading.Thread(target=run, daemon=True).start()

    @staticmethod
    def _answer(question: bytes, truncated: bool) -> bytes:
        end = question.index(b"\0", 12) + 5
        is_a = question[end - 4 : end - 2] == b"\0\1" and not truncated
        flags = b"\x83\x80" if truncated else b"\x81\x80"
        head = question[:2] + flags + b"\0\1" + (b"\0\1" if is_a else b"\0\0") + b"\0\0\0\0"
        record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4\x7f\0\0\1" if is_a else b""
        return head + question[12:end] + record

    def _serve_udp(self) -> None:
        while True:
            try:
                question, client = self.udp.recvfrom(512)
            except OSError:
                return
            self.asked["udp"] += 1
            self.udp.sendto(self._answer(question, True), client)

    def _serve_tcp(self) -> None:
        while True:
            try:
                client = self.tcp.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._serve_one, args=(client,), daemon=True).start()

    def _serve_one(self, client: socket.socket) -> None:
        with client:
            while size := client.recv(2, socket.MSG_WAITALL):
                question = client.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL)
                self.asked["tcp"] += 1
                answer = self._answer(question, False)
                client.sendall(len(answer).to_bytes(2, "big") + answer)

    def close(self) -> None:
        for sock in (self.udp, self.tcp):
            sock.close()


def with_files(scene: Scene, **files: str) -> list[str | Path]:
    """A prefix that shows a program other files in /etc."""
    script = ""
    for name, text in files.items():
        copy = scene.directory / name
        copy.write_text(text, encoding="ascii")
        script += f"mount --bind {copy} /etc/{name.replace('_', '.')} && "
    try:
        subprocess.run(["unshare", "-m", "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs a mount namespace")
    return ["unshare", "-m", "sh", "-c", script + 'exec "$0" "$@"']


@as_root
def test_host_names_are_looked_up_inside_the_sandbox(scene: Scene) -> None:
    """Files and servers, over UDP and TCP, and resolv.conf changed while it runs."""
    server = NameServer()
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


# --- unix listeners ---------------------------------------------------------------------------


@as_root
def test_sockets_get_mode_and_owner(scene: Scene) -> None:
    channel, door = scene.addresses.unix(), scene.addresses.unix()
    base = ["-c", f"unix-listen:{channel.spec}", *out("x", door)]
    for args, mode, uid, gid in (
        (["--socket-mode", "0660"], 0o660, 0, 0),
        (["--socket-mode", "666", "--socket-owner", "nobody"], 0o666, NOBODY, 0),
        (["--socket-mode", "0", "--socket-owner", ":nogroup"], 0, 0, NOBODY),
        (["--socket-owner", "41001:41003"], 0o755, 41001, 41003),
        (["--user", "nobody:dialout"], 0o755, NOBODY, 20),
        (["--user", "nobody", "--socket-owner", "41001:41003"], 0o755, 41001, 41003),
    ):
        daemon = scene.daemon(*base, *args)
        for address in (channel, door):
            status = os.stat(address.place)
            found = (status.st_mode & 0o777, status.st_uid, status.st_gid)
            assert found == (mode, uid, gid), args
        daemon.terminate()


@as_root
def test_a_socket_is_never_wider_than_asked(scene: Scene) -> None:
    """Watched while it comes into being, again and again; and knocked at by somebody else."""
    door = scene.addresses.unix()
    seen: set[tuple[int, int]] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            try:
                status = os.stat(door.place)
            except FileNotFoundError:
                continue
            seen.add((status.st_mode & 0o777, status.st_uid))

    knocks = (
        "import socket, sys\n"
        "while True:\n"
        "    sock = socket.socket(socket.AF_UNIX)\n"
        "    try:\n"
        "        sock.connect(sys.argv[1])\n"
        "        print('in', flush=True)\n"
        "    except OSError:\n"
        "        pass\n"
        "    sock.close()\n"
    )
    prefix = ["setpriv", "--reuid=41001", "--regid=41001", "--clear-groups"]
    knocker = scene.spawn([*prefix, "/usr/bin/python3", "-c", knocks, door.place], cwd=Path("/"))
    watcher = threading.Thread(target=watch)
    watcher.start()
    args = ["-c", f"unix-connect:{scene.addresses.unix().spec}", *out("x", door)]
    for _ in range(20):
        daemon = scene.daemon(*args, "--socket-mode", "0600", "--socket-owner", "nobody")
        daemon.terminate()
    stop.set()
    watcher.join()
    assert seen >= {(0o600, NOBODY)} and seen <= {(0o600, NOBODY), (0o600, 0)}, seen
    assert knocker.alive() and knocker.stdout() == ""


@as_root
def test_the_owner_of_something_else_is_not_changed(scene: Scene) -> None:
    """A path that cannot be bound is left alone, whatever it is."""
    door, victim = scene.addresses.unix(), scene.directory / "victim"
    victim.write_text("secret", encoding="ascii")
    victim.chmod(0o600)
    args = ["-c", f"unix-connect:{scene.addresses.unix().spec}", *out("x", door)]
    os.symlink(victim, door.place)
    assert door.place in complaint(scene, *args, "--socket-owner", "nobody")
    assert victim.stat().st_uid == 0 and victim.stat().st_mode & 0o777 == 0o600


ALLOWED = [
    (["--allow-uid", "41001"], {"owner"}),
    (["--allow-uid", "nobody,41001"], {"owner"}),
    (["--allow-uid", "nobody", "--allow-uid", "41002"], {"member"}),
    (["--allow-gid", "41003"], {"member", "primary"}),
    (["--allow-gid", "41003", "--allow-uid", "41001"], {"owner", "member", "primary"}),
    (["--allow-uid", "0"], set()),
]


@as_root
@pytest.mark.parametrize("flags,admitted", ALLOWED, ids=lambda value: " ".join(value))
@pytest.mark.parametrize("door_kind", ["unix", "abstract"])
def test_only_clients_on_the_list_are_served(
    scene: Scene, flags: list[str], admitted: set[str], door_kind: str
) -> None:
    near = ("--socket-mode", "0666", *flags)
    pair, doors = carry(scene, "unix", {"echo": scene.echo_service()}, door_kind, near=near)
    clients = {
        "owner": (STRANGER, STRANGER, []),
        "member": (MEMBER, MEMBER, [41009, GROUP]),
        "primary": (41004, GROUP, []),
        "other": (41005, 41005, [41006]),
    }
    for name, (uid, gid, groups) in clients.items():
        mark = pair.near.mark()
        got = try_as(uid, gid, groups, doors["echo"])
        if name in admitted:
            assert got == "hello", name
        else:
            assert got in TURNED_AWAY, name
            pair.near.wait_for_log(rf"service echo: client refused: uid {uid} gid {gid} pid", 10, mark)
            time.sleep(0.6)  # Two such lines a second are said.
    pair.wait_at_rest()


@as_root
def test_a_crowd_of_refused_clients_does_not_fill_the_log(scene: Scene) -> None:
    near = ("--allow-uid", "41001")
    pair, doors = carry(scene, "unix", {"echo": scene.echo_service()}, "unix", near=near)
    begin = time.monotonic()
    for _ in range(500):
        try:
            with doors["echo"].connect() as client:
                client.recv(1)
        except OSError:
            pass
    seconds = time.monotonic() - begin
    lines = [line for line in pair.near.err.lines() if "client refused" in line]
    assert 1 <= len(lines) <= 2 * (seconds + 2), len(lines)
    pair.wait_at_rest()


@as_root
def test_only_peers_on_the_list_get_the_channel(scene: Scene) -> None:
    channel, door = scene.addresses.unix(), scene.addresses.unix()
    near = scene.daemon(
        *("-c", f"unix-listen:{channel.spec}", "--channel-allow-uid", "nobody"),
        *("--socket-mode", "0666", *out("echo", door)),
    )
    dial = ["-c", f"unix-connect:{channel.spec}", *into("echo", scene.echo_service())]
    stranger = scene.daemon(*dial, name="stranger")
    near.wait_for_log(r"channel 0: peer refused: uid 0 gid 0 pid")
    friend = scene.daemon(*dial, "--user", "nobody", name="friend")
    friend.wait_up()
    echo_once(door)
    assert not [line for line in stranger.err.lines() if "channel 0: up" in line]


@pytest.mark.parametrize(
    "args,why",
    [
        (["-o", "x:127.0.0.1:1", "--allow-uid", "0"], "TCP does not tell"),
        (["--allow-gid", "0"], "there is none"),
        (["--channel-allow-gid", "0"], "there is none"),
        (["--channel-allow-cid", "3"], "there is none"),
        (["--allow-uid", "no-such-user"], "no user 'no-such-user'"),
        (["--socket-mode", "0888"], "octal"),
        (["--socket-mode", "01777"], "0777"),
        (["--socket-owner", "x:y:z"], "no user 'x'"),
        (["--user", "root"], "is root"),
        (["--user", "0:0"], "is root"),
        (["--user", "4242424"], "4242424:GROUP"),
        (["--sandbox", "perhaps"], "on or off"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_flag_that_guards_nothing_or_makes_no_sense_is_an_error(
    scene: Scene, args: list[str], why: str
) -> None:
    assert why in complaint(scene, "-c", "unix-connect:/nowhere:-", *args)


def test_what_a_list_does_not_guard_is_said(scene: Scene) -> None:
    doors = [scene.addresses.unix(), scene.addresses.tcp(), scene.addresses.abstract()]
    args = ["-c", f"unix-listen:{scene.addresses.abstract().spec}", *out("x", doors[0])]
    daemon = scene.daemon(*args, *out("y", doors[1]), "--allow-uid", "0")
    daemon.wait_for_log(f"warn .*-o y:{doors[1].spec}: TCP does not tell")
    daemon.terminate()
    daemon = scene.daemon(*args, *out("z", doors[2]), "--socket-mode", "0600")
    daemon.wait_for_log("warn .*-o z:.*: an abstract socket has no mode")
    daemon.wait_for_log("warn .*-c unix-listen:@.*: an abstract socket has no mode")


# --- TCP listeners ----------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "*", "", "[::ffff:0:0]", "128.0.0.1"])
@pytest.mark.parametrize("what", ["-o", "-c"])
def test_listeners_that_others_reach_need_a_flag(scene: Scene, what: str, host: str) -> None:
    port, channel = scene.addresses.tcp().port, scene.addresses.unix()
    args = ["-o", f"x:{host}:{port}"] if what == "-o" else ["-c", f"tcp-listen:{host}:{port}"]
    if what == "-o":
        args += ["-c", f"unix-listen:{channel.spec}"]
    said = complaint(scene, *args)
    assert args[1] in said and "--allow-remote" in said and "127.0.0.1" in said, said
    assert not os.path.exists(channel.place)
    if host in ("0.0.0.0", "[::]", "*", ""):
        scene.daemon(*args, "--allow-remote").terminate()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "[::1]", "localhost"])
def test_loopback_needs_none(scene: Scene, host: str) -> None:
    port = scene.addresses.tcp().port
    scene.daemon("-c", f"tcp-listen:{host}:{port}").terminate()


@as_root
@pytest.mark.parametrize("others", ["", "127.0.0.1 far\n"])
def test_a_name_is_judged_by_its_addresses(scene: Scene, others: str) -> None:
    """One of them is enough."""
    wrapper = with_files(scene, hosts=f"{others}0.0.0.0 far\n127.0.0.1 localhost near\n")
    port, channel = scene.addresses.tcp().port, scene.addresses.unix()
    args = ["-c", f"unix-listen:{channel.spec}", "-o", f"x:far:{port}"]
    said = complaint(scene, *args, wrapper=tuple(wrapper))
    assert "far" in said and "--allow-remote" in said, said
    assert not os.path.exists(channel.place)
    scene.daemon(*args, "--allow-remote", wrapper=wrapper).terminate()
    args[-1] = f"x:near:{port}"
    scene.daemon(*args, wrapper=wrapper).terminate()


# --- services ---------------------------------------------------------------------------------

NAMES = [
    *(b"", b"e", b"ech", b"echo2", b"Echo", b"ECHO", b" echo", b"echo ", b"ech\0", b"echo\0"),
    *(b"echo\0x", b"\0echo", b"\0", b"echo\n", b"ech\xc0\xaf", b"other", b"x" * 31, b"x" * 32),
    *(b"x" * 255, b"127.0.0.1:22", b"/etc/passwd", b"*", b"%s%n", b"../echo", b"echo:0"),
]


def test_a_peer_opens_what_is_offered_on_its_channel_and_nothing_else(scene: Scene) -> None:
    """Names by hand, also those that no command line has; the other service is another channel's."""
    channels = [scene.addresses.unix(), scene.addresses.unix()]
    accepted = scene.addresses.unix()
    listener = accepted.listen()
    scene.cleanup(listener.close)
    echo_service = scene.echo_service()
    daemon = scene.daemon(
        *("-c", f"unix-listen:{channels[0].spec}:3", "-c", f"unix-listen:{channels[1].spec}:4"),
        *into("echo", echo_service, 3),
        *into("other", accepted, 4),
        channels=(3, 4),
    )
    for name in NAMES:
        with channels[0].connect(10 * PATIENCE) as sock:
            peer = Stranger(sock)
            good = peer.open(b"echo")
            peer.send(good, 0, b"hello")
            assert peer.answer(good) == (DATA, b"hello")
            asked = peer.open(name)
            if 0 < len(name) < 32:
                assert peer.answer(asked) == (RESET, UNKNOWN_SERVICE), name
                peer.send(good, 5, b"again")
                assert peer.answer(good) == (DATA, b"again"), name
            else:
                # No name at all: a fault of the session.
                with pytest.raises((EOFError, ConnectionResetError)):
                    peer.answer(asked)
    with channels[1].connect(10 * PATIENCE) as sock:
        peer = Stranger(sock)
        assert peer.answer(peer.open(b"echo")) == (RESET, UNKNOWN_SERVICE)
        listener.settimeout(0.2)
        with pytest.raises(TimeoutError):
            listener.accept()
        peer.open(b"other")
        listener.settimeout(10 * PATIENCE)
        listener.accept()[0].close()
    daemon.wait_at_rest()
