"""What is measured runs here: a directory, and processes that die with us.

A Stage holds one set-up: its processes are pinned as the placement says, write their output to
files, and are ended, each by its own pid, when the stage closes.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
PATIENCE = 20.0


class Failed(Exception):
    """Something could not be started or measured; the text says what."""


@dataclass(frozen=True)
class Address:
    """A unix socket (port 0) or a TCP address."""

    place: str
    port: int = 0

    @property
    def unix(self) -> bool:
        return self.port == 0

    @property
    def url(self) -> str:
        """As virtproxy-bench and the relays write it."""
        return f"unix:{self.place}" if self.unix else f"tcp:{self.place}:{self.port}"

    @property
    def spec(self) -> str:
        """As virtproxy writes it."""
        return f"{self.place}:-" if self.unix else f"{self.place}:{self.port}"


def free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def find_program(name: str) -> str:
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        raise Failed(f"{name} is not installed")
    return found


def await_that(what: str, condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {seconds:g} s")
        time.sleep(0.01)


def listening(address: Address) -> bool:
    """Whether somebody listens there, as /proc says: connecting would be traffic."""
    if address.unix:
        text = Path("/proc/net/unix").read_text(errors="replace")
        # HAProxy binds to a name with a suffix and renames the file afterwards.
        return os.path.exists(address.place) and any(
            fields[3] == "00010000" and fields[-1].startswith(address.place)
            for fields in map(str.split, text.splitlines()[1:]))
    port = f":{address.port:04X}"
    text = Path("/proc/net/tcp").read_text()
    return any(fields[1].endswith(port) and fields[3] == "0A"
               for fields in map(str.split, text.splitlines()[1:]))


def descendants(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(child) for child in task.read_text().split()]
    return found


def cpu_seconds(pids: Sequence[int]) -> float:
    """CPU of all threads of living processes, to the nanosecond."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                total += int(task.read_text().split()[0])
    return total / 1e9


def thread_seconds(pid: int) -> list[float]:
    """CPU of each thread of a process."""
    return [cpu_of_thread(task) for task in sorted(Path(f"/proc/{pid}/task").iterdir())]


def cpu_of_thread(task: Path) -> float:
    return int((task / "schedstat").read_text().split()[0]) / 1e9


def parse_cpu_line(text: str) -> tuple[float, float]:
    """Seconds that all CPUs were busy, and that were stolen from them, of /proc/stat."""
    fields = [int(field) / os.sysconf("SC_CLK_TCK") for field in text.split("\n", 1)[0].split()[1:]]
    user, nice, system, _, _, interrupts, soft, stolen = fields[:8]
    return user + nice + system + interrupts + soft, stolen


class Neighbours:
    """How much of the machine others used since this was made, as reasons not to believe a run."""

    MOST = 0.10  # of all CPUs; of time stolen: a fifth of that

    def __init__(self) -> None:
        self._since = self._sample()

    def reasons(self) -> list[str]:
        at, busy, stolen, ours = (now - then for now, then in zip(self._sample(), self._since))
        room = at * (os.cpu_count() or 1)
        found = []
        if (others := (busy - ours) / room) > self.MOST:
            found.append(f"other processes used {others:.1%} of the machine")
        if (steal := stolen / room) > self.MOST / 5:
            found.append(f"steal {steal:.1%}")
        return found

    @staticmethod
    def _sample() -> tuple[float, float, float, float]:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        ours = cpu_seconds(descendants(os.getpid())) + ended.ru_utime + ended.ru_stime
        return time.monotonic(), *parse_cpu_line(Path("/proc/stat").read_text()), ours


class Process:
    def __init__(self, name: str, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.popen = popen
        self.pid = popen.pid
        self.log = log

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def check_alive(self) -> None:
        if self.popen.poll() is not None:
            tail = " / ".join(self.text().strip().splitlines()[-3:])
            raise Failed(f"{self.name} ended with {self.popen.returncode}: {tail}")

    def await_text(self, wanted: str, seconds: float = PATIENCE) -> None:
        def said() -> bool:
            self.check_alive()
            return wanted in self.text()

        await_that(f'{self.name} says "{wanted}"', said, seconds)


class Stage(contextlib.AbstractContextManager["Stage"]):
    """`cpus`: where everything runs; None leaves it to the kernel."""

    def __init__(self, cpus: frozenset[int] | None = None) -> None:
        self.cpus = cpus
        self.directory = Path(tempfile.mkdtemp(prefix="vp-perf-"))
        self.measured: list[Process] = []  # processes whose CPU counts
        self._all: list[Process] = []

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._all):
            self._end(process)
        shutil.rmtree(self.directory, ignore_errors=True)

    def path(self, name: str) -> str:
        return str(self.directory / name)

    def unix(self, name: str) -> Address:
        return Address(self.path(name))

    def tcp(self) -> Address:
        return Address("127.0.0.1", free_port())

    def write(self, name: str, text: str) -> str:
        path = self.directory / name
        path.write_text(text)
        return str(path)

    def spawn(self, name: str, command: Sequence[str], measured: bool = True,
              stdin: object = subprocess.DEVNULL, stdout: object = None,
              pass_fds: Sequence[int] = (), prepare: Callable[[], None] | None = None) -> Process:
        log = self.directory / f"{name}-{len(self._all)}.log"
        cpus = self.cpus

        def before_exec() -> None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if cpus is not None:
                os.sched_setaffinity(0, cpus)
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            if prepare is not None:
                prepare()

        with log.open("wb") as output:
            popen = subprocess.Popen(
                list(command), stdin=stdin, stdout=output if stdout is None else stdout,
                stderr=output, pass_fds=pass_fds, preexec_fn=before_exec, cwd=self.directory)
        process = Process(name, popen, log)
        self._all.append(process)
        if measured:
            self.measured.append(process)
        return process

    def run(self, command: Sequence[str], seconds: float = PATIENCE) -> None:
        done = subprocess.run(list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=seconds, check=False)
        if done.returncode != 0:
            raise Failed(f"{command[0]}: {done.stdout.decode(errors='replace').strip()}")

    def await_listening(self, address: Address) -> None:
        def good() -> bool:
            for process in self._all:
                process.check_alive()
            return listening(address)

        await_that(f"somebody listens at {address.url}", good)

    def pids(self) -> list[int]:
        return [process.pid for process in self.measured]

    def await_rest(self, seconds: float = 3) -> None:
        """Until what is measured uses next to no CPU: less than 1 ms in 50 ms."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            pids = [each for pid in self.pids() for each in descendants(pid)]
            before = cpu_seconds(pids)
            time.sleep(0.05)
            if cpu_seconds(pids) - before < 0.001:
                return

    def _end(self, process: Process) -> None:
        children = descendants(process.pid)[1:]
        if process.popen.poll() is None:
            process.popen.terminate()
            try:
                process.popen.wait(3)
            except subprocess.TimeoutExpired:
                process.popen.kill()
                process.popen.wait()
        for child in children:  # socat and sshd leave theirs to themselves
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
