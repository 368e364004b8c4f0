"""The guest harness itself, without the daemon: what every guest test stands on."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import initramfs, machine
from .control import ControlLost, GuestTimeout
from .machine import BootFailure, Guest, MissingPackage

MIB = 1 << 20


def connect(path: Path | str, timeout: float = 60) -> socket.socket:
    """A connection to one of QEMU's sockets, with a deadline on every call."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(timeout)
    sock.connect(str(path))
    return sock


def receive(sock: socket.socket, count: int) -> bytes:
    """Exactly that many bytes."""
    parts: list[bytes] = []
    while count:
        data = sock.recv(min(count, MIB))
        assert data, "QEMU closed the port"
        parts.append(data)
        count -= len(data)
    return b"".join(parts)


def numbers(count: int) -> bytes:
    """The first bytes of what `seq 1 ...` prints, long enough for the tests here."""
    return b"".join(b"%d\n" % value for value in range(1, count // 4 + 2))[:count]


def gone(pid: int) -> bool:
    """Whether no process has that id (the harness reaps its own)."""
    return not os.path.exists(f"/proc/{pid}")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Guest]:
    folder = tmp_path_factory.mktemp("g")
    (folder / "note").write_text("from the caller\n")
    with Guest(virtio_ports={"bulk": folder / "bulk", "flap": folder / "flap"},
               isa_serials=[folder / "isa1", folder / "isa2"],
               extra_files={"/etc/note": folder / "note"}, cache_dir=cache) as running:
        print(f"booted in {running.boot_seconds:.1f} s")
        yield running
    with pytest.raises(machine.GuestError):
        running.run("true")


def test_commands(guest: Guest) -> None:
    assert guest.run("true") == (0, "")
    assert guest.run("echo one; echo two >&2; exit 7") == (7, "one\ntwo\n")
    assert guest.run("kill -9 $$").status == 137
    assert guest.run("cat; echo 'it''s'\necho \"$HOME\"", stdin=b"in\n") == (0, "in\nits\n/root\n")
    assert guest.run("cat /etc/note").output == "from the caller\n"
    assert guest.check("seq 1 100000").splitlines() == [str(n) for n in range(1, 100001)]
    with pytest.raises(machine.GuestError, match="status 3"):
        guest.check("exit 3")
    # A noisy kernel must not get between: its console is elsewhere.
    guest.check("dmesg -n 8; for n in 1 2 3; do echo \"<0>noise $n\" > /dev/kmsg; done; dmesg -n 1")
    assert "noise 3" in guest.console()
    # No signal is ignored in what the harness starts.
    assert guest.run("trap 'echo caught' INT; kill -INT $$").output == "caught\n"


def test_several_commands_at_once(guest: Guest) -> None:
    waiting = guest.start("until [ -e /tmp/go ]; do usleep 10000; done; echo went; exit 5")
    assert waiting.alive()
    assert guest.run("touch /tmp/go") == (0, "")
    assert waiting.wait() == 5
    assert waiting.log() == "went\n"
    assert not waiting.alive()


def test_command_deadline_kills(guest: Guest) -> None:
    with pytest.raises(GuestTimeout, match="sleep 1000"):
        guest.run("sleep 1000 | cat", timeout=0.5)
    guest.wait_for("! pidof sleep")
    with pytest.raises(GuestTimeout, match="last output: not yet"):
        guest.wait_for("echo not yet; false", timeout=1)


def test_background_process(guest: Guest) -> None:
    process = guest.start(["sleep", "1000"])
    assert process.alive()
    assert guest.check(f"cat /proc/{process.pid}/comm") == "sleep\n"
    process.kill(9)
    assert not process.alive()
    assert process.wait() == 137
    polite = guest.start("trap 'echo bye; exit 4' TERM; echo up; while :; do usleep 10000; done")
    guest.wait_for(f"grep up {polite.log_path}")
    polite.kill()
    assert polite.wait() == 4
    assert polite.log().splitlines()[-1] == "bye"


def test_files(guest: Guest, tmp_path: Path) -> None:
    data = random.Random(1).randbytes(MIB + 12345)
    (tmp_path / "file").write_bytes(data)
    (tmp_path / "file").chmod(0o755)
    guest.put(tmp_path / "file", "/tmp/a file")
    assert guest.check("stat -c %a '/tmp/a file'; sha256sum < '/tmp/a file'").split()[:2] == [
        "755", hashlib.sha256(data).hexdigest()]
    assert guest.get("/tmp/a file") == data
    with pytest.raises(machine.GuestError, match="cannot get /tmp/absent"):
        guest.get("/tmp/absent")


def test_virtio_port_carries_8_mib_each_way(guest: Guest) -> None:
    data = numbers(8 * MIB)
    with connect(guest.virtio_ports["bulk"]) as sock:
        writer = guest.start(f"seq 1 {len(data)} 2> /dev/null | head -c {len(data)} "
                             "> /dev/virtio-ports/bulk")
        received = receive(sock, len(data))
        assert writer.wait() == 0
        assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()

        data = random.Random(2).randbytes(8 * MIB)
        reader = guest.start("dd if=/dev/virtio-ports/bulk bs=65536 count=128 iflag=fullblock "
                             "2> /dev/null | sha256sum")
        sock.sendall(data)
        assert reader.wait() == 0
        assert reader.log().split()[0] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("index", [0, 1])
def test_isa_serial_carries_64_kib_each_way(guest: Guest, index: int) -> None:
    tty = f"/dev/ttyS{index + 1}"
    with connect(guest.isa_serials[index]) as sock:
        # The tty echoes and translates until it is raw, and opening it clears the input FIFO:
        # so the guest speaks first. Closing it may drop what has not been sent: so the host has the
        # last word.
        reader = guest.start(f"exec 3<> {tty} && stty raw -echo <&3 && printf R >&3 && "
                             "head -c 65536 <&3 | sha256sum && seq 1 65536 | head -c 65536 >&3 && "
                             "head -c 1 <&3 > /dev/null")
        assert receive(sock, 1) == b"R"
        data = random.Random(3).randbytes(65536)
        sock.sendall(data)
        assert receive(sock, 65536) == numbers(65536)
        sock.sendall(b".")
        assert reader.wait() == 0
        assert reader.log().split()[0] == hashlib.sha256(data).hexdigest()


def test_http_inside_the_guest(guest: Guest) -> None:
    guest.check("echo hello from the guest > /var/www/index.html")
    server = guest.start(["httpd", "-f", "-p", "127.0.0.1:8080", "-h", "/var/www"])
    assert guest.wait_for("wget -q -O - http://127.0.0.1:8080/") == "hello from the guest"
    server.kill()
    server.wait()
    assert guest.run("wget -q -O - http://127.0.0.1:8080/").status != 0


def test_vsock_loopback_is_there(guest: Guest) -> None:
    assert guest.run("grep -q ^vsock_loopback /proc/modules && [ -c /dev/vsock ]").status == 0


def test_host_side_of_a_port_comes_and_goes(guest: Guest) -> None:
    writer = guest.start("while :; do echo tick; usleep 5000; done > /dev/virtio-ports/flap")
    for _ in range(5):
        with connect(guest.virtio_ports["flap"]) as sock:
            assert b"tick" in receive(sock, 20)
    assert writer.alive()
    writer.kill(9)
    # A blocking read ends with 0 bytes when the host goes, and at once while it is away.
    # The port stays open meanwhile: closing it would throw away what has just arrived.
    reader = guest.start("exec 3< /dev/virtio-ports/flap; while :; do cat <&3; usleep 5000; done")
    for turn in range(5):
        with connect(guest.virtio_ports["flap"]) as sock:
            sock.sendall(b"turn %d\n" % turn)
            guest.wait_for(f"grep 'turn {turn}' {reader.log_path}")
    assert reader.alive()
    reader.kill(9)


def test_pause(guest: Guest) -> None:
    guest.vm_pause()
    try:
        with pytest.raises(GuestTimeout):
            guest.run("true", timeout=0.5)
    finally:
        guest.vm_resume()
    assert guest.run("echo back") == (0, "back\n")


def test_image_is_deterministic_and_cached(tmp_path: Path) -> None:
    first = initramfs.build(tmp_path / "1", tmp_path / "cache")
    cached = list((tmp_path / "cache").iterdir())
    again = initramfs.build(tmp_path / "2", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == cached and os.path.samefile(first, again)
    elsewhere = initramfs.build(tmp_path / "3", tmp_path / "other")
    assert first.read_bytes() == elsewhere.read_bytes()
    (tmp_path / "extra").write_text("x")
    more = initramfs.build(tmp_path / "4", tmp_path / "cache",
                           extra_files={"/opt/x": tmp_path / "extra"})
    assert more.read_bytes() != first.read_bytes()
    with pytest.raises(machine.GuestError, match="not statically linked"):
        initramfs.build(tmp_path / "5", tmp_path / "cache", extra_files={"/bin/py": "/bin/bash"})


def test_what_is_missing_names_its_package(tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingPackage, match="linux-image-cloud-amd64"):
        initramfs.find_kernel(tmp_path, tmp_path)
    with pytest.raises(MissingPackage, match="busybox-static"):
        initramfs.find_busybox([str(tmp_path / "busybox"), "/bin/bash"])
    monkeypatch.setattr(machine, "QEMU", "qemu-system-absent")
    with pytest.raises(MissingPackage, match="qemu-system-x86"):
        Guest().__enter__()


def test_boot_panic_is_tried_again_and_shown(cache: Path, monkeypatch: pytest.MonkeyPatch,
                                             capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(machine, "KERNEL_ARGUMENTS", machine.KERNEL_ARGUMENTS
                        + " rdinit=/absent init=/absent")
    broken = Guest(cache_dir=cache)
    with pytest.raises(BootFailure, match="Kernel panic"):
        broken.__enter__()
    assert broken.boot_attempts == 2
    assert "BOOT FAILED, TRYING ONCE MORE" in capfd.readouterr().err


def test_later_panic_is_told_at_once_and_nothing_stays(cache: Path) -> None:
    with Guest(cache_dir=cache) as doomed:
        pid, folder = doomed.pid, doomed.work_dir
        began = time.monotonic()
        with pytest.raises(ControlLost, match="Kernel panic"):
            doomed.run("echo c > /proc/sysrq-trigger", timeout=60)
        assert time.monotonic() - began < 30
    assert gone(pid) and not folder.exists()
