"""Lines on standard output that is not read, not its user's own, or on a full disk."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from collecting import Collecting, batches, text_of
from harness import Daemon, Scene
from log_guest import Log
from processes import runs
from stage import eventually

LINES = [b"number %d of some" % number for number in range(3000)]


def to_socket(path: str) -> list[str]:
    """The same, as a service manager does."""
    return [sys.executable, "-c", "import os, socket, sys; sock = socket.socket(socket.AF_UNIX); "
            f"sock.connect({path!r}); os.dup2(sock.fileno(), 1); os.execvp(sys.argv[1], sys.argv[1:])"]


def to_file(path: str | Path) -> list[str]:
    """Runs a program with its standard output there, as a shell does."""
    return ["sh", "-c", f'exec "$@" >>{path}', "sh"]


@contextmanager
def unread(scene: Scene, kind: str) -> Iterator[tuple[list[str], Callable[[], int]]]:
    """How a program is run that writes there, and what gives the descriptor that reads it."""
    if kind == "socket":
        path = str(scene.directory / "socket")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            yield to_socket(path), lambda: listener.accept()[0].detach()
        return
    if kind == "terminal":
        reader, writer = os.openpty()
        path = os.ttyname(writer)
    else:
        path = str(scene.directory / "fifo")
        os.mkfifo(path, 0o600)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        writer = os.open(path, os.O_WRONLY)
    try:
        yield to_file(path), lambda: reader
    finally:
        os.close(reader)
        os.close(writer)


def received(reader: int, enough: Callable[[bytes], bool]) -> list[bytes]:
    os.set_blocking(reader, False)
    data = b""

    def more() -> bool:
        nonlocal data
        while True:
            try:
                piece = os.read(reader, 1 << 16)
            except BlockingIOError:
                piece = b""
            if not piece:
                return enough(data)
            data += piece

    eventually("all is written", more)
    # A line may be cut off where the daemon was stopped.
    return [text_of(json.loads(line)) for line in data.split(b"\n")[:-1]]


def flags_of_stdout(daemon: Daemon) -> int:
    text = Path(f"/proc/{daemon.pid}/fdinfo/1").read_text(encoding="ascii")
    found = re.search(r"flags:\s+([0-7]+)", text)
    assert found
    return int(found.group(1), 8)


@pytest.mark.parametrize("kind", ["terminal", "pipe", "socket"])
@pytest.mark.parametrize("reads", [False, True], ids=["never-read", "read-later"])
def test_output_that_is_not_read_holds_up_neither_other_sinks_nor_the_end(
    scene: Scene, kind: str, reads: bool
) -> None:
    """The mode of the open file, which a shell may share, stays as it is."""
    file = scene.directory / "guests.json"
    with unread(scene, kind) as (wrapper, reader):
        collecting = Collecting(scene, ["stdout", f"file:{file},format=json"])
        daemon = collecting.start("--drain-timeout", "1", wrapper=wrapper)
        guest = collecting.guest()
        log = Log()
        assert guest.begin(log)
        for part in batches(LINES):
            assert guest.send(log.add(part))
        eventually("the file has them", lambda: file.read_bytes().count(b"\n") == len(LINES))
        assert log.acked < log.position
        assert flags_of_stdout(daemon) & os.O_NONBLOCK == 0
        if reads:
            assert received(reader(), lambda data: data.count(b"\n") == len(LINES)) == LINES
            assert guest.wait_acked(log)
        daemon.terminate()
        guest.peer.close()


def test_output_of_another_user_is_written_through_a_process_of_its_own(scene: Scene) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with unread(scene, "pipe") as (wrapper, reader):
        # The user that the daemon becomes makes its sockets here.
        scene.directory.chmod(0o777)
        collecting = Collecting(scene, ["stdout"])
        daemon = collecting.start("--user", "65534:65534", "--drain-timeout", "1", wrapper=wrapper)
        children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text(encoding="ascii").split()
        assert [Path(f"/proc/{child}/comm").read_text(encoding="ascii") for child in children] == ["virtproxy-out\n"]
        guest = collecting.guest()
        log = Log()
        assert guest.begin(log)
        for part in batches(LINES):
            assert guest.send(log.add(part))
        eventually("more is there than a pipe holds", lambda: daemon.stats().channels["vm1"]["log_held"] > 0)
        daemon.terminate()
        guest.peer.close()
        texts = received(reader(), lambda _: not runs(children[0]))
        assert texts == LINES[: len(texts)] and len(texts) * 100 > 64 << 10, "what it was given before the end"


def test_a_process_of_its_own_ends_with_its_reader(scene: Scene) -> None:
    """Without a write: what it would be given until then is acknowledged and lost."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    scene.directory.chmod(0o777)
    path = str(scene.directory / "fifo")
    os.mkfifo(path, 0o600)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    collecting = Collecting(scene, ["stdout"])
    daemon = collecting.start("--user", "65534:65534", wrapper=to_file(path))
    children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text(encoding="ascii").split()
    guest = collecting.guest()
    log = Log()
    assert guest.begin(log)
    assert guest.send(log.add([b"read"]))
    assert guest.wait_acked(log)
    assert received(reader, lambda data: data.endswith(b"\n")) == [b"read"]
    assert runs(children[0])
    os.close(reader)
    eventually("it has ended", lambda: not runs(children[0]))
    assert guest.send(log.add([b"not read"]))
    daemon.wait_for_log("no more lines are taken")
    assert log.acked < log.position
    guest.peer.close()


def test_a_pseudo_terminal_that_is_left_may_be_opened_again(scene: Scene) -> None:
    """Standard output is its master, which is hung up for as long as nobody has the other end open."""
    place = scene.directory / "name"
    code = ("import os, sys, tty; master, slave = os.openpty(); tty.setraw(slave); "
            f"open({str(place)!r}, 'w').write(os.ttyname(slave)); os.dup2(master, 1); "
            "os.execvp(sys.argv[1], sys.argv[1:])")
    collecting = Collecting(scene, ["stdout"])
    daemon = collecting.start(wrapper=[sys.executable, "-c", code])
    guest = collecting.guest()
    log = Log()
    assert guest.begin(log)
    for line in (b"one", b"two"):
        reader = os.open(place.read_text(encoding="ascii"), os.O_RDONLY | os.O_NOCTTY)
        assert guest.send(log.add([line]))
        assert received(reader, lambda data: data.endswith(b"\n")) == [line]
        os.close(reader)
    assert guest.wait_acked(log)
    daemon.terminate()
    guest.peer.close()


def test_lines_wait_while_the_disk_is_full(scene: Scene) -> None:
    """None is lost or doubled."""
    disk = scene.directory / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "none", disk], check=False).returncode != 0:
        pytest.skip("cannot mount")
    scene.cleanup(lambda: subprocess.run(["umount", "-l", disk], check=True))
    file, other = disk / "lines", disk / "other"
    other.write_bytes(bytes(64 << 10))
    collecting = Collecting(scene, ["stdout"])
    daemon = collecting.start(wrapper=to_file(file))
    lines = LINES[:500]
    guest = collecting.guest()
    log = Log()
    assert guest.begin(log)
    for part in batches(lines, 4096):
        assert guest.send(log.add(part))
    daemon.wait_for_log("standard output: No space left on device: lines wait")
    assert log.acked < log.position
    other.unlink()
    daemon.wait_for_log("standard output: written again")
    assert guest.wait_acked(log)
    assert [text_of(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()] == lines
    guest.peer.close()
