"""Runs real daemons and real traffic for the end-to-end tests.

A Scene owns a temporary directory and every process a test starts. Each wait has a deadline, each
process is ended by its own pid, and at the end every daemon that still lives must leave with exit
code 0 on SIGTERM, without a sanitizer report or a failed assertion in its log.

Environment: VIRTPROXY_BIN directory of the programs; VIRTPROXY_SCALE multiplies volumes (1);
VIRTPROXY_PATIENCE multiplies deadlines and latency limits, for slow builds (1);
VIRTPROXY_SANITIZED=1 says that resident memory means nothing in this build; VIRTPROXY_DRIVER is given
to every daemon as --driver, unless the test gives one.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from addresses import Address, Addresses
from processes import Process, deadline_after

BIN = Path(
    os.environ.get("VIRTPROXY_BIN")
    or Path(__file__).resolve().parents[2] / "build" / "release" / "bin"
)
SCALE = float(os.environ.get("VIRTPROXY_SCALE") or 1)
PATIENCE = float(os.environ.get("VIRTPROXY_PATIENCE") or 1)
SANITIZED = os.environ.get("VIRTPROXY_SANITIZED", "") not in ("", "0")
DRIVER = os.environ.get("VIRTPROXY_DRIVER", "")

ILLNESS = re.compile(
    r"AddressSanitizer|LeakSanitizer|ThreadSanitizer|UndefinedBehavior|runtime error:|\bassert|"
    r"the sandbox refused",
    re.IGNORECASE,
)
# An end of protocol 1 that has no clients sends nothing.
SENT_NOTHING = "connected, but the other end has sent nothing"
Args = Sequence[str | Path]


def scaled(amount: int, least: int = 1) -> int:
    """A volume of traffic, scaled by VIRTPROXY_SCALE."""
    return max(least, int(amount * SCALE))


def out(service: str, address: Address, channel: int | None = None) -> list[str]:
    """Arguments: listen at the address for clients of the other side's service."""
    return ["-o", f"{service}:{address.spec}" + ("" if channel is None else f":{channel}")]


def into(service: str, address: Address, channel: int | None = None) -> list[str]:
    """Arguments: connect streams of the service to the address."""
    return ["-i", f"{service}:{address.spec}" + ("" if channel is None else f":{channel}")]


@dataclass
class Stats:
    """What SIGUSR1 makes a daemon say."""

    channels: dict[int | str, dict[str, int]] = field(default_factory=dict)
    process: dict[str, int] = field(default_factory=dict)

    def total(self, key: str) -> int:
        return sum(values[key] for values in self.channels.values())

    def at_rest(self) -> bool:
        keys = ("streams", "send_buffers", "send_bytes", "held_bytes", "granted_bytes", "connecting")
        return all(self.total(key) == 0 for key in keys)


def _pairs(text: str) -> dict[str, int]:
    return {key: int(value) for key, value in re.findall(r"(\w+)=(-?\d+)\b", text)}


class Daemon(Process):
    """One virtproxy process."""

    def __init__(
        self,
        args: Args,
        name: str,
        channels: Sequence[int | str] = (0,),
        limits: dict[int, int] | None = None,
        env: dict[str, str] | None = None,
        wrapper: Args = (),
        program: str | Path = BIN / "virtproxy",
    ) -> None:
        self.channels = tuple(channels)
        self.expected_death = False
        self.longest_turn_us = 0  # Of the first worker, as far as stats() were asked for.
        self.intruded = False  # A test made it try what it must not do.
        driver = ["--driver", DRIVER] if DRIVER and "--driver" not in args else []
        super().__init__([*wrapper, program, *args, *driver], name, limits=limits, env=env)

    def wait_for_log(self, pattern: str, timeout: float = 10, since: int = 0) -> re.Match[str]:
        """Waits for a line on standard error that the pattern matches somewhere."""
        return self.err.wait_for(pattern, timeout * PATIENCE, since)

    def mark(self) -> int:
        """A position in the log, for `since`."""
        return self.err.count()

    def wait_ready(self) -> None:
        self.wait_for_log(r"\bready\b")

    def wait_up(
        self, channel: int | str = 0, since: int = 0, timeout: float = 15, protocol: int = 2
    ) -> None:
        """Waits for a session. One of protocol 1 may begin without a byte from the other end."""
        up = rf"up, protocol {protocol}\b"
        state = rf"({up}|{SENT_NOTHING})" if protocol == 1 else up
        self.wait_for_log(f"channel {channel}: {state}", timeout, since)

    def wait_session(self, channel: int | str = 0, since: int = 0) -> None:
        """Waits for a session of either protocol."""
        self.wait_for_log(rf"channel {channel}: (up, protocol \d|{SENT_NOTHING})", since=since)

    def wait_down(self, channel: int | str = 0, since: int = 0, timeout: float = 15) -> None:
        self.wait_for_log(rf"channel {channel}: down\b", timeout, since)

    def stats(self) -> Stats:
        since = self.mark()
        self.send_signal(signal.SIGUSR1)
        stats = Stats()
        for channel in self.channels:
            line = self.wait_for_log(rf"stats channel={channel}\b.*", 10, since).group(0)
            stats.channels[channel] = _pairs(line)
        stats.process = _pairs(self.wait_for_log(r"stats process\b.*", 10, since).group(0))
        worker = _pairs(self.wait_for_log(r"stats worker=0\b.*", 10, since).group(0))
        self.longest_turn_us = max(self.longest_turn_us, worker["longest_turn_us"])
        return stats

    def wait_stats(self, what: str, good: Callable[[Stats], bool], timeout: float = 15) -> Stats:
        """Asks for statistics until they are good."""
        deadline = deadline_after(timeout * PATIENCE)
        while True:
            stats = self.stats()
            if good(stats):
                return stats
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name}: {what} did not come true: {stats}")
            time.sleep(0.05)

    def wait_at_rest(self, descriptors: int | None = None, timeout: float = 15) -> Stats:
        """Waits until no stream, buffer, dial (and no descriptor above `descriptors`) is left."""

        def good(stats: Stats) -> bool:
            few = descriptors is None or (
                stats.process["descriptors"] <= descriptors and self.fds() <= descriptors
            )
            return stats.at_rest() and few

        return self.wait_stats(f"rest with at most {descriptors} descriptors", good, timeout)

    def rss(self) -> int:
        """Resident memory in bytes."""
        return self._status("VmRSS")

    def peak_rss(self) -> int:
        """The most that was resident since reset_peak_rss(), or ever."""
        return self._status("VmHWM")

    def reset_peak_rss(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5", encoding="ascii")

    def _status(self, key: str) -> int:
        text = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        match = re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE)
        assert match, f"{self.name}: no {key}"
        return int(match.group(1)) * 1024

    def fds(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def cpu_seconds(self) -> float:
        """By the process's own clock, whose number the kernel makes of its pid."""
        return time.clock_gettime(~self.pid << 3 | 2)

    def limit_descriptors(self, soft: int) -> None:
        """Sets the soft limit of a running daemon."""
        hard = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (soft, hard))

    def terminate(self, timeout: float = 15) -> None:
        """SIGTERM; the daemon must leave with exit code 0 and a clean log."""
        self.expected_death = True
        self.send_signal(signal.SIGTERM)
        self.check_exit(timeout)

    def check_exit(self, timeout: float = 15, code: int = 0) -> None:
        self.expected_death = True
        got = self.wait(timeout * PATIENCE)
        assert got == code, f"{self.name}: exit code {got} instead of {code}"
        self.check_log()

    def kill9(self) -> None:
        self.expected_death = True
        self.kill()

    def check_log(self) -> None:
        for line in self.err.lines():
            if self.intruded and "the sandbox refused" in line:
                continue
            assert not ILLNESS.search(line), f"{self.name}: {line}"


class Scene:
    """Everything one test starts."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="vp-"))
        self.addresses = Addresses(self.directory)
        self.processes: list[Process] = []
        self._cleanups: list[Callable[[], None]] = []
        self._last_cleanups: list[Callable[[], None]] = []

    def daemon(self, *args: str | Path, name: str = "", wait: bool = True, **options) -> Daemon:
        """Starts a daemon and, unless told not to, waits until it listens."""
        count = sum(isinstance(process, Daemon) for process in self.processes)
        daemon = Daemon(args, name or f"daemon-{count}", **options)
        self.processes.append(daemon)
        if wait:
            daemon.wait_ready()
        return daemon

    def spawn(self, args: Args, name: str = "", **options) -> Process:
        """Starts any other program."""
        process = Process(args, name or Path(args[0]).name, **options)
        self.processes.append(process)
        return process

    def run(self, args: Args, timeout: float = 60, expect: int | None = 0, **options) -> Process:
        """Runs a program to its end."""
        process = self.spawn(args, **options)
        code = process.wait(timeout * PATIENCE)
        assert expect is None or code == expect, (
            f"{process.name}: exit code {code} instead of {expect}\n{process.everything()}"
        )
        return process

    def start_traffic(self, *args: str | int | float) -> Process:
        """Starts a role of the traffic tool in the background."""
        command = [str(BIN / "virtproxy-traffic"), *(str(arg) for arg in args)]
        return self.spawn(command, name=f"traffic {args[0]}")

    def traffic(self, *args: str | int | float, timeout: float = 120) -> dict:
        """Runs a role of the traffic tool to its end and returns its result."""
        return self.start_traffic(*args).result(timeout * PATIENCE)

    def hold(self, key: str, *args: str | int | float, timeout: float = 60) -> Process:
        """Starts a role that stays, and waits until it says `key` on standard output."""
        process = self.start_traffic(*args)
        process.json_with(key, timeout * PATIENCE)
        return process

    def serve(self, role: str, address: Address) -> Process:
        return self.hold("ready", role, "--listen", address.traffic)

    def echo_service(self) -> Address:
        """A new echo service; returns where it listens."""
        address = self.addresses.tcp()
        self.serve("echo", address)
        return address

    def cleanup(self, call: Callable[[], None]) -> None:
        """Something to do at the end, before the processes are ended."""
        self._cleanups.append(call)

    def cleanup_last(self, call: Callable[[], None]) -> None:
        """Something to do when no process is left.

        A pseudo-terminal that a daemon names by its path is closed here: the kernel gives its number to the
        next one that anybody opens, and a daemon that still runs would open that one.
        """
        self._last_cleanups.append(call)

    def daemons(self) -> list[Daemon]:
        return [process for process in self.processes if isinstance(process, Daemon)]

    def logs(self) -> list[tuple[str, str]]:
        return [(process.name, process.everything()) for process in self.processes]

    def close(self, graceful: bool) -> None:
        """Ends everything; with `graceful` the daemons must leave well."""
        for call in reversed(self._cleanups):
            call()
        troubles: list[str] = []
        for process in self.processes:
            if not isinstance(process, Daemon):
                process.kill()
        alive = [daemon for daemon in self.daemons() if daemon.alive()]
        for daemon in self.daemons():
            if daemon not in alive and not daemon.expected_death:
                troubles.append(f"{daemon.name} died by itself, exit code {daemon.poll()}")
        for daemon in alive if graceful else []:
            daemon.send_signal(signal.SIGTERM)
        for daemon in alive if graceful else []:
            try:
                daemon.check_exit(20)
            except AssertionError as trouble:
                troubles.append(str(trouble))
        for daemon in self.daemons():
            daemon.kill()
            try:
                daemon.check_log()
            except AssertionError as trouble:
                troubles.append(str(trouble))
        for call in reversed(self._last_cleanups):
            call()
        shutil.rmtree(self.directory, ignore_errors=True)
        assert not troubles, "\n".join(troubles)


class Pair:
    """Two daemons over a channel: `near` listens for it, `far` connects to it."""

    def __init__(
        self,
        scene: Scene,
        kind: str = "unix",
        near: Args = (),
        far: Args = (),
        near_limits: dict[int, int] | None = None,
    ) -> None:
        self.scene = scene
        self.kind = kind
        if kind == "vsock":
            spec = f"1:{scene.addresses.number()}"
            listen, connect = f"vsock-listen:{spec}", f"vsock-connect:{spec}"
        else:
            self.address = scene.addresses.of_kind(kind)
            method = "tcp" if self.address.is_tcp else "unix"
            listen = f"{method}-listen:{self.address.spec}"
            connect = f"{method}-connect:{self.address.spec}"
        self.near_args = ["-c", listen, *near]
        self.far_args = ["-c", connect, *far]
        self.near = scene.daemon(*self.near_args, name="near", limits=near_limits)
        self.far = scene.daemon(*self.far_args, name="far")
        self.near.wait_up()
        self.far.wait_up()

    def both(self) -> tuple[Daemon, Daemon]:
        return self.near, self.far

    def start_far(self) -> None:
        """Starts the far daemon anew and waits for its session."""
        mark = self.near.mark()
        self.far = self.scene.daemon(*self.far_args, name="far again")
        self.far.wait_up()
        self.near.wait_up(since=mark)

    def wait_at_rest(self, descriptors: tuple[int, int] | None = None, timeout: float = 15) -> None:
        for index, daemon in enumerate(self.both()):
            daemon.wait_at_rest(descriptors[index] if descriptors else None, timeout)

    def descriptors(self) -> tuple[int, int]:
        """Descriptors of both: the larger of what the kernel and the daemon count."""
        near, far = (max(d.fds(), d.stats().process["descriptors"]) for d in self.both())
        return near, far
