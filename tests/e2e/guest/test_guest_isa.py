"""Through an isa-serial port of a real guest, slow and without flow control worth the name."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import PATIENCE, Scene, scaled
from stage import echo, expect_reset, wait_for_echo

from .getters import Getter, GuestGetter
from .line import (ECHO, HTTP, KIB, TRAFFIC, Line, Page, content, curl, guest_with_services,
                   on_threads, serve_files, wget)
from .machine import Guest

SMALL = Page("small", content(11, 8 * KIB))
PAGE = Page("page", content(12, 256 * KIB))
EXCHANGE = 7003
ROUNDS = scaled(3, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("g")


@pytest.fixture(scope="module")
def guest(folder: Path) -> Iterator[Guest]:
    with guest_with_services(folder, [SMALL, PAGE], isa_serials=[folder / "isa.sock"]) as guest:
        yield guest


@pytest.fixture
def line(scene: Scene, guest: Guest, folder: Path) -> Iterator[Line]:
    to_guest = {"http": HTTP, "echo": ECHO, "exchange": EXCHANGE}
    to_host = {"web": serve_files(scene, folder)}
    line = Line(scene, guest, f"unix-connect:{guest.isa_serials[0]}:-", "isa-serial:/dev/ttyS1:-",
                to_guest, to_host)
    wait_for_echo(line.doors["echo"], 30)
    yield line
    line.guest_daemon.terminate()


def works(scene: Scene, guest: Guest, line: Line) -> None:
    """New connections both ways."""
    wait_for_echo(line.doors["echo"], 40)
    curl(scene, line.doors["http"], SMALL)
    wget(guest, line.guest_doors["web"], SMALL)


def test_http_both_ways(scene: Scene, guest: Guest, line: Line) -> None:
    for _ in range(3):
        works(scene, guest, line)
    line.wait_at_rest()


def test_256_kib_each_way(scene: Scene, guest: Guest, line: Line,
                          capfd: pytest.CaptureFixture[str]) -> None:
    sessions = line.sessions()
    began = time.monotonic()
    curl(scene, line.doors["http"], PAGE)
    out = time.monotonic() - began
    began = time.monotonic()
    wget(guest, line.guest_doors["web"], PAGE)
    into = time.monotonic() - began
    on_threads(lambda: curl(scene, line.doors["http"], PAGE),
               lambda: wget(guest, line.guest_doors["web"], PAGE))
    options = ("--streams", "4", "--bytes", "32K", "--seed", "6")
    service = guest.start([TRAFFIC, "exchange", "--listen", f"127.0.0.1:{EXCHANGE}", *options])
    guest.wait_for(f"grep ready {service.log_path}")
    scene.traffic("exchange", "--connect", line.doors["exchange"].traffic, *options)
    assert service.wait(30 * PATIENCE) == 0, service.log()
    line.wait_at_rest()
    assert line.sessions() == sessions, "the line was lost"
    with capfd.disabled():
        print(f"\nisa-serial, one stream: {len(PAGE.data) / out / 1e3:.0f} KB/s out of the guest, "
              f"{len(PAGE.data) / into / 1e3:.0f} KB/s into it")


def test_an_echo_beside_bulk(scene: Scene, line: Line) -> None:
    busy = Getter(line.doors["http"], PAGE)
    busy.wait_received(16 * KIB)
    for _ in range(3):  # What delays the emulator for a moment does not do so three times.
        result = scene.traffic("probe", "--connect", line.doors["echo"].traffic, "--seconds", 3,
                               "--open-interval-us", 200_000)
        print("probe beside bulk:", result)
        if result["echo"]["max_ms"] < 1000 * PATIENCE:
            break
    assert result["echo"]["max_ms"] < 1000 * PATIENCE, result
    assert busy.finish() == "stopped"


def begin_traffic(guest: Guest, line: Line) -> tuple[Getter, GuestGetter]:
    """Both ways, each with a piece of a page through already."""
    download = Getter(line.doors["http"], PAGE)
    upload = GuestGetter(guest, line.guest_doors["web"], PAGE)
    download.wait_received(16 * KIB)
    upload.wait_received(16 * KIB)
    return download, upload


def test_the_guest_daemon_is_killed(scene: Scene, guest: Guest, line: Line) -> None:
    survivor, descriptors = line.host, line.descriptors()[0]
    for _ in range(ROUNDS):
        resting = line.doors["echo"].connect()
        echo(resting)
        download, upload = begin_traffic(guest, line)
        mark = survivor.mark()
        line.guest_daemon.kill9()
        upload.check_cut()
        line.restart_guest()
        survivor.wait_down(since=mark, timeout=30)
        assert download.end() == "reset"
        expect_reset(resting, 10)
        resting.close()
        works(scene, guest, line)
        survivor.wait_at_rest(descriptors)
    assert survivor.alive() and line.host is survivor


def test_the_host_daemon_is_killed(scene: Scene, guest: Guest, line: Line) -> None:
    survivor, descriptors = line.guest_daemon, line.descriptors()[1]
    for _ in range(ROUNDS):
        mark = survivor.mark()
        download, upload = begin_traffic(guest, line)
        line.host.kill9()
        assert download.end() in ("reset", "end")  # The kernel closes it: nothing to prove.
        # A serial line does not tell the guest: its client is cut when the new daemon greets.
        line.restart_host()
        survivor.wait_down(since=mark, timeout=30)
        upload.check_cut()
        works(scene, guest, line)
        survivor.wait_at_rest(descriptors)
    assert survivor.alive() and line.guest_daemon is survivor
