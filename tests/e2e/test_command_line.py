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
        "a:127.0.0.1:80:-minus-one",
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


def test_memory_is_weighed_for_every_channel(scene: Scene, program: str) -> None:
    """A serial line has a bound of its own on streams, so it may be content where others are not."""
    line, other = scene.addresses.unix(), scene.addresses.unix()
    channels = ["-c", f"isa-serial:{line.spec}", "-c", f"unix-connect:{other.spec}"]
    complaint = fails(scene, program, *channels, "--memory", "8M", "--max-streams", "16384")
    assert "too little memory" in complaint and "--memory" in complaint, complaint


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


# Every form of the 2010 daemon's command line. {u} and {d} are unix paths that are free, {s} is one
# with a stale socket, {p} and {q} are free TCP ports, {n} is 31 characters long.
GOOD = {
    "unix-listen": (["-c", "unix-listen:{u}:-"], ["listening on {u}"]),
    "unix-listen, stale": (["-c", "unix-listen:{s}:-"], ["listening on {s}"]),
    "unix-connect": (["-c", "unix-connect:{u}:-"], ["{u}"]),
    "tcp-listen": (["-c", "tcp-listen:127.0.0.1:{p}"], ["listening on 127.0.0.1:{p}"]),
    "tcp-listen, IPv6": (["-c", "tcp-listen:[::1]:{p}"], [r"listening on \[::1\]:{p}"]),
    "tcp-connect": (["-c", "tcp-connect:127.0.0.1:{p}"], ["127.0.0.1:{p}"]),
    "tcp-connect, a name": (["-c", "tcp-connect:localhost:{p}"], ["channel 0: tcp-connect: "]),
    "tcp-connect, IPv6": (["-c", "tcp-connect:[::1]:{p}"], [r"\[::1\]:{p}"]),
    "virtserial-open": (["-c", "virtserial-open:{u}:-"], ["{u}"]),
    "joined": (["-cunix-listen:{u}:-"], ["listening on {u}"]),
    "long": (["--channel", "unix-listen:{u}:-"], ["listening on {u}"]),
    "long, joined": (["--channel=unix-listen:{u}:-"], ["listening on {u}"]),
    "a channel's id": (["-c", "unix-listen:{u}:-:3"], ["channel 3: listening on {u}"]),
    "an id of TCP": (["-c", "tcp-listen:127.0.0.1:{p}:3"], ["channel 3: .*127.0.0.1:{p}"]),
    "several channels": (
        ["-c", "unix-listen:{u}:-", "-ctcp-listen:[::1]:{p}", "--channel=tcp-listen:127.0.0.1:{q}"],
        ["channel 0: .*{u}", r"channel 1: .*\[::1\]:{p}", "channel 2: .*127.0.0.1:{q}"],
    ),
    "-o": (["-o", "http:127.0.0.1:{p}"], ["listening on 127.0.0.1:{p} for service http"]),
    "-o, joined": (["-ohttp:127.0.0.1:{p}"], ["listening on 127.0.0.1:{p} for service http"]),
    "-o, long": (["--oforward", "a:127.0.0.1:{p}"], ["listening on 127.0.0.1:{p} for service a"]),
    "-o, long, joined": (["--oforward=a:{d}:-"], ["listening on {d} for service a"]),
    "-o, a path": (["-o", "http:{d}:-"], ["listening on {d} for service http"]),
    "-o, a stale path": (["-o", "http:{s}:-"], ["listening on {s} for service http"]),
    "-o, IPv6": (["-o", "http:[::1]:{p}"], [r"listening on \[::1\]:{p} for service http"]),
    "-o, with an id": (["-o", "http:127.0.0.1:{p}:0"], ["channel 0: .*:{p} for service http"]),
    "-o, a path with an id": (["-o", "http:{d}:-:0"], ["channel 0: .*{d} for service http"]),
    "-o, IPv6 with an id": (["-o", "http:[::1]:{p}:0"], ["channel 0: .*:{p} for service http"]),
    "-o, the other channel": (
        ["-c", "unix-listen:{d}:-", "-o", "http:127.0.0.1:{p}:1"],
        ["channel 1: listening on 127.0.0.1:{p} for service http"],
    ),
    "-o, 31 characters": (["-o", "{n}:127.0.0.1:{p}"], ["for service {n}"]),
    "-o, repeated": (
        ["-o", "http:127.0.0.1:{p}", "-ossh:127.0.0.1:{q}", "--oforward=ssh:{d}:-"],
        ["{p} for service http", "{q} for service ssh", "{d} for service ssh"],
    ),
    "-i": (["-i", "http:127.0.0.1:80"], []),
    "-i, joined": (["-ihttp:127.0.0.1:80"], []),
    "-i, long": (["--iforward", "http:127.0.0.1:80"], []),
    "-i, long, joined": (["--iforward=http:127.0.0.1:80:0"], []),
    "-i, a service's name as port": (["-i", "http:127.0.0.1:http"], []),
    "-i, a path": (["-i", "http:{d}:-"], []),
    "-i, IPv6": (["-i", "http:[::1]:80:0"], []),
    "-i, 31 characters": (["-i", "{n}:127.0.0.1:80"], []),
    "-i, repeated": (["-i", "http:127.0.0.1:80", "-i", "ssh:127.0.0.1:22"], []),
    "forwards before the channel": (["-o", "a:{d}:-", "-c", "unix-listen:{u}:-"], ["{d}", "{u}"]),
    "-v": (["-v"], ["debug"]),
    "--verbose": (["--verbose"], ["debug"]),
}


def fill(scene: Scene, texts: list[str]) -> list[str]:
    values = {
        "u": scene.addresses.unix().place,
        "d": scene.addresses.unix().place,
        "s": scene.directory / "stale",
        "p": scene.addresses.tcp().port,
        "q": scene.addresses.tcp().port,
        "n": "a-name-of-thirty-one-characters",
    }
    return [re.sub(r"\{([udspqn])\}", lambda m: str(values[m.group(1)]), text) for text in texts]


@pytest.mark.parametrize("form", GOOD)
def test_every_good_form_of_the_old_command_line(scene: Scene, program: str, form: str) -> None:
    args, patterns = GOOD[form]
    filled = fill(scene, [*args, *patterns])
    args, patterns = filled[: len(args)], filled[len(args) :]
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(scene.directory / "stale"))
    if form.startswith("-"):  # What is about forwards needs a channel, too.
        args = ["-c", f"unix-listen:{scene.directory}/own:-", *args]
    process = scene.spawn([str(BIN / program), *args])
    for pattern in (*patterns, r"\bready\b"):
        process.err.wait_for(pattern, 10)
    process.send_signal(15)
    assert process.wait(10) == 0, process.everything()


@pytest.mark.parametrize("flag", ["-c", "-o", "-i", "--channel", "--oforward", "--iforward"])
@pytest.mark.parametrize("joined", [False, True], ids=["apart", "joined"])
def test_every_bad_form_in_every_way_to_write_it(
    scene: Scene, program: str, flag: str, joined: bool
) -> None:
    specs = ["x", "unix-listen", "unix-listen:/x", "svc:127.0.0.1", "svc:127.0.0.1:80:zero"]
    specs += ["tcp-listen:127.0.0.1:-1", "svc::1:80:0:0", "a:[::1]80", "a:[]:80", "a:127.0.0.1:"]
    if flag[-1] in "oi" or "forward" in flag:
        specs += ["x" * 32 + ":127.0.0.1:80", "a\tb:127.0.0.1:80", "a:relative-and-no-port"]
    channel = f"unix-listen:{scene.addresses.unix().spec}"
    for spec in specs:
        written = [f"{flag}={spec}" if flag.startswith("--") else flag + spec]
        complaint = fails(scene, program, "-c", channel, *(written if joined else [flag, spec]))
        wrong_type = f"invalid channel type: {spec.partition(':')[0]}"
        right = [f"error parsing arg: {spec}".replace("\t", "\\x09")]
        if flag in ("-c", "--channel"):
            right.append(wrong_type)
        assert any(text in complaint for text in right), complaint


@pytest.mark.parametrize("flag", ["-c", "-o", "-i", "--channel", "--oforward", "--iforward"])
def test_an_option_without_its_argument_is_an_error(
    scene: Scene, program: str, flag: str
) -> None:
    """The long forms of old were declared without one."""
    channel = f"unix-listen:{scene.addresses.unix().spec}"
    fails(scene, program, "-c", channel, flag)


def test_a_channel_or_door_that_cannot_be_opened_is_an_error(scene: Scene, program: str) -> None:
    taken = scene.addresses.tcp()
    channel = f"unix-listen:{scene.addresses.unix().spec}"
    with taken.listen():
        for args in (
            ["-c", "unix-listen:/nowhere/at/all:-"],
            ["-c", f"tcp-listen:{taken.spec}"],
            ["-c", channel, "-o", f"a:{taken.spec}"],
            ["-c", channel, "-o", "a:/nowhere/at/all:-"],
        ):
            assert re.search("(?i)cannot listen", fails(scene, program, *args)), args


def test_a_path_that_is_no_socket_is_not_unlinked(scene: Scene, program: str) -> None:
    file = scene.directory / "precious"
    file.write_text("data", encoding="ascii")
    fails(scene, program, "-c", f"unix-listen:{file}:-")
    assert file.read_text(encoding="ascii") == "data"


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
