"""Anything at any time: channels cut, slowed, spoilt, daemons paused, killed, replaced, under load.

Everything is drawn from a seed, which a failure shows: VIRTPROXY_SEED=N plays it again.
VIRTPROXY_CHAOS_SECONDS makes it longer than in the usual run.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable

from harness import PATIENCE, SANITIZED, Daemon, Scene, into, out, scaled
from load import Load
from relay import TO_CLIENT, TO_TARGET, Relay
from spoiler import Spoiler
from stage import wait_for_echo

SEED = int(os.environ.get("VIRTPROXY_SEED") or 20101103)
SECONDS = float(os.environ.get("VIRTPROXY_CHAOS_SECONDS") or scaled(40, 10))
CLIENTS = 4
MEMORY_MIB = 24
IDLE_SHARE = 0.1


class World:
    """Two daemons with two channels between them. Only the first is harmed on purpose."""

    def __init__(self, scene: Scene, draw: random.Random) -> None:
        self.scene, self.draw = scene, draw
        self.happened: Counter[str] = Counter()
        self.loads: list[Load] = []
        echo = scene.echo_service()
        inner, outer, steady = (scene.addresses.unix() for _ in range(3))
        self.doors = [scene.addresses.tcp(), scene.addresses.tcp()]
        near = ["--integrity", "checksum", "-c", f"unix-listen:{inner.spec}:0"]
        near += ["-c", f"unix-listen:{steady.spec}:1"]
        far = ["-c", f"unix-connect:{outer.spec}:0", "-c", f"unix-connect:{steady.spec}:1"]
        for channel, door in enumerate(self.doors):
            near += out("echo", door, channel)
            far += into("echo", echo, channel)
        self.args = {"near": near, "far": far}
        self.daemons = {"near": self.start("near")}
        self.relay = Relay(outer, inner)
        self.spoiler = self.relay.spoil = Spoiler(SEED, 300_000)
        scene.cleanup(self.relay.close)
        self.daemons["far"] = self.start("far")
        for door in self.doors:
            wait_for_echo(door)
        self.descriptors = {name: daemon.fds() for name, daemon in self.daemons.items()}
        self.rss = {name: daemon.rss() for name, daemon in self.daemons.items()}

    def start(self, name: str) -> Daemon:
        return self.scene.daemon(*self.args[name], name=name, channels=(0, 1))

    def pause(self) -> None:
        time.sleep(self.draw.uniform(0.02, 0.6))

    def some_daemon(self) -> str:
        return self.draw.choice(("near", "far"))

    # --- what may happen -----------------------------------------------------------------------

    def cut(self) -> None:
        self.relay.cut_now()

    def cut_twice(self) -> None:
        after = self.draw.randrange(1, 50_000)
        self.relay.cut_now(then=(self.draw.choice((TO_TARGET, TO_CLIENT)), after))

    def spoil(self) -> None:
        self.spoiler.on = True
        self.pause()
        self.spoiler.on = False

    def slow(self) -> None:
        self.relay.delay = self.draw.uniform(0.001, 0.05)
        self.pause()
        self.relay.delay = 0.0

    def freeze(self) -> None:
        daemon = self.daemons[self.some_daemon()]
        daemon.send_signal(signal.SIGSTOP)
        self.pause()
        daemon.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        name = self.some_daemon()
        for load in self.loads:
            load.kills += name == "near"
        self.daemons[name].kill9()
        self.pause()
        self.daemons[name] = self.start(name)

    def restart(self) -> None:
        name = self.some_daemon()
        self.daemons[name].terminate(30)
        self.daemons[name] = self.start(name)

    def live(self, until: float, events: dict[Callable[[], None], int]) -> None:
        """Lets one thing happen after the other, each as often as its weight says."""
        while time.monotonic() < until:
            event = self.draw.choices(list(events), list(events.values()))[0]
            event()
            self.happened[event.__name__] += 1
            self.pause()

    def heal_and_compare(self) -> None:
        for door in self.doors:
            wait_for_echo(door, 60)
        for name, daemon in self.daemons.items():
            daemon.wait_at_rest(self.descriptors[name], timeout=30)
        time.sleep(1.5)  # after which idle memory has gone back to the system
        for name, daemon in self.daemons.items():
            cpu, begin = daemon.cpu_seconds(), time.monotonic()
            time.sleep(1)
            share = (daemon.cpu_seconds() - cpu) / (time.monotonic() - begin)
            grown = daemon.rss() - self.rss[name]
            print(f"{name}: {grown >> 10:+} KiB, {share:.2f} of a processor when idle")
            assert share < IDLE_SHARE * PATIENCE, name
            assert SANITIZED or grown < MEMORY_MIB << 20, f"{name}: {grown >> 20} MiB more"


def test_whatever_happens_no_byte_is_wrong_and_nothing_is_left(scene: Scene) -> None:
    print(f"seed {SEED}, {SECONDS:.0f} s")
    world = World(scene, random.Random(SEED))
    loads = [Load(door, CLIENTS, SEED + index) for index, door in enumerate(world.doors)]
    world.loads = loads
    events: dict[Callable[[], None], int] = {
        world.cut: 3, world.cut_twice: 2, world.spoil: 2, world.slow: 2,
        world.freeze: 3, world.kill: 2, world.restart: 1,
    }  # fmt: skip
    world.live(time.monotonic() + SECONDS, events)
    while missing := [event for event in events if not world.happened[event.__name__]]:
        missing[0]()
        world.happened[missing[0].__name__] += 1
    for door in world.doors:
        wait_for_echo(door, 60)
    tallies = [load.stop() for load in loads]
    print(dict(world.happened), dict(world.spoiler.faults), *tallies, sep="\n")
    assert all(tally.complete > 10 and tally.cut > 0 for tally in tallies), tallies
    world.heal_and_compare()


def test_what_happens_to_one_channel_is_not_felt_on_another(scene: Scene) -> None:
    print(f"seed {SEED}")
    world = World(scene, random.Random(SEED))
    harmed, steady = (Load(door, CLIENTS, SEED) for door in world.doors)
    events: dict[Callable[[], None], int] = {world.cut: 2, world.cut_twice: 2, world.spoil: 1}
    world.live(time.monotonic() + SECONDS / 5, events)
    wait_for_echo(world.doors[0], 60)
    tallies = harmed.stop(), steady.stop()
    print(dict(world.happened), *tallies, sep="\n")
    assert tallies[0].cut > 0
    assert tallies[1].complete > 10 and tallies[1].cut == tallies[1].refused == 0, tallies[1]
    world.heal_and_compare()
