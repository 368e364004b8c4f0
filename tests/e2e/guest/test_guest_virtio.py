"""Through a virtio-serial port of a real guest: real servers, volume, independence, a pause."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from addresses import Address
from harness import PATIENCE, Scene, scaled
from stage import wait_for_echo

from .getters import Getter
from .line import (ECHO, HTTP, MIB, TRAFFIC, GuestDaemon, Line, Page, content, curl,
                   guest_with_services, on_threads, serve_files, wget)
from .machine import Guest

PAGE = Page("page", content(1, 4 * MIB))
BIG = Page("big", content(2, scaled(64 * MIB, MIB)))
# An echo beside stalled and busy streams. Behind a stalled one it would never come, and behind the queue of a busy
# one each would be late; the longest is what the emulated processor stops for where others have the real one.
LIMITS = {"p50_ms": 250.0, "max_ms": 2000.0}
PAUSE = 4.0
SINK, EXCHANGE = 7002, 7003
PORTS = ("web", "late", "raw")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("g")
    (folder / BIG.name).write_bytes(BIG.data)
    return folder


@pytest.fixture(scope="module")
def guest(folder: Path) -> Iterator[Guest]:
    ports = {name: folder / f"{name}.sock" for name in PORTS}
    with guest_with_services(folder, [PAGE], virtio_ports=ports) as guest:
        yield guest


def channels(guest: Guest, port: str) -> tuple[str, str]:
    """How the two daemons are told of the port."""
    host = f"unix-connect:{guest.virtio_ports[port]}:-"
    return host, f"virtio-serial:/dev/virtio-ports/{port}:-"


@pytest.fixture
def line(scene: Scene, guest: Guest, folder: Path) -> Iterator[Line]:
    """A fresh pair of daemons on the one port, where bytes of the last pair may still be."""
    to_guest = {"http": HTTP, "echo": ECHO, "sink": SINK, "exchange": EXCHANGE}
    to_host = {"web": serve_files(scene, folder)}
    line = Line(scene, guest, *channels(guest, "web"), to_guest, to_host)
    wait_for_echo(line.doors["echo"])
    descriptors = line.descriptors()
    yield line
    line.host.wait_at_rest(descriptors[0])
    line.guest_daemon.wait_at_rest(descriptors[1])
    line.guest_daemon.terminate()


def test_curl_on_the_host_from_httpd_in_the_guest(scene: Scene, line: Line) -> None:
    for _ in range(3):
        curl(scene, line.doors["http"], PAGE)


def test_wget_in_the_guest_from_a_server_on_the_host(guest: Guest, line: Line) -> None:
    for _ in range(3):
        wget(guest, line.guest_doors["web"], PAGE)


def test_64_mib_each_way(scene: Scene, guest: Guest, line: Line) -> None:
    began = time.monotonic()
    # Into the guest, from there back, and then both ways at once.
    wget(guest, line.guest_doors["web"], BIG, 120, keep="/var/www/big")
    curl(scene, line.doors["http"], BIG, 120)
    on_threads(lambda: curl(scene, line.doors["http"], BIG, 120),
               lambda: wget(guest, line.guest_doors["web"], BIG, 120))
    guest.check("rm /var/www/big")
    print(f"{len(BIG.data) / MIB:.0f} MiB twice in and twice out, all hashed: {time.monotonic() - began:.1f} s")


def exchange(scene: Scene, guest: Guest, line: Line, *options: str | int) -> dict:
    """Streams that send both ways at once, every byte compared at both ends."""
    service = guest.start([TRAFFIC, "exchange", "--listen", f"127.0.0.1:{EXCHANGE}",
                           *map(str, options)])
    guest.wait_for(f"grep ready {service.log_path}")
    door = line.doors["exchange"].traffic
    result = scene.traffic("exchange", "--connect", door, *options, timeout=120)
    assert service.wait(30 * PATIENCE) == 0, service.log()
    return result


def test_many_streams_both_ways_exactly(scene: Scene, guest: Guest, line: Line) -> None:
    amount = scaled(1 * MIB, 64 << 10)
    result = exchange(scene, guest, line, "--seed", 7, "--streams", 40, "--bytes", amount)
    assert result["clients"]["complete"] == 40, result


def test_one_stream_both_ways_exactly(scene: Scene, guest: Guest, line: Line) -> None:
    amount = scaled(32 * MIB, MIB)
    result = exchange(scene, guest, line, "--seed", 8, "--streams", 1, "--bytes", amount)
    assert result["clients"]["complete"] == 1, result


def test_a_stalled_stream_and_busy_ones_delay_no_echo(scene: Scene, guest: Guest,
                                                      line: Line) -> None:
    sink = guest.start([TRAFFIC, "sink-never", "--listen", f"127.0.0.1:{SINK}"])
    guest.wait_for(f"grep ready {sink.log_path}")
    pushing = ("--connect", line.doors["sink"].traffic, "--streams", 8, "--push")
    held = scene.hold("stuck", "source-stuck", *pushing)
    assert held.json_with("stuck", 1)["lost"] == 0
    busy = [Getter(line.doors["http"], PAGE) for _ in range(2)]
    for getter in busy:
        getter.wait_received(MIB)
    for _ in range(3):  # What delays the emulator for a moment does not do so three times.
        result = scene.traffic("probe", "--connect", line.doors["echo"].traffic, "--seconds", 3,
                               "--open-interval-us", 50_000)
        print("probe beside stalled and busy streams:", result)
        assert result["echo"]["count"] >= 10 and result["open"]["count"] >= 10, result
        times = {name: max(result[kind][name] for kind in ("echo", "open")) for name in LIMITS}
        if all(times[name] < limit * PATIENCE for name, limit in LIMITS.items()):
            break
    assert all(times[name] < limit * PATIENCE for name, limit in LIMITS.items()), result
    assert [getter.finish() for getter in busy] == ["stopped", "stopped"]
    sink.kill(9)
    line.host.wait_at_rest()
    assert held.finish()["lost"] == 8


def test_a_paused_guest_is_not_a_dead_one(scene: Scene, guest: Guest, line: Line) -> None:
    sessions = line.sessions()
    mark = line.host.mark()
    getters = [Getter(line.doors["http"], PAGE) for _ in range(2)]
    for getter in getters:
        getter.wait_received(MIB)
    guest.vm_pause()
    try:
        time.sleep(PAUSE)  # The pause itself.
    finally:
        guest.vm_resume()
    resumed = [getter.received for getter in getters]
    for getter, before in zip(getters, resumed, strict=True):
        getter.wait_received(before + MIB)
    assert [getter.finish() for getter in getters] == ["stopped", "stopped"]
    assert line.sessions() == sessions
    assert not [text for text in line.host.err.lines(mark) if "down" in text]


def test_a_guest_whose_host_is_away_does_not_spin(line: Line) -> None:
    for _ in range(2):
        mark = line.guest_daemon.mark()
        line.host.terminate()
        line.guest_daemon.wait_down(since=mark)
        before = line.guest_daemon.cpu_ticks()
        time.sleep(3)  # A measured time of being alone, not a wait for anything.
        spent = line.guest_daemon.cpu_ticks() - before
        print(f"processor time of a guest daemon alone for 3 s: {spent * 10} ms")
        assert spent < 30, f"{spent * 10} ms in 3 s"
        line.restart_host()
        line.host.wait_up()
        line.guest_daemon.wait_up(since=mark)
        wait_for_echo(line.doors["echo"])


def test_a_port_that_appears_later(scene: Scene, guest: Guest) -> None:
    host, device = channels(guest, "late")
    door = scene.addresses.tcp()
    guest.check("rm /dev/virtio-ports/late")
    daemon = GuestDaemon(guest, ["-c", device, "-i", f"echo:127.0.0.1:{ECHO}"], "guest daemon")
    scene.processes.append(daemon)
    daemon.wait_for_log("late: No such file or directory; trying again")
    scene.daemon("-c", host, "-o", f"echo:{door.spec}", name="host daemon")
    guest.check("link-ports")
    daemon.wait_up()
    wait_for_echo(door)
    daemon.terminate()


# --- figures, for the reader of the log -----------------------------------------------------------


def raw_speeds(guest: Guest, size: int) -> tuple[float, float]:
    """MB/s of the port itself with nothing but dd on it: out of the guest, into it."""
    service = Address("unix", guest.virtio_ports["raw"])
    with service.connect(60 * PATIENCE) as sock:
        began = time.monotonic()
        writer = guest.start(f"dd if=/dev/zero of=/dev/virtio-ports/raw bs=32k count={size >> 15}")
        left = size
        while left:
            left -= len(sock.recv(min(left, MIB)))
        out = size / (time.monotonic() - began) / 1e6
        assert writer.wait() == 0
        reader = guest.start("exec dd if=/dev/virtio-ports/raw of=/dev/null bs=32k "
                             f"iflag=count_bytes,fullblock count={size} 2>&1")
        began = time.monotonic()
        sock.sendall(bytes(size))
        assert reader.wait(60 * PATIENCE) == 0, reader.log()
        return out, size / (time.monotonic() - began) / 1e6


def test_figures(scene: Scene, guest: Guest, line: Line,
                 capfd: pytest.CaptureFixture[str]) -> None:
    size = len(BIG.data)
    out, into = raw_speeds(guest, size >> 15 << 15)
    said = [f"raw port with dd: {out:.0f} MB/s out of the guest, {into:.0f} MB/s into it"]

    guest.check(f"head -c {size} /dev/zero > /var/www/zero")
    began = time.monotonic()
    with line.doors["http"].connect(60 * PATIENCE) as sock:
        sock.sendall(b"GET /zero HTTP/1.0\r\n\r\n")
        got = 0
        while piece := sock.recv(MIB):
            got += len(piece)
    out = got / (time.monotonic() - began) / 1e6
    assert got > size
    guest.check("rm /var/www/zero")
    began = time.monotonic()
    guest.check(f"wget -q -O /dev/null http://{line.guest_doors['web']}/big", 60 * PATIENCE)
    into = size / (time.monotonic() - began) / 1e6
    said.append(f"one stream through the pair: {out:.0f} MB/s out of the guest (httpd), "
                f"{into:.0f} MB/s into it (wget)")

    probe = scene.traffic("probe", "--connect", line.doors["echo"].traffic, "--seconds", 3,
                          "--size", 64)
    said.append(f"64-byte echo host to guest and back: {probe['echo']}, "
                f"new connection with one: {probe['open']}")
    with capfd.disabled():
        print("", *said, sep="\n")
