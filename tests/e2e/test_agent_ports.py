"""virtagent on devices that go away: a serial line that hangs up, again and again."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import time
from datetime import datetime
from pathlib import Path

import pytest

from agent_ends import Agent, Line, await_that
from harness import PATIENCE, Scene

TIOCVHANGUP = 0x5437


class Master:
    """The other end of a tty, as much of a socket as Line needs."""

    def __init__(self, at: Path) -> None:
        """`at` names the tty until it is closed; its number is given to the next terminal then."""
        self._at = at
        self.fd, slave = pty.openpty()
        # The link always names one of them.
        new = at.with_suffix(".new")
        new.symlink_to(os.ttyname(slave))
        new.rename(at)
        os.close(slave)

    def settimeout(self, seconds: float) -> None:
        self.seconds = seconds

    def recv(self, size: int) -> bytes:
        if not select.select([self.fd], [], [], self.seconds)[0]:
            raise TimeoutError
        return os.read(self.fd, size)

    def sendall(self, data: bytes) -> None:
        os.write(self.fd, data)

    def close(self) -> None:
        self._at.unlink()
        os.close(self.fd)


class TtyLine(Line):
    def __init__(self, master: Master) -> None:
        self.socket = master
        self.socket.settimeout(10 * PATIENCE)
        self._read = b""

    def ping(self) -> None:
        self.send('\xff{"execute":"guest-sync-delimited","arguments":{"id":7}}\n'.encode("latin-1"))
        while self.message() != {"return": 7}:
            pass
        assert self.value("guest-ping") == {}


def test_a_line_that_has_hung_up_is_opened_again(scene: Scene) -> None:
    at = scene.directory / "tty"
    master = Master(at)
    agent = Agent(scene, "guest", "-c", f"isa-serial:{at}")
    agent.log("open")
    line = TtyLine(master)
    line.ping()
    mark = agent.mark()
    line.close()
    agent.log("closed, the device is gone or has hung up", mark)
    agent.log("cannot open isa-serial", mark)
    before = agent.cpu()
    time.sleep(0.5)
    assert agent.cpu() - before < 0.1
    mark = agent.mark()
    line = TtyLine(Master(at))
    agent.log("open", mark)
    line.ping()
    line.close()
    agent.terminate()


def test_a_line_that_hangs_up_again_and_again_is_opened_ever_less_often(scene: Scene) -> None:
    at = scene.directory / "tty"
    line = TtyLine(Master(at))
    agent = Agent(scene, "guest", "-c", f"isa-serial:{at}")
    for count in range(1, 5):
        await_that(f"open number {count}", lambda: len(times(agent, "open")) == count)
        line.ping()
        other = os.open(at, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            fcntl.ioctl(other, TIOCVHANGUP)
        except PermissionError:
            pytest.skip("only root may hang up a line")
        finally:
            os.close(other)
        await_that(f"loss number {count}", lambda: len(times(agent, "closed, .*")) == count)
    pauses = [opened - lost for lost, opened in zip(times(agent, "closed, .*"), times(agent, "open")[1:])]
    for pause, least in zip(pauses, (0.25, 0.5, 1.0), strict=True):
        assert least - 0.01 <= pause <= least + 0.5 * PATIENCE, pauses
    line.close()


def times(agent: Agent, what: str) -> list[float]:
    """When lines of the port said that, in seconds."""
    found = [re.match(rf"(\S+)Z info  port=\S+: {what}$", line) for line in agent.process.err.lines()]
    return [datetime.fromisoformat(each.group(1)).timestamp() for each in found if each]
