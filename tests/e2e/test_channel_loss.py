"""The channel goes and comes back: streams are reset on both ends and the next session is clean."""

from __future__ import annotations

import random
import socket
import time

import pytest

from addresses import Address
from harness import BIN, PATIENCE, Daemon, Scene, into, out
from relay import TO_CLIENT, TO_TARGET, CharacterDevice, Relay
from stage import (
    ListeningService,
    echo,
    echo_once,
    eventually,
    expect_reset,
    receive,
    wait_for_echo,
)

SEED = 20101103
MIB = 1024 * 1024


class RelayedPair:
    """near listens, far connects, and a relay that can cut stands between them."""

    def __init__(self, scene: Scene, kind: str, services: dict[str, Address]) -> None:
        self.scene = scene
        inner, outer = scene.addresses.of_kind(kind), scene.addresses.of_kind(kind)
        method = "tcp" if inner.is_tcp else "unix"
        self.doors = {name: scene.addresses.tcp() for name in services}
        near = [arg for name, door in self.doors.items() for arg in out(name, door)]
        far = [arg for name, address in services.items() for arg in into(name, address)]
        self.near_args = ["-c", f"{method}-listen:{inner.spec}", *near]
        self.far_args = ["-c", f"{method}-connect:{outer.spec}", *far]
        self.near = scene.daemon(*self.near_args, name="near")
        self.relay = Relay(outer, inner)
        scene.cleanup(self.relay.close)
        self.far = scene.daemon(*self.far_args, name="far")
        self.near.wait_up()
        self.far.wait_up()

    def both(self) -> tuple[Daemon, Daemon]:
        return self.near, self.far

    def marks(self) -> tuple[int, int]:
        return self.near.mark(), self.far.mark()

    def wait_down_and_up(self, marks: tuple[int, int]) -> None:
        for daemon, mark in zip(self.both(), marks, strict=True):
            daemon.wait_down(since=mark)
            daemon.wait_up(since=mark)

    def descriptors(self) -> list[int]:
        return [max(d.fds(), d.stats().process["descriptors"]) for d in self.both()]

    def wait_at_rest(self, descriptors: list[int]) -> None:
        for daemon, few in zip(self.both(), descriptors, strict=True):
            daemon.wait_at_rest(few)


def test_every_stream_is_reset_on_both_ends_and_nothing_is_left(scene: Scene, kind: str) -> None:
    service = ListeningService(scene)
    never = scene.addresses.tcp()
    scene.serve("never-accept", never)
    services = {"service": service.address, "echo": scene.echo_service(), "never": never}
    pair = RelayedPair(scene, kind, services)
    echo_once(pair.doors["echo"])
    descriptors = pair.descriptors()
    ends: list[socket.socket] = []
    half_read: list[socket.socket] = []
    for index in range(20):
        client = pair.doors["service"].connect()
        client.sendall(b"x" * 1000)
        far_end = service.accept()
        assert receive(far_end, 1000) == b"x" * 1000
        if index % 4 == 1:
            client.shutdown(socket.SHUT_WR)
            assert far_end.recv(1) == b""
            ends.append(client)
            half_read.append(far_end)  # Its end has come already; only a write could be refused.
        elif index % 4 == 2:
            far_end.sendall(b"y" * 50_000)  # Unread by the client when the channel goes.
            ends += [client, far_end]
        else:
            ends += [client, far_end]
    waiting = pair.doors["never"].connect()
    pair.far.wait_stats("the dial", lambda stats: stats.total("connecting") == 1)
    marks = pair.marks()
    pair.relay.cut_now()
    for end in (*ends, waiting):
        expect_reset(end, 5)
    pair.wait_down_and_up(marks)
    for end in (*ends, *half_read, waiting):
        end.close()
    pair.wait_at_rest(descriptors)
    echo_once(pair.doors["echo"])


@pytest.mark.parametrize("direction", [TO_TARGET, TO_CLIENT], ids=["far-to-near", "near-to-far"])
def test_a_cut_in_mid_frame_leaves_a_clean_next_session(
    scene: Scene, kind: str, direction: int
) -> None:
    """Floods both ways, cut at a drawn byte, again and again."""
    service = scene.addresses.tcp()
    pair = RelayedPair(scene, kind, {"flood": service, "echo": scene.echo_service()})
    echo_once(pair.doors["echo"])
    descriptors = pair.descriptors()
    draw = random.Random(SEED + direction)
    tool = BIN / "virtproxy-traffic"
    ends = ["--connect", pair.doors["flood"].traffic, "--listen", service.traffic]
    for _ in range(10):
        marks = pair.marks()
        after = draw.randrange(1, 4 * MIB)
        print(f"seed {SEED}: cut after {after} bytes")
        pair.relay.cut_after(direction, after)
        args = ["--uploads", "4", "--downloads", "4", "--bytes", "64M"]
        flood = scene.run([tool, "flood", *ends, *args], expect=1)
        complaint = flood.stderr()
        assert "ECONNRESET" in complaint or "EPIPE" in complaint, complaint
        pair.wait_down_and_up(marks)
        pair.wait_at_rest(descriptors)
        echo_once(pair.doors["echo"])
    args = ("--streams", 20, "--bytes", "300K", "--kill", 5)
    scene.traffic("exchange", *ends, *args)
    pair.wait_at_rest(descriptors)


def test_a_cut_at_each_of_the_first_bytes_of_a_session_is_survived(
    scene: Scene, kind: str
) -> None:
    """In the middle of the greeting, too."""
    pair = RelayedPair(scene, kind, {"echo": scene.echo_service()})
    for after in (1, 3, 4, 17, 100, 1043, 1044, 1045, 1060):
        for direction in (TO_TARGET, TO_CLIENT):
            cuts = pair.relay.cuts
            pair.relay.cut_now(then=(direction, after))
            if after <= 1044:  # A greeting is as long as that, so this cut must come.
                eventually("both cuts", lambda: pair.relay.cuts >= cuts + 2, 30)
            wait_for_echo(pair.doors["echo"], 30)


@pytest.mark.parametrize("victim", ["near", "far"])
def test_twenty_kills_of_either_daemon_are_survived(
    scene: Scene, kind: str, victim: str
) -> None:
    pair = RelayedPair(scene, kind, {"echo": scene.echo_service()})
    door = pair.doors["echo"]
    echo_once(door)
    survivor = pair.far if victim == "near" else pair.near
    descriptors = max(survivor.fds(), survivor.stats().process["descriptors"])
    for _ in range(20):
        client = door.connect()
        echo(client)
        mark = survivor.mark()
        getattr(pair, victim).kill9()
        if victim == "far":
            expect_reset(client, 5)  # With the near daemon the kernel closes it: nothing to prove.
        client.close()
        survivor.wait_down(since=mark)
        args = pair.near_args if victim == "near" else pair.far_args
        setattr(pair, victim, scene.daemon(*args, name=f"{victim} again"))
        survivor.wait_up(since=mark, timeout=30)
        wait_for_echo(door)
    survivor.wait_at_rest(descriptors)


def test_a_connector_that_starts_first_waits_for_its_listener(scene: Scene, kind: str) -> None:
    channel, door = scene.addresses.of_kind(kind), scene.addresses.tcp()
    method = "tcp" if channel.is_tcp else "unix"
    service = scene.echo_service()
    far = scene.daemon("-c", f"{method}-connect:{channel.spec}", *into("echo", service))
    before = far.cpu_seconds()
    time.sleep(1)  # A measured second of waiting, not a wait for anything.
    assert far.cpu_seconds() - before < 0.3 * PATIENCE, "it spins while it waits"
    scene.daemon("-c", f"{method}-listen:{channel.spec}", *out("echo", door))
    far.wait_up(timeout=30)
    wait_for_echo(door)


def test_a_second_peer_does_not_disturb_the_first(scene: Scene, kind: str) -> None:
    """One session per channel: a stranger who connects too must not break it."""
    channel, door = scene.addresses.of_kind(kind), scene.addresses.tcp()
    method = "tcp" if channel.is_tcp else "unix"
    service = scene.echo_service()
    near = scene.daemon("-c", f"{method}-listen:{channel.spec}", *out("echo", door))
    far = scene.daemon("-c", f"{method}-connect:{channel.spec}", *into("echo", service))
    near.wait_up()
    far.wait_up()
    with door.connect() as client:
        echo(client)
        with channel.connect() as stranger:
            try:
                stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
            except OSError:
                pass  # Turned away already.
            echo(client)
        echo(client)
    echo_once(door)


@pytest.mark.parametrize("victim", ["guest", "host"])
def test_a_daemon_replaced_behind_a_character_device_starts_clean(
    scene: Scene, victim: str
) -> None:
    """The other daemon's channel stays connected; stale bytes of the earlier life come first."""
    ports = scene.addresses.unix(), scene.addresses.unix()
    device = CharacterDevice(ports)
    scene.cleanup(device.close)
    service, pour = scene.addresses.tcp(), scene.addresses.tcp()
    doors = {name: scene.addresses.tcp() for name in ("echo", "pour", "service")}
    scene.serve("pour", pour)
    host_args = ["-c", f"unix-connect:{ports[0].spec}"]
    for name, door in doors.items():
        host_args += out(name, door)
    guest_args = ["--integrity", "commit", "-c", f"unix-connect:{ports[1].spec}", *into("echo", scene.echo_service())]
    guest_args += [*into("pour", pour), *into("service", service)]
    daemons = {
        "host": scene.daemon(*host_args, name="host"),
        "guest": scene.daemon(*guest_args, name="guest"),
    }
    wait_for_echo(doors["echo"])
    survivor = daemons["guest" if victim == "host" else "host"]
    for _ in range(5):
        # Frames under way in both directions when one daemon dies.
        download = doors["pour"].connect()
        receive(download, 200_000)
        daemons[victim].kill9()
        if victim == "guest":
            # The host does not know yet: what it sends now waits in the device as stale bytes.
            upload = doors["echo"].connect()
            upload.settimeout(0.2)
            try:
                while upload.send(b"stale" * 2000):
                    pass
            except OSError:
                pass
            upload.close()
        download.close()
        args = host_args if victim == "host" else guest_args
        daemons[victim] = scene.daemon(*args, name=f"{victim} again")
        wait_for_echo(doors["echo"], 40)
    assert survivor.alive() and sum(device.stale_bytes) > 0, device.stale_bytes
    survivor.wait_at_rest()
    ends = ("--connect", doors["service"].traffic, "--listen", service.traffic)
    scene.traffic("exchange", *ends, "--streams", 20, "--bytes", "200K", "--kill", 5)
