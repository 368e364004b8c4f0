"""Files, ports and sockets that a running daemon does not need, asked for from inside it.

Each call is one that the filter of system calls lets pass, because the daemon makes the same one with
another path or port.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import intruder as intrusion
from addresses import Address
from confined import as_root, break_in, with_etc
from harness import BIN, Daemon, Pair, Scene, into, out
from intruder import intruder
from name_server import NameServer
from stage import echo_once, expect_client_reset, wait_for_echo

ABI = ctypes.CDLL(None).syscall(444, None, 0, 1)
AT_FDCWD = -100 & 0xFFFFFFFF
MSG_FASTOPEN = 0x20000000
IPPROTO_MPTCP = 262
DEVICE_FLAGS = os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
WITHOUT_CALL = Path(__file__).with_name("without_call.py")


def governed(abi: int) -> pytest.MarkDecorator:
    return pytest.mark.skipif(ABI < abi, reason=f"this kernel's Landlock has ABI {ABI}, not {abi}")


@pytest.fixture(name="scene")
def fixture_scene(scene: Scene) -> Scene:
    """Everybody may enter the directory of this scene."""
    scene.directory.chmod(0o755)
    return scene


@pytest.fixture(name="elsewhere")
def fixture_elsewhere() -> Iterator[Path]:
    """A directory in which no path of a command line is."""
    directory = Path(tempfile.mkdtemp(prefix="vp-else-"))
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)


def internet(port: int) -> bytes:
    return b"\x02\x00" + port.to_bytes(2, "big") + b"\x7f\x00\x00\x01".ljust(12, b"\0")


def listening(scene: Scene, family: int = socket.AF_INET, place: object = ("127.0.0.1", 0)):
    sock = socket.socket(family)
    sock.bind(place)
    sock.listen()
    scene.cleanup(sock.close)
    return sock


def two_threads(scene: Scene, *args: str) -> tuple[Daemon, Address]:
    """Looks names up, unlinks its paths, dials a port; two workers. With the port that it dials."""
    service = scene.echo_service()
    channels = [scene.addresses.unix() for _ in range(2)]
    door = scene.addresses.unix()
    daemon = scene.daemon(
        *("-c", f"unix-listen:{channels[0].spec}", "-c", f"unix-listen:{channels[1].spec}"),
        *("-i", f"echo:localhost:{service.port}:1", "--threads", "2", *args),
        channels=(0, 1),
    )
    daemon.intruded = True
    far = scene.daemon(*("-c", f"unix-connect:{channels[1].spec}"), *out("echo", door))
    far.wait_up()
    echo_once(door)
    return daemon, service


# --- refused, in every thread -------------------------------------------------------------------


@break_in
@governed(1)
@pytest.mark.parametrize("user", [(), ("--user", "nobody")], ids=["root", "nobody"])
def test_files_of_others_are_neither_read_nor_removed(
    scene: Scene, elsewhere: Path, user: tuple[str, ...]
) -> None:
    secret = elsewhere / "secret"
    secret.write_text("secret", encoding="ascii")
    secret.chmod(0o666)
    daemon, _ = two_threads(scene, *user)
    threads = intrusion.threads(daemon.pid)
    assert len(threads) >= 3
    for tid in threads:
        with intruder(daemon.pid, tid) as inside:
            for path in (bytes(secret), b"/proc/self/maps", b"/proc/1/environ", b"/usr/bin/env"):
                assert inside.call("openat", AT_FDCWD, path, os.O_RDONLY) == -errno.EACCES, path
            assert inside.call("unlink", bytes(secret)) == -errno.EACCES
            # What looking names up takes.
            assert inside.call("openat", AT_FDCWD, b"/etc/hosts", os.O_RDONLY) >= 0
    assert secret.exists()


@break_in
@governed(4)
def test_no_port_is_connected_to_but_those_that_are_dialled(scene: Scene) -> None:
    other = listening(scene).getsockname()[1]
    daemon, service = two_threads(scene)
    for tid in intrusion.threads(daemon.pid):
        with intruder(daemon.pid, tid) as inside:
            fd = inside.call("socket", socket.AF_INET, socket.SOCK_STREAM, 0)
            assert fd >= 0
            assert inside.call("connect", fd, internet(other), 16) == -errno.EACCES
            assert inside.call("connect", fd, internet(service.port), 16) == 0


@break_in
@governed(4)
def test_the_ways_around_the_ports_are_closed(scene: Scene) -> None:
    """Landlock sees neither fast opens nor other protocols over the same addresses."""
    other = listening(scene).getsockname()[1]
    daemon, _ = two_threads(scene)
    with intruder(daemon.pid) as inside:
        fd = inside.call("socket", socket.AF_INET, socket.SOCK_STREAM, 0)
        sent = inside.call("sendto", fd, b"x", 1, MSG_FASTOPEN, internet(other), 16)
        assert sent == -errno.EPERM
        for protocol in (IPPROTO_MPTCP, socket.IPPROTO_SCTP):
            made = inside.call("socket", socket.AF_INET, socket.SOCK_STREAM, protocol)
            assert made == -errno.EPERM, protocol


@break_in
@governed(6)
def test_abstract_sockets_are_reached_only_where_one_is_dialled(scene: Scene) -> None:
    place = f"\0{scene.directory.name}-other"
    listening(scene, socket.AF_UNIX, place)
    address = b"\x01\x00" + place.encode("ascii")
    for service, wanted in (
        (scene.addresses.unix(), -errno.EPERM),
        (scene.addresses.abstract(), 0),
    ):
        scene.serve("echo", service)
        door = scene.addresses.unix()
        pair = Pair(scene, "unix", near=into("echo", service), far=out("echo", door))
        echo_once(door)
        for tid in intrusion.threads(pair.near.pid):
            with intruder(pair.near.pid, tid) as inside:
                fd = inside.call("socket", socket.AF_UNIX, socket.SOCK_STREAM, 0)
                assert inside.call("connect", fd, address, len(address)) == wanted, service.spec


@break_in
@governed(1)
def test_what_is_opened_like_a_device_is_in_the_directory_of_devices(
    scene: Scene, elsewhere: Path
) -> None:
    secret = elsewhere / "secret"
    secret.write_text("secret", encoding="ascii")
    port = scene.directory / "port"
    master, slave = os.openpty()
    port.symlink_to(os.ttyname(slave))
    (scene.directory / "beside").write_text("secret", encoding="ascii")
    daemon = scene.daemon("-c", f"isa-serial:{port}:-")
    for tid in intrusion.threads(daemon.pid):
        with intruder(daemon.pid, tid) as inside:
            for path in (secret, scene.directory / "beside", "/etc/passwd"):
                opened = inside.call("openat", AT_FDCWD, os.fsencode(path), DEVICE_FLAGS)
                assert opened == -errno.EACCES, path
            assert inside.call("openat", AT_FDCWD, b"/dev/null", DEVICE_FLAGS) >= 0
    port.unlink()  # The number of a terminal that is closed is given to the next one.
    os.close(master)
    os.close(slave)


# --- what must go on working --------------------------------------------------------------------


@as_root
def test_a_device_that_comes_later_is_opened(scene: Scene) -> None:
    """As a link to nothing, then as a link to a tty: what udev does when a port is plugged in."""
    link = scene.directory / "port"
    link.symlink_to(scene.directory / "not-there")
    daemon = scene.daemon("-c", f"isa-serial:{link}:-")
    daemon.wait_for_log("No such file")
    master, slave = os.openpty()
    link.unlink()
    link.symlink_to(os.ttyname(slave))
    assert os.read(master, 4) == b"\x01\x00\x00\x00"  # A greeting.
    link.unlink()  # The number of a terminal that is closed is given to the next one.
    os.close(slave)
    os.close(master)


@as_root
def test_a_service_s_directory_may_come_later(scene: Scene) -> None:
    service, door = Address("unix", str(scene.directory / "later" / "s")), scene.addresses.unix()
    Pair(scene, "unix", near=into("echo", service), far=out("echo", door))
    expect_client_reset(door, 12)
    (scene.directory / "later").mkdir()
    scene.serve("echo", service)
    wait_for_echo(door)


@as_root
def test_a_replaced_resolv_conf_is_read(scene: Scene) -> None:
    """Another file of the same name, as DHCP clients write it."""
    server = NameServer("127.0.0.79")
    scene.cleanup(server.close)
    wrapper, etc = with_etc(scene, resolv_conf="nameserver 127.0.0.78\noptions timeout:1\n")
    service, channel = scene.echo_service(), scene.addresses.unix()
    door = scene.addresses.tcp()
    scene.daemon(
        *("-c", f"unix-listen:{channel.spec}", "--user", "nobody"),
        *("-i", f"x:far.test.:{service.port}"),
        wrapper=wrapper,
    )
    near = scene.daemon("-c", f"unix-connect:{channel.spec}", *out("x", door))
    near.wait_up()
    expect_client_reset(door, 12)
    (etc / "new").write_text("nameserver 127.0.0.79\noptions timeout:2\n", encoding="ascii")
    os.replace(etc / "new", etc / "resolv.conf")
    wait_for_echo(door)
    assert server.asked["tcp"] > 0


# --- without ------------------------------------------------------------------------------------


@break_in
@governed(1)
@pytest.mark.parametrize("args", [("--disable", "landlock"), ("--sandbox", "off")], ids=" ".join)
def test_without_landlock_the_same_calls_work(
    scene: Scene, elsewhere: Path, args: tuple[str, ...]
) -> None:
    """What the tests above refuse is what Landlock refuses."""
    secret = elsewhere / "secret"
    secret.write_text("secret", encoding="ascii")
    other = listening(scene).getsockname()[1]
    daemon, _ = two_threads(scene, *args)
    if args[0] == "--disable":
        daemon.wait_for_log("files and ports are not confined: --disable landlock")
    with intruder(daemon.pid) as inside:
        assert inside.call("openat", AT_FDCWD, bytes(secret), os.O_RDONLY) >= 0
        fd = inside.call("socket", socket.AF_INET, socket.SOCK_STREAM, 0)
        assert inside.call("connect", fd, internet(other), 16) == 0
        assert inside.call("unlink", bytes(secret)) == 0


@break_in
def test_where_landlock_is_forbidden_it_says_so_and_goes_on(scene: Scene) -> None:
    wrapper = [sys.executable, WITHOUT_CALL, "landlock_create_ruleset"]
    channel = scene.addresses.unix()
    daemon = scene.daemon("-c", f"unix-listen:{channel.spec}", wrapper=wrapper)
    daemon.wait_for_log("info +files and ports are not confined: Landlock is forbidden here")
    features = subprocess.run(
        [*wrapper, BIN / "virtproxy", "--features"], capture_output=True, text=True, check=True
    )
    assert re.search(r"^landlock no$", features.stdout, re.MULTILINE)


@break_in
@governed(1)
def test_features_has_it() -> None:
    features = subprocess.run(
        [BIN / "virtproxy", "--features"], capture_output=True, text=True, check=True
    )
    assert re.search(r"^landlock yes$", features.stdout, re.MULTILINE)
