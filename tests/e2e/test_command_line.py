"""The command line: exit codes and messages, under both names of the program."""

from __future__ import annotations

import re
import socket

import pytest

from harness import BIN, Scene
from processes import Process

PROGRAMS = ("virtproxy", "qemu-vp")


@pytest.fixture(name="program", params=PROGRAMS)
def fixture_program(request: pytest.FixtureRequest) -> str:
    return request.param


def run(scene: Scene, program: str, *args: str, expect: int = 1) -> Process:
    """Runs to the end, which a usage error reaches at once."""
    return scene.run([BIN / program, *args], timeout=10, expect=expect)


def fails(scene: Scene, program: str, *args: str) -> str:
    """The complaint of a run that must fail: short, on standard error, nothing on standard out."""
    process = run(scene, program, *args)
    complaint = process.stderr()
    assert complaint.strip(), "a failure without a word"
    assert len(complaint.strip().splitlines()) <= 3, f"not a short message: {complaint}"
    assert process.stdout() == ""
    return complaint


def test_the_second_name_is_the_same_program() -> None:
    assert (BIN / "qemu-vp").resolve() == (BIN / "virtproxy").resolve()


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_explains_every_option_and_succeeds(scene: Scene, program: str, flag: str) -> None:
    text = run(scene, program, flag, expect=0).stdout()
    for option in (
        *("--channel", "--oforward", "--iforward", "--verbose", "--help", "--version"),
        *("--protocol", "--threads", "--max-streams", "--memory", "--window", "--log-level"),
    ):
        assert option in text, option
    for method in (
        *("unix-connect", "unix-listen", "tcp-connect", "tcp-listen", "virtserial-open"),
        *("virtio-serial", "isa-serial", "vsock-connect", "vsock-listen"),
    ):
        assert method in text, method
    assert re.search(r"(?i)example", text)


@pytest.mark.parametrize("flag", ["-V", "--version"])
def test_version_prints_a_version_and_succeeds(scene: Scene, program: str, flag: str) -> None:
    assert re.search(r"\d+\.\d+", run(scene, program, flag, expect=0).stdout())


def test_no_channel_is_an_error(scene: Scene, program: str) -> None:
    assert "no channel specified" in fails(scene, program)
    assert "no channel specified" in fails(scene, program, "-o", "http:127.0.0.1:9080")


@pytest.mark.parametrize("flag", ["-c", "-o", "-i"])
@pytest.mark.parametrize(
    "spec",
    [
        "nonsense",
        "a:",
        "a:b",
        ":127.0.0.1:80",
        "a:[::1:80",
        "a:127.0.0.1:no-such-port-name",
        "a:127.0.0.1:70000",
        "a:127.0.0.1:80:minus-one",
        "a:127.0.0.1:80:0:0",
    ],
)
def test_a_bad_specification_is_quoted_in_the_error(
    scene: Scene, program: str, flag: str, spec: str
) -> None:
    channel = f"unix-listen:{scene.addresses.unix().spec}"
    if flag == "-c":
        spec = spec.replace("a:", "tcp-listen:", 1)
    args = [flag, spec] if flag == "-c" else ["-c", channel, flag, spec]
    complaint = fails(scene, program, *args)
    no_method = flag == "-c" and spec.startswith(":") and "invalid channel type" in complaint
    assert no_method or f"error parsing arg: {spec}" in complaint, complaint


def test_an_invalid_channel_type_is_named(scene: Scene, program: str) -> None:
    complaint = fails(scene, program, "-c", "pigeon-post:127.0.0.1:80")
    assert "invalid channel type: pigeon-post" in complaint


@pytest.mark.parametrize("flag", ["-o", "-i"])
def test_a_forward_to_a_missing_channel_is_named(scene: Scene, program: str, flag: str) -> None:
    channel = f"unix-listen:{scene.addresses.unix().spec}"
    complaint = fails(scene, program, "-c", channel, flag, "http:127.0.0.1:9080:7")
    assert "unable to find channel with index: 7" in complaint


@pytest.mark.parametrize(
    "args",
    [
        ["--threads", "0"],
        ["--threads", "many"],
        ["--max-streams", "-1"],
        ["--memory", "lots"],
        ["--window", "12Q"],
        ["--log-level", "shout"],
        ["--no-such-option"],
        ["-c"],
        ["stray"],
    ],
    ids=" ".join,
)
def test_a_bad_option_is_an_error(scene: Scene, program: str, args: list[str]) -> None:
    channel = f"unix-listen:{scene.addresses.unix().spec}"
    complaint = fails(scene, program, "-c", channel, *args)
    assert args[-1] in complaint, complaint


def test_all_the_old_ways_to_write_arguments_work(scene: Scene, program: str) -> None:
    """Short and long, joined and apart, a port by its service name, and a stale socket's path."""
    channel, door = scene.addresses.unix(), scene.addresses.unix()
    channel.listen().close()
    door.listen().close()
    try:
        port = "http" if socket.getservbyname("http") == 80 else "80"
    except OSError:
        port = "80"  # No /etc/services here.
    for args in (
        [f"-cunix-listen:{channel.spec}", f"-ohttp:{door.spec}", f"-iweb:127.0.0.1:{port}"],
        ["--channel", f"unix-listen:{channel.spec}:0", "--oforward", f"http:{door.spec}:0"],
        [f"--channel=unix-listen:{channel.spec}", f"--iforward=web:{door.spec}", "--verbose"],
        ["-v", "-c", f"unix-listen:{channel.spec}", "-i", "web:[::1]:80", "-i", "x:localhost:22"],
    ):
        command = [str(BIN / program), *args]
        process = scene.spawn(command)
        process.err.wait_for(r"\bready\b", 10)
        process.send_signal(15)
        assert process.wait(10) == 0, process.everything()


def test_log_lines_carry_a_level(scene: Scene) -> None:
    daemon = scene.daemon("-c", f"unix-listen:{scene.addresses.unix().spec}")
    daemon.terminate()
    for line in daemon.err.lines():
        assert re.search(r"(?i)error|warn|info|debug", line), line


def test_a_log_level_hides_what_is_below_it(scene: Scene) -> None:
    channel = f"unix-listen:{scene.addresses.unix().spec}"
    quiet = scene.spawn([BIN / "virtproxy", "-c", channel, "--log-level", "error"])
    chatty = f"unix-connect:{scene.addresses.unix().spec}"
    loud = scene.daemon("-c", chatty, "--log-level", "debug")
    loud.terminate()
    quiet.send_signal(15)
    quiet.wait(10)
    assert not re.search(r"(?i)\b(info|debug)\b", quiet.stderr()), quiet.stderr()
