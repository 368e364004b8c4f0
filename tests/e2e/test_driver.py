"""Which driver a daemon waits with: the one that is asked for, or epoll where io_uring cannot be had."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
from pathlib import Path

import pytest

import intruder as intrusion
from confined import break_in
from harness import BIN, Pair, SANITIZED, Scene, into, out
from intruder import intruder
from stage import echo_once

WITHOUT_CALL = Path(__file__).with_name("without_call.py")
# What stands in the way, and what is said to change it.
REFUSALS = {
    "io_uring_setup:EPERM": r"sysctl kernel\.io_uring_disabled=0.*seccomp profile",
    "io_uring_setup:ENOSYS": r"Linux 5\.19",
    "io_uring_restrictions:EPERM": r"allow io_uring_register",
}
WAITING = {
    "io_uring": [
        ("io_uring_enter", (-1, 0, 0, 0, 0)),
        ("io_uring_register", (-1, 0, 0, 0)),
    ],
    "epoll": [
        ("epoll_wait", (-1, 0, 0, 0)),
        ("epoll_pwait", (-1, 0, 0, 0, 0, 0)),
        ("epoll_ctl", (-1, 0, 0, 0)),
        ("timerfd_settime", (-1, 0, 0, 0)),
    ],
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_where_io_uring_is_refused_it_goes_on_with_epoll_and_says_why(scene: Scene, refusal: str) -> None:
    wrapper = [sys.executable, WITHOUT_CALL, refusal]
    features = scene.run([*wrapper, BIN / "virtproxy", "--features", "--driver", "auto"])
    assert features.stdout().splitlines()[0] == "driver epoll"
    assert re.search(REFUSALS[refusal], features.stderr()), features.stderr()

    channels = [scene.addresses.unix(), scene.addresses.unix()]
    door, service = scene.addresses.tcp(), scene.echo_service()
    args = ["--driver", "auto", "--threads", "2"]
    for number, channel in enumerate(channels):
        args += ["-c", f"unix-listen:{channel.spec}:{number}"]
    near = scene.daemon(*args, *out("echo", door, 0), name="near", channels=(0, 1), wrapper=wrapper)
    lines = [line for line in near.err.lines() if "going on with epoll" in line]
    assert len(lines) == 1, near.everything()
    assert " warn " in lines[0] and re.search(REFUSALS[refusal], lines[0]), lines[0]
    scene.daemon("-c", f"unix-connect:{channels[0].spec}", *into("echo", service), name="far")
    near.wait_up()
    echo_once(door)
    mark = near.mark()
    near.stats()
    near.wait_for_log(r"stats worker=0 .*driver=epoll", since=mark)


def test_where_asking_for_io_uring_is_fatal_it_has_to_be_told(scene: Scene) -> None:
    """A filter that kills says nothing first; with --driver epoll the call is never made."""
    wrapper = [sys.executable, WITHOUT_CALL, "io_uring_setup:KILL"]
    program = [*wrapper, BIN / "virtproxy", "--features", "--driver"]
    scene.run([*program, "auto"], expect=-signal.SIGSYS)
    assert scene.run([*program, "epoll"]).stdout().startswith("driver epoll\n")
    channel, door = scene.addresses.unix(), scene.addresses.tcp()
    scene.daemon("-c", f"unix-listen:{channel.spec}", *out("echo", door), "--driver", "epoll", wrapper=wrapper)
    far = scene.daemon("-c", f"unix-connect:{channel.spec}", *into("echo", scene.echo_service()),
                       "--driver", "epoll", wrapper=wrapper)
    far.wait_up()
    echo_once(door)


@pytest.mark.parametrize("protocol", [2, 1])
def test_no_system_call_newer_than_linux_4_18_is_needed(scene: Scene, protocol: int) -> None:
    wrapper = [sys.executable, WITHOUT_CALL, "linux-4.18"]
    channel, door, service = scene.addresses.tcp(), scene.addresses.tcp(), scene.addresses.unix()
    options = ["--driver", "auto", "--user", "nobody", "--protocol", str(protocol)]
    scene.directory.chmod(0o755)
    scene.serve("echo", service)
    os.chmod(service.place, 0o666)
    near = scene.daemon("-c", f"tcp-listen:{channel.spec}", *out("echo", door), *options, wrapper=wrapper)
    far = scene.daemon("-c", f"tcp-connect:localhost:{channel.port}", *into("echo", service), *options,
                       wrapper=wrapper)
    for daemon in (near, far):
        daemon.wait_up(protocol=protocol)
        daemon.wait_for_log(r"going on with epoll.*Linux 5\.19")
        if not SANITIZED:  # A build with sanitizers has no sandbox.
            daemon.wait_for_log(r"Landlock")
    result = scene.traffic("probe", "--connect", door.traffic, "--seconds", 0.5, "--size", 4096)
    assert result["ok"] and result["echo"]["count"] > 10, result


@pytest.mark.parametrize("driver", ["io_uring", "epoll"])
def test_the_driver_that_is_asked_for_is_in_use(scene: Scene, driver: str) -> None:
    features = scene.run([BIN / "virtproxy", "--features", "--driver", driver])
    assert features.stdout().splitlines()[0] == f"driver {driver}"
    assert features.stderr() == ""
    daemon = scene.daemon("-c", f"unix-listen:{scene.addresses.unix().spec}", "--driver", driver)
    daemon.stats()
    daemon.wait_for_log(rf"stats worker=0 .*driver={driver}$")


@break_in
@pytest.mark.parametrize("driver", ["io_uring", "epoll"])
def test_the_calls_of_the_other_driver_are_refused(scene: Scene, driver: str) -> None:
    door, service = scene.addresses.unix(), scene.echo_service()
    pair = Pair(scene, "unix", near=[*out("echo", door), "--driver", driver], far=into("echo", service))
    pair.near.intruded = True
    for tid in intrusion.threads(pair.near.pid):
        with intruder(pair.near.pid, tid) as inside:
            for other, calls in WAITING.items():
                for name, args in calls:
                    # What is allowed finds fault with its arguments.
                    refused = inside.call(name, *args) == -errno.EPERM
                    assert refused == (other != driver), name
    echo_once(door)
