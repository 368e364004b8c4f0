"""Child processes whose output is read all the time and whose every wait has a deadline."""

from __future__ import annotations

import ctypes
import json
import os
import re
import resource
import select
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


def deadline_after(seconds: float) -> float:
    return time.monotonic() + seconds


def runs(process: str) -> bool:
    """A process whose parent is gone may stay as a zombie."""
    try:
        return ") Z" not in Path(f"/proc/{process}/stat").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return False


class Lines:
    """The lines a process has written so far.

    A thread reads them as they come, so that the process never waits; whoever asks gets all that
    was written before.
    """

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._name = name
        self._stream = stream
        self._lines: list[str] = []
        self._unfinished = b""
        self._ended = False
        self._changed = threading.Condition()
        os.set_blocking(stream.fileno(), False)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._stream:
            poll = select.poll()
            poll.register(self._stream, select.POLLIN)
            while not self._ended:
                poll.poll()
                with self._changed:
                    self._read_what_is_there()
                    self._changed.notify_all()

    def _read_what_is_there(self) -> None:
        while not self._ended:
            try:
                piece = os.read(self._stream.fileno(), 1 << 16)
            except BlockingIOError:
                return
            self._ended = not piece
            *whole, self._unfinished = (self._unfinished + piece).split(b"\n")
            if self._ended and self._unfinished:
                whole.append(self._unfinished)
            self._lines += [line.decode("utf-8", "replace") for line in whole]

    def count(self) -> int:
        return len(self.lines())

    def lines(self, since: int = 0) -> list[str]:
        with self._changed:
            self._read_what_is_there()
            self._changed.notify_all()
            return self._lines[since:]

    def wait_end(self, timeout: float = 5) -> None:
        self._thread.join(timeout)

    def wait_for(self, pattern: str, timeout: float, since: int = 0) -> re.Match[str]:
        regex = re.compile(pattern)
        deadline = deadline_after(timeout)
        at = since
        with self._changed:
            while True:
                while at < len(self._lines):
                    match = regex.search(self._lines[at])
                    if match:
                        return match
                    at += 1
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    why = "ended" if self._ended else f"said nothing of it for {timeout:g} s"
                    raise AssertionError(f"{self._name}: waited for /{pattern}/ but it {why}")
                self._changed.wait(left)


class Process:
    """A child that dies with us, with limits of its own when asked."""

    def __init__(
        self,
        args: Sequence[str | Path],
        name: str,
        limits: dict[int, int] | None = None,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self.command = [str(arg) for arg in args]

        def prepare() -> None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            for which, value in (limits or {}).items():
                resource.setrlimit(which, (value, value))

        self._popen = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            preexec_fn=prepare,
        )
        assert self._popen.stdout and self._popen.stderr
        self.pid = self._popen.pid
        self.out = Lines(self._popen.stdout, name)
        self.err = Lines(self._popen.stderr, name)

    def poll(self) -> int | None:
        return self._popen.poll()

    def alive(self) -> bool:
        return self.poll() is None

    def send_signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def wait(self, timeout: float) -> int:
        try:
            code = self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name}: still running after {timeout:g} s") from None
        self.out.wait_end()
        self.err.wait_end()
        return code

    def kill(self) -> None:
        if self.alive():
            self._popen.kill()
        self._popen.wait(10)

    def stdout(self) -> str:
        return "\n".join(self.out.lines())

    def stderr(self) -> str:
        return "\n".join(self.err.lines())

    def open_files(self) -> list[str]:
        """What its descriptors lead to; one that is closed meanwhile is left out."""
        found = []
        for fd in Path(f"/proc/{self.pid}/fd").glob("*"):
            with suppress(OSError):
                found.append(os.readlink(fd))
        return found

    def everything(self) -> str:
        """Command, exit code and all output, for a failure report."""
        return (
            f"$ {' '.join(self.command)}\nexit code: {self.poll()}\n"
            f"{self.stdout()}\n{self.stderr()}\n"
        )

    # The traffic tool speaks JSON lines.

    def json_with(self, key: str, timeout: float) -> dict:
        """Waits for a JSON line that has the key."""
        try:
            match = self.out.wait_for(rf'^\{{.*"{key}":.*\}}$', timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.everything()}") from None
        return json.loads(match.group(0))

    def result(self, timeout: float) -> dict:
        """Waits for the end, which must be a good one; returns the last JSON line."""
        code = self.wait(timeout)
        assert code == 0, f"{self.name}: exit code {code}\n{self.everything()}"
        return json.loads(self.out.lines()[-1])

    def finish(self, timeout: float = 20) -> dict:
        """Ends a role that stays, and returns its result."""
        self.send_signal(signal.SIGTERM)
        return self.result(timeout)
