"""Every surviving byte is right, every end is exact, and nothing is left behind.

Full size is 200 streams of 20 MiB each way over a unix channel and of 5 MiB over TCP, whose bytes cost twice
the time and go through the same code; VIRTPROXY_SCALE makes it smaller.
"""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from addresses import Address
from harness import PATIENCE, SANITIZED, Daemon, Pair, Scene, Stats, scaled
from processes import deadline_after
from stage import ListeningService, carry, comes_true, receive

MIB = 1024 * 1024
STREAMS = 200
AMOUNT = {"unix": 20 * MIB, "tcp": 5 * MIB}  # of a stream, each way
# What a daemon may keep over its resident memory at the start, in free lists of the allocator and
# in the kernel's view of pages touched once: stated here, and the same after every kind of traffic.
RSS_SLACK = 24 * MIB


class Run:
    """A pair, and what it looked like before the traffic."""

    def __init__(
        self, scene: Scene, kind: str, door_kind: str = "tcp", near: tuple[str, ...] = ()
    ) -> None:
        self.scene = scene
        self.amount = scaled(AMOUNT[kind])
        self.service: Address = scene.addresses.of_kind(door_kind)
        self.pair, doors = carry(scene, kind, {"service": self.service}, door_kind, near)
        self.door = doors["service"]
        # A first small exchange makes the pools and tables what traffic makes them.
        self.exchange("--streams", 20, "--bytes", "64K")
        self.pair.wait_at_rest()
        self.descriptors = self.pair.descriptors()
        self.memory = [daemon.rss() for daemon in self.pair.both()]

    def exchange(self, *args: str | int, timeout: float = 900) -> dict:
        ends = ("--connect", self.door.traffic, "--listen", self.service.traffic)
        result = self.scene.traffic("exchange", *ends, *args, timeout=timeout)
        print("exchange:", result)
        return result

    def nothing_is_left_behind(self) -> None:
        self.pair.wait_at_rest(self.descriptors)
        if SANITIZED:
            return
        for daemon, start in zip(self.pair.both(), self.memory, strict=True):
            resident_within(daemon, start, RSS_SLACK)


def resident_within(daemon: Daemon, start: int, slack: int) -> None:
    """What was not needed for a while goes back to the system: that may take a moment."""
    deadline = deadline_after(20 * PATIENCE)
    while (now := daemon.rss()) > start + slack:
        assert time.monotonic() < deadline, (
            f"{daemon.name}: resident {now / MIB:.1f} MiB, before {start / MIB:.1f}"
        )
        time.sleep(0.1)
    print(f"{daemon.name}: resident {start / MIB:.1f} -> {now / MIB:.1f} MiB")


@pytest.fixture(name="run")
def fixture_run(scene: Scene, kind: str) -> Run:
    return Run(scene, kind)


def check_kills(result: dict, killed: int) -> None:
    clients, services = result["clients"], result["services"]
    assert clients["complete"] == services["complete"] == result["streams"] - killed, result
    assert clients["killed"] + services["killed"] == killed, result
    assert clients["killed"] == services["saw_reset"] + services["saw_cut"], result
    assert services["killed"] == clients["saw_reset"] + clients["saw_cut"], result


def test_two_hundred_streams_arrive_whole(run: Run) -> None:
    result = run.exchange("--streams", STREAMS, "--bytes", run.amount)
    check_kills(result, 0)
    run.nothing_is_left_behind()


def test_half_of_them_killed_in_mid_flight_and_the_rest_arrive_whole(run: Run) -> None:
    result = run.exchange("--streams", STREAMS, "--bytes", run.amount, "--kill", 100)
    check_kills(result, 100)
    assert result["clients"]["saw_cut"] == result["services"]["saw_cut"] == 0, result
    run.nothing_is_left_behind()


def test_half_closed_requests_get_their_whole_responses(run: Run) -> None:
    result = run.exchange("--streams", STREAMS, "--bytes", scaled(2 * MIB), "--half-close")
    check_kills(result, 0)
    run.nothing_is_left_behind()


def test_half_closed_streams_killed_in_mid_flight_leave_nothing(run: Run) -> None:
    args = ("--streams", STREAMS, "--bytes", scaled(2 * MIB), "--half-close", "--kill", 100)
    check_kills(run.exchange(*args), 100)
    run.nothing_is_left_behind()


def test_byte_at_a_time_writers_arrive_whole(run: Run) -> None:
    args = ("--streams", 50, "--bytes", scaled(20_000, 2000), "--tiny", "--kill", 10)
    check_kills(run.exchange(*args), 10)
    run.nothing_is_left_behind()


def test_one_gibibyte_through_one_stream_arrives_whole(run: Run) -> None:
    check_kills(run.exchange("--streams", 1, "--bytes", scaled(1024 * MIB)), 0)
    run.nothing_is_left_behind()


def test_many_short_streams_one_after_the_other_leave_nothing(run: Run) -> None:
    for _ in range(5):
        check_kills(run.exchange("--streams", 1000, "--bytes", "2K", "--kill", 300), 300)
    run.nothing_is_left_behind()


def test_the_same_traffic_again_needs_no_more_memory(run: Run) -> None:
    """Whatever the pools keep for later, a second and a third round have to find it there."""
    rounds: list[list[int]] = []
    for _ in range(6):
        run.exchange("--streams", STREAMS, "--bytes", scaled(2 * MIB), "--kill", 50)
        run.pair.wait_at_rest(run.descriptors)
        if len(rounds) < 3:
            rounds.append([daemon.rss() for daemon in run.pair.both()])
    if not SANITIZED:
        for daemon, before in zip(run.pair.both(), rounds[2], strict=True):
            resident_within(daemon, before, 6 * MIB)


@pytest.mark.parametrize("seal", ["commit", "checksum"])
def test_sealed_frames_of_any_size_arrive_whole(scene: Scene, seal: str) -> None:
    """A sealed frame is parsed when all of it is there. What waits for a peer that is stopped
    becomes frames as large as the peer takes."""
    service = ListeningService(scene, "unix")
    pair, doors = carry(scene, "unix", {"x": service.address}, "unix", ("--integrity", seal))
    block = os.urandom(4 * MIB)

    def much_waits(stats: Stats) -> bool:
        return stats.total("send_bytes") + stats.total("in_flight") > 400 << 10

    with doors["x"].connect() as client, service.accept() as far_end:
        rounds = large = 0
        while large < 8:
            # First the window grows, the more slowly the busier the machine.
            assert (rounds := rounds + 1) < 100, f"only {large} times did much wait"
            if stop := rounds > 4:
                pair.far.send_signal(signal.SIGSTOP)
            sender = threading.Thread(target=client.sendall, args=(block,), daemon=True)
            sender.start()
            if stop:
                large += comes_true(lambda: much_waits(pair.near.stats()), 1)
                pair.far.send_signal(signal.SIGCONT)
            assert receive(far_end, len(block)) == block
            sender.join()


def test_unix_endpoints_are_as_exact(scene: Scene) -> None:
    run = Run(scene, "unix", door_kind="unix")
    check_kills(run.exchange("--streams", STREAMS, "--bytes", scaled(4 * MIB), "--kill", 100), 100)
    check_kills(run.exchange("--streams", STREAMS, "--bytes", scaled(MIB), "--half-close"), 0)
    run.nothing_is_left_behind()


def test_clients_on_both_sides_at_once_are_exact(scene: Scene, kind: str) -> None:
    """Streams opened from either end at the same time, over one channel."""
    forth, back = scene.addresses.tcp(), scene.addresses.tcp()
    near_door, far_door = scene.addresses.tcp(), scene.addresses.tcp()
    near = ["-o", f"forth:{near_door.spec}", "-i", f"back:{back.spec}"]
    far = ["-i", f"forth:{forth.spec}", "-o", f"back:{far_door.spec}"]
    pair = Pair(scene, kind, near=near, far=far)
    runs = []
    for door, service in ((near_door, forth), (far_door, back)):
        ends = ("--connect", door.traffic, "--listen", service.traffic)
        args = ("--streams", 100, "--bytes", scaled(4 * MIB), "--kill", 30)
        runs.append(scene.start_traffic("exchange", *ends, *args))
    for process in runs:
        check_kills(process.result(300 * PATIENCE), 30)
    pair.wait_at_rest()
