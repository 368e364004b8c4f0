"""virtagent freezes the only file system of its root: what waits for that, what is refused, and that it thaws."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent_ends import Line, await_that, call, takes_connections
from harness import BIN, PATIENCE, Scene
from processes import Process

# Holds a file system frozen until its input ends.
HOLD = """import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
fcntl.ioctl(fd, 0xC0045877, 0)
print("frozen", flush=True)
sys.stdin.read()
fcntl.ioctl(fd, 0xC0045878, 0)
"""


class Root:
    """A root with one file system on a device, at /mnt, so that nothing else can be frozen."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.path, self.outer = scene.directory / "root", scene.directory / "outer"
        for name in ("proc", "dev", "mnt"):
            (self.path / name).mkdir(parents=True)
        self.outer.mkdir()
        (self.path / "virtagent").write_bytes((BIN / "virtagent-static").read_bytes())
        (self.path / "virtagent").chmod(0o755)

    def _format(self, image: str, mebibytes: int) -> None:
        path = self.scene.directory / image
        path.unlink(missing_ok=True)
        with path.open("wb") as file:
            file.truncate(mebibytes << 20)
        if subprocess.run(["mkfs.ext4", "-q", "-F", path], check=False).returncode != 0:
            pytest.skip("no mkfs.ext4")

    def start(self, *args: str, log: str = "") -> Process:
        """An agent that serves /g and is ready. `log` is a file of its root for its log."""
        # The image of what the agent freezes is a file of another file system. While that one is frozen,
        # freezing the inner one waits for its disk.
        self._format("image", 32)
        self._format("inner", 8)
        script = self.scene.directory / "enter"
        here = self.scene.directory
        script.write_text(f"#!/bin/sh\nset -e\nmount --make-rprivate /\nmount -o loop {here}/image {self.outer}\n"
                          f"cp {here}/inner {self.outer}\nmount -o loop {self.outer}/inner {self.path}/mnt\n"
                          f"mount -t proc none {self.path}/proc\necho mounted\n"
                          f"exec chroot {self.path} /virtagent \"$@\"{f' 2>>{self.path}{log}' if log else ''}\n")
        script.chmod(0o755)
        process = self.scene.spawn(["unshare", "-m", script, "guest", "--listen", "/g", "--allow", "fsfreeze",
                                    "--allow-read", "/mnt", "--allow-write", "/mnt", *args], "guest")
        await_that("the agent listens", lambda: process.poll() is not None or takes_connections(self.path / "g"))
        if process.poll() is not None and "mounted" not in process.everything():
            pytest.skip(f"no loop device or mount namespace here: {process.everything()}")
        assert process.poll() is None, process.everything()
        found = call(self.path / "g", "guest-get-fsinfo")
        assert [each["mountpoint"] for each in found] == ["/mnt"], "nothing else"
        return process

    def line(self) -> Line:
        return Line(self.path / "g")

    def waits_for_the_disk(self) -> bool:
        """The process that freezes."""
        for each in Path("/proc").glob("[0-9]*"):
            try:
                if Path(os.readlink(each / "root")) == self.path and ") D " in (each / "stat").read_text():
                    return True
            except OSError:
                continue
        return False

    @contextmanager
    def slow_disk(self, agent: Process) -> Iterator[Callable[[], None]]:
        """The disk of /mnt takes nothing until it is told to."""
        holder = subprocess.Popen(["nsenter", "-t", str(agent.pid), "-m", sys.executable, "-c", HOLD, self.outer],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            assert holder.stdout.readline() == b"frozen\n"
            yield holder.stdin.close
        finally:
            holder.stdin.close()
            holder.wait(10 * PATIENCE)


@pytest.fixture
def root(scene: Scene) -> Root:
    if not (BIN / "virtagent-static").exists():
        pytest.skip("needs virtagent-static")
    return Root(scene)


def inside(process: Process, name: str) -> Path:
    return Path(f"/proc/{process.pid}/root/mnt/{name}")


def write(process: Process) -> threading.Thread:
    writer = threading.Thread(target=lambda: inside(process, "x").write_text("x"), daemon=True)
    writer.start()
    return writer


def request(line: Line, method: str, **arguments: object) -> None:
    line.send(json.dumps({"execute": method, "arguments": arguments}) + "\n")


def test_frozen_file_systems_thaw_by_themselves(root: Root) -> None:
    guest = root.start("--max-freeze", "60")
    with root.line() as line:
        assert line.value("guest-fsfreeze-status") == "thawed"
        assert line.value("guest-fsfreeze-thaw") == 0
        assert line.value("guest-fsfreeze-freeze") == 1
        assert line.value("guest-fsfreeze-status") == "frozen"
        assert line.code("guest-fsfreeze-freeze") == "frozen"
        assert line.code("guest-get-osinfo") == "frozen"
        assert line.value("guest-ping") == {}
        writer = write(guest)
        writer.join(0.2)
        assert writer.is_alive()
        assert line.value("guest-fsfreeze-thaw") == 1
        writer.join(10 * PATIENCE)
        assert not writer.is_alive()
        # The agent is killed.
        assert line.value("guest-fsfreeze-freeze") == 1
        writer = write(guest)
        writer.join(0.2)
        assert writer.is_alive()
        guest.kill()
        writer.join(10 * PATIENCE)
        assert not writer.is_alive()
    (root.path / "g").unlink()
    guest = root.start("--max-freeze", "1")
    with root.line() as line:
        assert line.value("guest-fsfreeze-freeze") == 1
        writer = write(guest)
        guest.err.wait_for("file systems are thawed: they were frozen for as long as", 10 * PATIENCE)
        writer.join(10 * PATIENCE)
        assert not writer.is_alive()
        assert line.value("guest-fsfreeze-status") == "thawed"
    guest.kill()


def test_a_thaw_is_answered_once_they_are_thawed(root: Root) -> None:
    """So that they may be frozen again, and written, at once."""
    guest = root.start()
    with root.line() as line, root.line() as events:
        assert events.value("va-events") == {}
        for _ in range(20):
            assert line.value("guest-fsfreeze-freeze") == 1
            assert line.value("guest-fsfreeze-thaw") == 1
            handle = line.value("guest-file-open", path="/mnt/a", mode="w")
            assert line.value("guest-file-close", handle=handle) == {}
            assert [events.message()["event"] for _ in range(2)] == ["va-frozen", "va-thawed"]
        # An agent that ends tells of it as well.
        assert line.value("guest-fsfreeze-freeze") == 1
        guest.send_signal(signal.SIGTERM)
        assert {events.message()["event"] for _ in range(3)} == {"va-frozen", "va-stopping", "va-thawed"}
    assert guest.wait(10 * PATIENCE) == 0


def test_a_freeze_waits_for_the_end_of_an_upload(root: Root) -> None:
    guest = root.start()
    with root.line() as line, root.line() as upload:
        request(upload, "va-put", path="/mnt/a", size=100)
        assert upload.message()["event"] == "va-continue"
        upload.send(b"x" * 99)
        assert line.code("guest-fsfreeze-freeze") == "busy"
        assert line.value("guest-fsfreeze-status") == "thawed"
        upload.send(b"x")
        assert upload.message()["return"] == {"count": 100}
        assert line.value("guest-fsfreeze-freeze") == 1
        with root.line() as late:
            assert late.code("va-put", path="/mnt/b", size=1) == "frozen"
        assert line.value("guest-ping") == {}
        assert line.value("guest-fsfreeze-thaw") == 1
    # One that is cut off ends as well: its temporary file is removed before.
    with root.line() as line:
        with root.line() as upload:
            request(upload, "va-put", path="/mnt/b", size=100)
            assert upload.message()["event"] == "va-continue"
        await_that("it is frozen", lambda: line.ask("guest-fsfreeze-freeze") == {"return": 1})
        assert line.value("guest-fsfreeze-thaw") == 1
        assert sorted(os.listdir(inside(guest, ""))) == ["a", "lost+found"]


def test_a_file_without_a_name_is_closed_when_they_are_thawed(root: Root) -> None:
    """Its last close removes it, which waits for the file system."""
    guest = root.start()
    for name in ("handle", "download"):
        inside(guest, name).write_bytes(bytes(1 << 20))
    with root.line() as line:
        with root.line() as handle, root.line() as download:
            assert handle.value("guest-file-open", path="/mnt/handle") > 0
            request(download, "va-get", path="/mnt/download")
            assert download.message()["return"]["size"] == 1 << 20
            for name in ("handle", "download"):
                inside(guest, name).unlink()
            assert line.value("guest-fsfreeze-freeze") == 1
        # Both callers are gone, and a third one is served.
        guest.err.wait_for("va-get .*: io:", 10 * PATIENCE)
        with root.line() as other:
            assert other.value("guest-ping") == {}

        def still_open() -> int:
            return sum("/mnt/" in each for each in guest.open_files())

        assert still_open() == 2
        assert line.value("guest-fsfreeze-thaw") == 1
        await_that("they are closed", lambda: still_open() == 0)


def test_the_log_may_be_in_a_frozen_file_system(root: Root) -> None:
    guest = root.start(log="/mnt/log")
    with root.line() as line:
        assert line.value("guest-fsfreeze-freeze") == 1
        assert line.value("guest-ping") == {}
        assert line.value("guest-fsfreeze-thaw") == 1
        lines = inside(guest, "log").read_text().splitlines()
    for method in ("guest-fsfreeze-freeze", "guest-ping"):
        assert any(each.endswith(f"{method}: ok") for each in lines), lines


def test_nothing_is_written_while_they_are_being_frozen(root: Root) -> None:
    guest = root.start()
    with root.line() as line, root.line() as freezer, root.slow_disk(guest) as go_on:
        request(freezer, "guest-fsfreeze-freeze")
        await_that("it has begun", root.waits_for_the_disk)
        assert line.value("guest-fsfreeze-status") == "frozen"
        with root.line() as late:
            assert late.code("va-put", path="/mnt/b", size=1) == "frozen"
        assert line.code("guest-file-open", path="/mnt/b", mode="w") == "frozen"
        assert line.code("guest-fsfreeze-freeze") == "frozen"
        assert line.value("guest-ping") == {}
        go_on()
        assert freezer.message() == {"return": 1}
        assert line.code("guest-fsfreeze-freeze") == "frozen"
        assert line.value("guest-fsfreeze-thaw") == 1


@pytest.mark.parametrize("by", ["thaw", "caller"])
def test_a_freeze_that_is_undone_before_its_end_freezes_nothing(root: Root, by: str) -> None:
    guest = root.start()
    with root.line() as line, root.line() as other, root.slow_disk(guest) as go_on:
        freezer = root.line()
        request(freezer, "guest-fsfreeze-freeze")
        await_that("it has begun", root.waits_for_the_disk)
        if by == "thaw":
            request(other, "guest-fsfreeze-thaw")
            assert freezer.message()["error"]["code"] == "io:ECANCELED"
        freezer.close()
        await_that("the freeze is given up", lambda: line.code("guest-fsfreeze-freeze") == "busy")
        assert line.code("guest-file-open", path="/mnt/b", mode="w") == "frozen"
        go_on()
        if by == "thaw":
            assert other.message() == {"return": 0}
        await_that("they are thawed", lambda: line.value("guest-fsfreeze-status") == "thawed")
        assert line.value("guest-file-open", path="/mnt/b", mode="w") > 0
        # Nothing of it is left that could pass for the next one, or undo it.
        assert line.value("guest-fsfreeze-freeze") == 1
        writer = write(guest)
        writer.join(0.2)
        assert writer.is_alive()
        assert line.value("guest-fsfreeze-status") == "frozen"
        assert line.value("guest-fsfreeze-thaw") == 1
        writer.join(10 * PATIENCE)
        assert not writer.is_alive()
