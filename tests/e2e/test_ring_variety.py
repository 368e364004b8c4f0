"""Each optional ring feature switched off: the paths of older kernels carry the same traffic."""

from __future__ import annotations

import re
import subprocess

import pytest

from harness import BIN, Scene, scaled
from stage import ListeningService, carry, close_hard, echo, expect_reset, receive

MIB = 1024 * 1024
LINE = re.compile(r"^(\S+)\s+(yes|no)$")


def features() -> dict[str, bool]:
    """What the daemon says about the rings of this kernel."""
    run = subprocess.run(
        [BIN / "virtproxy", "--features"], capture_output=True, text=True, timeout=30, check=True
    )
    driver, *lines = run.stdout.splitlines()
    assert driver == "driver io_uring"
    matches = [LINE.match(line) for line in lines]
    assert all(matches), f"not 'name yes|no': {run.stdout!r}"
    return {match.group(1): match.group(2) == "yes" for match in matches if match}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "without" in metafunc.fixturenames:
        names = [name for name, present in features().items() if present]
        assert names, "the daemon names no ring feature that this kernel has"
        metafunc.parametrize("without", [*names, ",".join(names)])


def carries_everything(scene: Scene, kind: str, door_kind: str, *args: str, **env: str) -> None:
    """An exchange with kills, half-closes, a reset and an echo."""
    by_hand = ListeningService(scene, door_kind)
    service = scene.addresses.of_kind(door_kind)
    services = {"x": service, "hand": by_hand.address, "echo": scene.echo_service()}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        pair, doors = carry(scene, kind, services, door_kind, near=args, far=args)
    ends = ("--connect", doors["x"].traffic, "--listen", service.traffic)
    scene.traffic("exchange", *ends, "--streams", 50, "--bytes", scaled(2 * MIB, 200 * 1024), "--kill", 20)
    scene.traffic("exchange", *ends, "--streams", 20, "--bytes", "500K", "--half-close")
    scene.traffic("exchange", *ends, "--streams", 5, "--bytes", "5000", "--tiny")
    with doors["hand"].connect() as client:
        client.sendall(b"hello")
        far_end = by_hand.accept()
        assert receive(far_end, 5) == b"hello"
        close_hard(far_end)
        expect_reset(client, 5)
    with doors["echo"].connect() as client:
        for count in range(300):
            echo(client, f"answer {count}".encode())
    pair.wait_at_rest()


@pytest.mark.parametrize("door_kind", ["tcp", "unix"])
def test_without_a_feature_everything_still_works(
    scene: Scene, kind: str, door_kind: str, without: str
) -> None:
    carries_everything(scene, kind, door_kind, "--disable", without)


def test_the_environment_switches_a_feature_off_as_well(scene: Scene, without: str) -> None:
    carries_everything(scene, "unix", "tcp", VIRTPROXY_DISABLE=without)


def test_features_shows_what_is_switched_off(without: str) -> None:
    run = subprocess.run(
        [BIN / "virtproxy", "--disable", without, "--features"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    lines = dict(line.split() for line in run.stdout.splitlines() if line.strip())
    for name in without.split(","):
        assert lines[name] == "no", run.stdout


def test_an_unknown_feature_cannot_be_switched_off(scene: Scene) -> None:
    channel = scene.addresses.unix()
    command = [BIN / "virtproxy", "-c", f"unix-listen:{channel.spec}", "--disable", "warp-drive"]
    assert "warp-drive" in scene.run(command, timeout=10, expect=1).stderr()
