"""The host end of the guest's control channel: requests out, starts and ends of jobs in.

The channel is a virtio-serial port of its own, so that no kernel message and no tty setting can
get between the bytes. The format is described in control.sh, its other end.
"""

from __future__ import annotations

import itertools
import select
import socket
import threading
import time

from .initramfs import GuestError

CHUNK = 64 * 1024


class GuestTimeout(GuestError):
    """A deadline passed."""


class ControlLost(GuestError):
    """The control channel ended or carried what it must not."""


class Job:
    """One request: known to run once `pid` is set, over once `status` is set."""

    def __init__(self, number: int, command: str) -> None:
        self.number = number
        self.command = command
        self.pid: int | None = None
        self.status: int | None = None
        self.output = b""


class Control:
    """Sends requests over a connected socket; a thread takes the answers."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sending = threading.Lock()
        self._changed = threading.Condition()
        self._numbers = itertools.count(1)
        self._jobs: dict[int, Job] = {}
        self._lost: str | None = None
        self.kernel: str | None = None
        self._thread = threading.Thread(target=self._receive, name="guest-control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the channel and its thread."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._thread.join()
        self._sock.close()

    def wait_ready(self, timeout: float) -> None:
        """Returns once the guest's control loop has announced itself."""
        if not self._wait(lambda: self.kernel is not None, timeout):
            raise GuestTimeout(f"guest not ready after {timeout:g} s")

    def submit(self, command: str, stdin: bytes, timeout: float) -> Job:
        """Sends one request; returns without waiting for it to start."""
        job = Job(next(self._numbers), command)
        script = command.encode() + b"\n"
        head = f"{job.number} {len(script)} {len(stdin)}\n".encode()
        data = memoryview(head + script + stdin)
        deadline = time.monotonic() + timeout
        with self._sending:
            with self._changed:
                self._check()
                self._jobs[job.number] = job
            try:
                while data:
                    left = deadline - time.monotonic()
                    if left <= 0 or not select.select([], [self._sock], [], left)[1]:
                        # Half a request is in the pipe: nothing sensible can follow it.
                        self._fail(f"the guest stopped taking requests, in: {command}")
                        raise GuestTimeout(f"request not taken in {timeout:g} s: {command}")
                    data = data[self._sock.send(data[:CHUNK], socket.MSG_DONTWAIT):]
            except OSError as error:
                raise ControlLost(f"control channel lost: {error}") from error
        return job

    def wait_started(self, job: Job, timeout: float) -> int:
        """The pid (and process group and session) of the job."""
        if not self._wait(lambda: job.pid is not None, timeout):
            raise GuestTimeout(f"not started after {timeout:g} s: {job.command}")
        assert job.pid is not None
        return job.pid

    def wait_ended(self, job: Job, timeout: float) -> bool:
        """True once the job is over, False when the time is."""
        return self._wait(lambda: job.status is not None, timeout)

    def _check(self) -> None:
        if self._lost is not None:
            raise ControlLost(self._lost)

    def _wait(self, condition, timeout: float) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: condition() or self._lost is not None, timeout)
            if condition():
                return True
            self._check()
            return False

    def _fail(self, why: str) -> None:
        with self._changed:
            self._lost = self._lost or why
            self._changed.notify_all()

    def _receive(self) -> None:
        why = "control channel closed by QEMU (guest or QEMU ended)"
        with self._sock.makefile("rb") as stream:
            try:
                while line := stream.readline():
                    self._event(line, stream)
            except (OSError, ValueError, KeyError) as error:
                why = f"control channel broken: {error!r}"
        self._fail(why)

    def _event(self, line: bytes, stream) -> None:
        words = line.decode("ascii", "replace").split()
        if len(words) < 4 or words[0] != "VP":
            raise ValueError(f"unexpected line {line[:200]!r}")
        number, event, value = int(words[1]), words[2], words[3]
        output = b""
        if event == "ended":
            size = int(words[4])
            output = stream.read(size)
            if len(output) != size:
                raise ValueError(f"output of job {number} cut off")
        with self._changed:
            if event == "ready":
                self.kernel = value
            elif event == "started":
                self._jobs[number].pid = int(value)
            elif event == "ended":
                job = self._jobs.pop(number)
                job.output, job.status = output, int(value)
            else:
                raise ValueError(f"unexpected event {event!r}")
            self._changed.notify_all()
