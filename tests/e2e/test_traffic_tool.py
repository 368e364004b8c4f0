"""The traffic tool itself, without a proxy: it accepts what is right and notices what is wrong."""

from __future__ import annotations

import re

import pytest

from addresses import Address
from harness import BIN, Scene
from relay import TO_CLIENT, TO_TARGET, Relay

VARIANTS = [[], ["--kill", "40"], ["--half-close"], ["--half-close", "--kill", "40"]]


@pytest.mark.parametrize("kind", ["tcp", "tcp6", "name", "unix", "abstract"])
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda args: "".join(args) or "plain")
def test_a_direct_exchange_is_found_right(scene: Scene, kind: str, variant: list[str]) -> None:
    address = scene.addresses.of_kind(kind).traffic
    args = ("--connect", address, "--listen", address, "--streams", 100, "--bytes", "300K")
    result = scene.traffic("exchange", *args, *variant)
    killed = 40 if "--kill" in variant else 0
    assert result["clients"]["complete"] == result["services"]["complete"] == 100 - killed
    if kind.startswith("tcp"):
        assert result["clients"]["saw_cut"] == result["services"]["saw_cut"] == 0


def test_the_two_halves_can_be_two_processes(scene: Scene) -> None:
    address = scene.addresses.tcp().traffic
    service = scene.hold("ready", "exchange", "--listen", address, "--streams", 50)
    clients = scene.traffic(
        *("exchange", "--connect", address, "--streams", 50),
        *("--bytes", "100K", "--kill", 10, "--seed", 5),
    )["clients"]
    services = service.result(20)["services"]
    assert clients["complete"] == services["complete"] == 40
    assert clients["killed"] == services["saw_reset"] and services["killed"] == clients["saw_reset"]


def test_a_seed_draws_the_same_fates_again(scene: Scene) -> None:
    fates = []
    for _ in range(2):
        address = scene.addresses.tcp().traffic
        ends = ("--connect", address, "--listen", address)
        args = ("--streams", 60, "--bytes", "50K", "--kill", 30, "--seed", 99)
        fates.append(scene.traffic("exchange", *ends, *args)["clients"]["killed"])
    assert fates[0] == fates[1]


def spoiled(scene: Scene, *args: str | int) -> tuple[Relay, list[str]]:
    service, door = scene.addresses.tcp(), scene.addresses.tcp()
    relay = Relay(door, service)
    scene.cleanup(relay.close)
    ends = ["--connect", door.traffic, "--listen", service.traffic, "--streams", "1"]
    return relay, [str(BIN / "virtproxy-traffic"), "exchange", *ends, *map(str, args)]


@pytest.mark.parametrize("offset", [0, 1, 12_345, 99_999])
def test_a_flipped_bit_is_reported_with_its_offset(scene: Scene, offset: int) -> None:
    relay, command = spoiled(scene, "--bytes", 100_000)
    relay.flip_after(TO_TARGET, 40 + offset)  # The announcement takes 40 bytes.
    complaint = scene.run(command, expect=1).stderr()
    assert "wrong byte" in complaint and f"offset={offset} " in complaint, complaint
    assert "seed=" in complaint and "side=service" in complaint and "stream=0 " in complaint


def test_a_cut_connection_is_reported(scene: Scene) -> None:
    relay, command = spoiled(scene, "--bytes", 100_000)
    relay.cut_after(TO_CLIENT, 16 + 5000)  # The greeting takes 16 bytes.
    assert "FAILED seed=" in scene.run(command, expect=1).stderr()


def test_an_end_where_a_reset_is_due_is_reported(scene: Scene) -> None:
    """The relay turns every reset into an orderly end, as a careless proxy would."""
    _, command = spoiled(scene, "--bytes", 100_000, "--kill", 1)
    complaint = scene.run(command, expect=1).stderr()
    assert "FAILED seed=" in complaint, complaint


def test_a_stall_is_reported(scene: Scene) -> None:
    never: Address = scene.addresses.tcp()
    scene.serve("sink-never", never)
    command = [BIN / "virtproxy-traffic", "exchange", "--connect", never.traffic]
    run = scene.run([*command, "--streams", "2", "--stall-limit", "1"], expect=1)
    # The other one may have got its last bytes into the kernel a moment later.
    assert "no progress" in run.stderr()
    assert re.search(r"stalled: stream=[01] side=client", run.stderr())


def test_probe_measures_a_direct_echo(scene: Scene) -> None:
    address = scene.echo_service()
    result = scene.traffic("probe", "--connect", address.traffic, "--seconds", 1)
    assert result["echo"]["count"] > 50 and result["open"]["count"] > 50, result
    assert result["echo"]["p50_ms"] <= result["echo"]["p99_ms"] <= result["echo"]["max_ms"]


def test_probe_fails_when_nobody_answers(scene: Scene) -> None:
    address = scene.addresses.tcp()
    scene.serve("sink-never", address)
    command = [BIN / "virtproxy-traffic", "probe", "--connect", address.traffic]
    assert "no answer" in scene.run([*command, "--timeout", "0.5"], expect=1).stderr()


def test_idle_notices_a_lost_connection(scene: Scene) -> None:
    service, door = scene.echo_service(), scene.addresses.tcp()
    relay = Relay(door, service)
    scene.cleanup(relay.close)
    clients = scene.hold("held", "idle", "--connect", door.traffic, "--streams", 5)
    relay.cut_now()
    assert clients.wait(10) == 1


def test_flood_reports_the_longest_gap(scene: Scene) -> None:
    address = scene.addresses.tcp().traffic
    ends = ("--connect", address, "--listen", address)
    result = scene.traffic("flood", *ends, "--uploads", 4, "--downloads", 3, "--bytes", "8M")
    assert result["clients"]["sent"] == 4 * (8 << 20)
    assert result["clients"]["received"] == 3 * (8 << 20)
    assert 0 < result["longest_gap_ms"] < 1000


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_listener_that_never_accepts_makes_dials_hang(scene: Scene, kind: str) -> None:
    address = scene.addresses.of_kind(kind)
    scene.serve("never-accept", address)
    # A unix connect with a time limit is told EAGAIN where a patient one would wait.
    with pytest.raises((TimeoutError, BlockingIOError)):
        address.connect(timeout=0.5).close()


def test_wrong_usage_ends_with_two(scene: Scene) -> None:
    for args in ([], ["dance"], ["exchange"], ["exchange", "--connect", "nonsense"]):
        assert scene.run([BIN / "virtproxy-traffic", *args], expect=2).stderr()
