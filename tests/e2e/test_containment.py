"""Each measure of containment, by trying to break it: privileges, listeners, names of services."""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

import intruder as intrusion
from addresses import Address
from confined import NOBODY, as_root, break_in, status_of_threads, with_files
from harness import BIN, PATIENCE, SANITIZED, Scene, into, out
from stage import carry, echo_once
from stranger import DATA, RESET, UNKNOWN_SERVICE, Stranger

STRANGER, MEMBER, GROUP = 41001, 41002, 41003
CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
CAP_DAC_OVERRIDE, CAP_IPC_LOCK = 1 << 1, 1 << 14


@pytest.fixture(name="scene")
def fixture_scene(scene: Scene) -> Scene:
    """Everybody may enter the directory of this scene."""
    scene.directory.chmod(0o755)
    return scene


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
    # Although the socket was made by root.
    far.wait_for_log(rf"channel 0: up, .*; the other end is uid {NOBODY} gid {gid}\b")
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


ROOT_WARNING = r"warn +running as root without --user: .*give --user USER"


@as_root
def test_staying_root_is_warned_about_and_nothing_else_is(scene: Scene) -> None:
    args = ["-c", f"unix-listen:{scene.addresses.abstract().spec}"]
    scene.daemon(*args).wait_for_log(ROOT_WARNING)
    ordinary = ["setpriv", "--reuid=41001", "--regid=41001", "--clear-groups"]
    for quiet in (
        scene.daemon(*args[:-1], f"unix-listen:{scene.addresses.abstract().spec}", "--user", "nobody"),
        scene.daemon(
            *args[:-1], f"unix-listen:{scene.addresses.abstract().spec}", wrapper=ordinary
        ),
    ):
        assert not [line for line in quiet.err.lines() if "running as root" in line]


PR_GET_DUMPABLE = 3


@break_in
@pytest.mark.parametrize("user", [(), ("--user", "nobody")], ids=["root", "nobody"])
def test_nobody_dumps_the_process(scene: Scene, user: tuple[str, ...]) -> None:
    """Whatever else is switched off; the sandbox would keep us from asking."""
    channel = scene.addresses.abstract()
    daemon = scene.daemon("-c", f"unix-listen:{channel.spec}", "--sandbox", "off", *user)
    with intrusion.intruder(daemon.pid) as inside:
        assert inside.call("prctl", PR_GET_DUMPABLE, 0, 0, 0, 0) == 0


@as_root
def test_nobody_dumps_the_process_of_an_ordinary_user(scene: Scene) -> None:
    """What belongs to a process that may be dumped is its user's in /proc, and else root's."""
    ordinary = ["setpriv", "--reuid=41001", "--regid=41001", "--clear-groups"]
    channel = scene.addresses.abstract()
    daemon = scene.daemon("-c", f"unix-listen:{channel.spec}", wrapper=ordinary)
    assert SANITIZED or os.stat(f"/proc/{daemon.pid}/fd").st_uid == 0


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
        port.unlink()  # The number of a terminal that is closed is given to the next one.
        if index == 0:
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
    # Which knows no more than that, and says it once.
    stranger.wait_for_log("channel 0: the other end closes every connection at once and sends nothing: is this "
                          r"user or CID on its access list \(--channel-allow-…\)\?")
    friend = scene.daemon(*dial, "--user", "nobody", name="friend")
    friend.wait_up()
    echo_once(door)
    assert not [line for line in stranger.err.lines() if "channel 0: up" in line]
    assert len([line for line in stranger.err.lines() if "closes every connection" in line]) == 1


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
    daemon.terminate()
    channel = f"unix-connect:{scene.addresses.unix().spec}"
    none = "warn .*--socket-mode and --socket-owner have no effect: this process listens on no path"
    for door, option, value, said in ((doors[1], "--socket-owner", "1", True), (doors[0], "--socket-mode", "600", False),
                                      (doors[1], "--user", "nobody", False)):
        if os.getuid() != 0 and option != "--socket-mode":
            continue
        daemon = scene.daemon("-c", channel, *out("x", door), option, value)
        daemon.wait_for_log("ready")
        assert bool(re.search(none, daemon.stderr())) == said
        daemon.terminate()


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
