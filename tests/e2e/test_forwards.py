"""Every kind of door and service, several channels in one process, and real applications."""

from __future__ import annotations

import getpass
import hashlib
import itertools
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from addresses import Address
from harness import PATIENCE, Daemon, Pair, Scene, into, out
from stage import carry, eventually, receive_all

KINDS = ("tcp", "tcp6", "name", "unix", "abstract")
FILE_SIZE = 64 * 1024 * 1024


def exchange(scene: Scene, door: Address, service: Address, *args: str | int) -> None:
    ends = ("--connect", door.traffic, "--listen", service.traffic)
    scene.traffic("exchange", *ends, *args)


def test_every_kind_of_door_leads_to_every_kind_of_service(scene: Scene, kind: str) -> None:
    """All at once in one pair, and in both directions."""
    near: list[str] = []
    far: list[str] = []
    ways: list[tuple[Address, Address]] = []
    combinations = itertools.product(KINDS, KINDS, (True, False))
    for number, (door_kind, service_kind, forth) in enumerate(combinations):
        door = scene.addresses.of_kind(door_kind)
        service = scene.addresses.of_kind(service_kind)
        near += out(f"s{number}", door) if forth else into(f"s{number}", service)
        far += into(f"s{number}", service) if forth else out(f"s{number}", door)
        ways.append((door, service))
    pair = Pair(scene, kind, near, far)
    descriptors = pair.descriptors()
    for door, service in ways:
        exchange(scene, door, service, "--streams", 8, "--bytes", "128K", "--kill", 2)
        exchange(scene, door, service, "--streams", 4, "--bytes", "64K", "--half-close")
    pair.wait_at_rest(descriptors)


@pytest.mark.parametrize("channel_kind", ["tcp6", "name", "abstract"])
def test_channels_of_the_other_kinds_work(scene: Scene, channel_kind: str) -> None:
    service = scene.addresses.tcp()
    pair, doors = carry(scene, channel_kind, {"service": service})
    exchange(scene, doors["service"], service, "--streams", 20, "--bytes", "1M", "--kill", 5)
    pair.wait_at_rest()


def test_a_vsock_channel_works(scene: Scene) -> None:
    check = (
        "import socket; s = socket.socket(socket.AF_VSOCK); s.bind((1, 50505)); s.listen();"
        "c = socket.socket(socket.AF_VSOCK); c.settimeout(1); c.connect((1, 50505))"
    )
    probe = subprocess.run([sys.executable, "-c", check], capture_output=True, timeout=30)
    if probe.returncode != 0:
        pytest.skip("no vsock loopback on this machine")
    service = scene.addresses.tcp()
    pair, doors = carry(scene, "vsock", {"service": service})
    exchange(scene, doors["service"], service, "--streams", 20, "--bytes", "1M", "--kill", 5)
    pair.wait_at_rest()


def several_channels(
    scene: Scene, threads: int
) -> tuple[Daemon, Daemon, list[tuple[Address, Address]]]:
    """Two daemons with four channels; each carries a service of the same name to another place."""
    ways = []
    near: list[str] = ["--threads", str(threads)]
    far: list[str] = ["--threads", str(threads)]
    for index, kind in enumerate(("unix", "tcp", "abstract", "tcp6")):
        channel = scene.addresses.of_kind(kind)
        method = "tcp" if channel.is_tcp else "unix"
        near += ["-c", f"{method}-listen:{channel.spec}:{index}"]
        far += ["-c", f"{method}-connect:{channel.spec}:{index}"]
        door, service = scene.addresses.tcp(), scene.addresses.tcp()
        near += out("same-name", door, index)
        far += into("same-name", service, index)
        ways.append((door, service))
    channels = tuple(range(4))
    daemons = [
        scene.daemon(*args, name=name, channels=channels)
        for args, name in ((near, "near"), (far, "far"))
    ]
    for daemon in daemons:
        for index in channels:
            daemon.wait_up(index)
    return daemons[0], daemons[1], ways


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_channels_in_one_process_keep_to_their_own_forwards(scene: Scene, threads: int) -> None:
    """The tool's greeting proves that each door leads to its own service."""
    near, far, ways = several_channels(scene, threads)
    runs = []
    for door, service in ways:
        ends = ("--connect", door.traffic, "--listen", service.traffic)
        args = ("--streams", 50, "--bytes", "2M", "--kill", 20)
        runs.append(scene.start_traffic("exchange", *ends, *args))
    for run in runs:
        run.result(120 * PATIENCE)
    near.wait_at_rest()
    far.wait_at_rest()


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_as_many_as_asked_for(scene: Scene, threads: int) -> None:
    near, _, _ = several_channels(scene, threads)
    status = Path(f"/proc/{near.pid}/status").read_text(encoding="ascii")
    count = int(status.split("Threads:")[1].split()[0])
    assert count >= threads


def make_file(path: Path) -> str:
    """A large file of drawn bytes; returns its digest."""
    data = random.Random(42).randbytes(FILE_SIZE)
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def fetch(scene: Scene, door: Address, digest: str) -> None:
    """curl, four at a time, over TCP and over the door's unix socket alike."""
    where = ["--unix-socket", door.place] if not door.is_tcp else []
    host = door.traffic if door.is_tcp else "localhost"
    runs = []
    for index in range(4):
        target = scene.directory / f"fetched-{index}"
        command = ["curl", "-fsS", "--noproxy", "*", *where, "-o", target, f"http://{host}/file"]
        runs.append((scene.spawn(command), target))
    for run, target in runs:
        assert run.wait(120 * PATIENCE) == 0, run.everything()
        assert hashlib.sha256(target.read_bytes()).hexdigest() == digest
        target.unlink()


def wait_listening(address: Address) -> None:
    def listens() -> bool:
        try:
            address.connect(1).close()
        except OSError:
            return False
        return True

    eventually(f"a listener at {address.traffic}", listens)


@pytest.mark.parametrize("door_kind", ["tcp", "unix"])
def test_curl_fetches_from_pythons_http_server(scene: Scene, kind: str, door_kind: str) -> None:
    root = scene.directory / "www"
    root.mkdir()
    digest = make_file(root / "file")
    server = scene.addresses.tcp()
    args = ["-m", "http.server", "--bind", server.place, "--directory", root, server.port]
    scene.spawn([sys.executable, *map(str, args)], name="http.server")
    wait_listening(server)
    pair, doors = carry(scene, kind, {"http": server}, door_kind)
    fetch(scene, doors["http"], digest)
    pair.wait_at_rest()


@pytest.mark.parametrize("server_kind", ["tcp", "unix"])
def test_curl_fetches_from_nginx(scene: Scene, kind: str, server_kind: str) -> None:
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    assert nginx, "nginx is missing: install nginx-light"
    root = scene.directory / "www"
    root.mkdir()
    scene.directory.chmod(0o755)  # nginx's workers are another user.
    digest = make_file(root / "file")
    server = scene.addresses.of_kind(server_kind)
    listen = server.traffic if server.is_tcp else f"unix:{server.place}"
    temporary = "".join(
        f"{name}_temp_path {scene.directory}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = scene.directory / "nginx.conf"
    config.write_text(
        f"daemon off; master_process off; pid {scene.directory}/nginx.pid; error_log stderr; worker_processes 1;\n"
        "events { }\n"
        f"http {{ access_log off; {temporary} server {{ listen {listen}; root {root}; }} }}\n",
        encoding="utf-8",
    )
    scene.spawn([nginx, "-c", config, "-p", scene.directory, "-e", "stderr"], name="nginx")
    wait_listening(server)
    pair, doors = carry(scene, kind, {"http": server})
    fetch(scene, doors["http"], digest)
    for connections in range(20):
        with doors["http"].connect(10) as client:  # Many short requests, closed by the server.
            client.sendall(b"GET /missing HTTP/1.0\r\n\r\n")
            assert b"404" in receive_all(client).splitlines()[0], connections
    pair.wait_at_rest()


def start_sshd(scene: Scene) -> tuple[Address, Path]:
    """A real sshd for the current user only, with its own keys; returns where and the key."""
    sshd = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin")
    assert sshd, "sshd is missing: install openssh-server"
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # What its service unit would do.
    for name in ("host_key", "user_key"):
        key = scene.directory / name
        scene.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key])
    server = scene.addresses.tcp()
    config = scene.directory / "sshd_config"
    config.write_text(
        f"ListenAddress {server.place}:{server.port}\n"
        f"HostKey {scene.directory}/host_key\n"
        f"AuthorizedKeysFile {scene.directory}/user_key.pub\n"
        "PidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin prohibit-password\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\n",
        encoding="utf-8",
    )
    scene.spawn([sshd, "-D", "-e", "-f", config], name="sshd")
    wait_listening(server)
    return server, scene.directory / "user_key"


def test_ssh_works_through_the_proxy(scene: Scene, kind: str) -> None:
    server, key = start_sshd(scene)
    pair, doors = carry(scene, kind, {"ssh": server})
    ssh = ["ssh", "-F", "none", "-i", str(key), "-p", str(doors["ssh"].port)]
    for option in (
        *("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes"),
        *("LogLevel=ERROR", "IdentitiesOnly=yes"),
    ):
        ssh += ["-o", option]
    ssh += [f"{getpass.getuser()}@{doors['ssh'].place}"]
    zeros = 10 * 1024 * 1024
    told = scene.run([*ssh, f"head -c {zeros} /dev/zero | sha256sum"]).stdout()
    assert told.split()[0] == hashlib.sha256(bytes(zeros)).hexdigest()
    fetched = scene.run([*ssh, f"head -c {zeros} /dev/zero | tr '\\0' 'x'"]).stdout()
    assert len(fetched) == zeros and set(fetched) == {"x"}
    pair.wait_at_rest()
