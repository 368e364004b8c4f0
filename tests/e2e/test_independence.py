"""No stream waits for another: stalled neighbours of every sort, and the four parties."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from addresses import Address
from harness import PATIENCE, Daemon, Scene
from processes import Process
from stage import carry, limit_ms, most_stolen_ms, run_first, stolen_ms

SECONDS = 4
ANSWER_MS = 50.0


def probe_stays_quick(scene: Scene, door: Address) -> None:
    """An echo stream and new echo connections, each under the limit at worst.

    What is on their way runs before all other processes of this machine, and the limit is longer by what a
    hypervisor took away meanwhile: neither is the daemons' fault.
    """
    for process in scene.processes:
        if isinstance(process, Daemon) or process.name == "traffic echo":
            run_first(process)
    before = stolen_ms()
    probe = scene.start_traffic("probe", "--connect", door.traffic, "--seconds", SECONDS)
    run_first(probe)
    result = probe.result(60 * PATIENCE)
    stolen = most_stolen_ms(before)
    print("probe:", result, "stolen:", stolen)
    limit = limit_ms(ANSWER_MS) + stolen
    assert result["echo"]["count"] > 100 and result["open"]["count"] > 100, result
    assert result["backlog_full"] == 0, result
    assert result["echo"]["max_ms"] < limit, result
    assert result["open"]["max_ms"] < limit, result


class Service:
    """A service that stays, by its role in the traffic tool."""

    def __init__(self, scene: Scene, role: str, kind: str = "tcp") -> None:
        self.address = scene.addresses.of_kind(kind)
        self.process = scene.serve(role, self.address)

    def wait_stuck(self, streams: int) -> None:
        """Waits until it pours into that many streams and nothing goes any more."""
        self.process.out.wait_for(f'"stuck": {streams},', 60 * PATIENCE)


def stuck(scene: Scene, door: Address, streams: int, *options: str) -> None:
    """Clients that never read; with --push they write until nothing goes any more."""
    args = ("source-stuck", "--connect", door.traffic, "--streams", streams, *options)
    clients = scene.hold("stuck", *args)
    assert clients.json_with("stuck", 1)["lost"] == 0


def test_an_undisturbed_echo_is_quick(scene: Scene, kind: str) -> None:
    _, doors = carry(scene, kind, {"echo": scene.echo_service()})
    probe_stays_quick(scene, doors["echo"])


@pytest.mark.parametrize("streams", [1, 8, 200])
def test_services_that_never_read_delay_nobody(scene: Scene, kind: str, streams: int) -> None:
    services = {"echo": scene.echo_service(), "sink": Service(scene, "sink-never").address}
    _, doors = carry(scene, kind, services)
    stuck(scene, doors["sink"], streams, "--push")
    probe_stays_quick(scene, doors["echo"])


@pytest.mark.parametrize("streams", [1, 8, 200])
def test_clients_that_never_read_delay_nobody(scene: Scene, kind: str, streams: int) -> None:
    pour = Service(scene, "pour")
    _, doors = carry(scene, kind, {"echo": scene.echo_service(), "pour": pour.address})
    stuck(scene, doors["pour"], streams)
    pour.wait_stuck(streams)
    probe_stays_quick(scene, doors["echo"])


@pytest.mark.parametrize("streams", [1, 200])
def test_clients_that_ignore_their_echo_delay_nobody(
    scene: Scene, kind: str, streams: int
) -> None:
    _, doors = carry(scene, kind, {"echo": scene.echo_service(), "other": scene.echo_service()})
    stuck(scene, doors["other"], streams, "--push")
    probe_stays_quick(scene, doors["echo"])


def test_dials_that_never_complete_delay_nobody(scene: Scene, kind: str) -> None:
    never = Service(scene, "never-accept").address
    services = {"echo": scene.echo_service(), "never": never}
    pair, doors = carry(scene, kind, services, far=("--connect-timeout", "60"))
    stuck(scene, doors["never"], 8)
    pair.far.wait_stats("eight dials", lambda stats: stats.total("connecting") == 8)
    probe_stays_quick(scene, doors["echo"])
    assert pair.far.stats().total("connecting") == 8


def test_a_unix_service_with_a_full_backlog_delays_nobody(scene: Scene, kind: str) -> None:
    """Its dials may wait or be refused (the kernel says EAGAIN at once): both are right."""
    never = Service(scene, "never-accept", "unix").address
    services = {"echo": scene.echo_service(), "never": never}
    _, doors = carry(scene, kind, services, far=("--connect-timeout", "60"))
    args = ("--connect", doors["never"].traffic, "--streams", 8)
    scene.hold("stuck", "source-stuck", *args)
    probe_stays_quick(scene, doors["echo"])


def test_all_sorts_of_stalled_streams_together_delay_nobody(scene: Scene, kind: str) -> None:
    pour = Service(scene, "pour")
    services = {
        "echo": scene.echo_service(),
        "sink": Service(scene, "sink-never").address,
        "pour": pour.address,
        "never": Service(scene, "never-accept").address,
    }
    pair, doors = carry(scene, kind, services, far=("--connect-timeout", "60"))
    stuck(scene, doors["sink"], 200, "--push")
    stuck(scene, doors["pour"], 200)
    pour.wait_stuck(200)
    stuck(scene, doors["never"], 8)
    probe_stays_quick(scene, doors["echo"])
    assert pair.far.stats().total("streams") >= 408


def test_mary_gets_through_to_bob(scene: Scene, kind: str) -> None:
    bob, joe = scene.addresses.tcp(), scene.addresses.tcp()
    joes_ear = scene.addresses.unix()

    def party(name: str, *args: str) -> Process:
        script = Path(__file__).with_name("party.py")
        return scene.spawn([sys.executable, script, name, *args], name=name)

    def wait_for(process: Process, text: str, timeout: float = 60) -> None:
        process.out.wait_for(f"^{text}$", timeout * PATIENCE)

    joe_plays = party("joe", joe.traffic, joes_ear.traffic)
    bob_plays = party("bob", bob.traffic, joes_ear.traffic)
    wait_for(joe_plays, "listening")
    wait_for(bob_plays, "listening")
    _, doors = carry(scene, kind, {"bob": bob, "joe": joe})
    alice_plays = party("alice", doors["bob"].traffic)
    wait_for(alice_plays, "stuck")
    mary_plays = party("mary", doors["joe"].traffic, doors["bob"].traffic)
    wait_for(mary_plays, "stuck")
    wait_for(bob_plays, "heard Mary", 10)
    wait_for(joe_plays, "heard Bob", 10)
    for plays in (alice_plays, bob_plays, joe_plays, mary_plays):
        assert plays.wait(60 * PATIENCE) == 0, plays.everything()
