"""`virtproxyctl doctor`: what it finds on this machine, at a daemon, on paths, and in lines of a log."""

from __future__ import annotations

import os
import pty
import pwd
import re
import signal
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from harness import BIN, PATIENCE, Scene, into, out

MANUAL = Path(__file__).resolve().parents[2] / "uring/daemon/OPERATING.md"
DEFAULT_CONTROL = Path("/run/virtproxy/control.sock")
WAIT = 30 * PATIENCE


def doctor(*args: str | Path, log: str | None = None) -> tuple[int, str]:
    done = subprocess.run([BIN / "virtproxyctl", "doctor", *args], input=log, capture_output=True,
                          text=True, timeout=WAIT, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


def advice_on(text: str, finding: str) -> str:
    """What is to be done about the finding."""
    lines = text.splitlines()
    (at,) = [index for index, line in enumerate(lines) if re.search(finding, line)]
    assert lines[at + 1].startswith("      -> "), lines[at]
    return lines[at + 1].removeprefix("      -> ")


def test_without_a_daemon_it_looks_at_the_machine_and_at_paths(scene: Scene) -> None:
    code, text = doctor()
    assert re.search(r"^(ok   |note ) .*(io_uring|epoll)", text, re.MULTILINE)
    assert "descriptors of a process started here" in text and "lockable memory" in text
    if not DEFAULT_CONTROL.exists():
        assert code == 0, text
        assert "--control PATH" in advice_on(text, "^note  no daemon was asked: .*there is no such socket")
    # A daemon that is named has to be there.
    code, text = doctor("--control", scene.directory / "no.sock")
    assert code == 1, text
    assert "start the daemon" in advice_on(text, "^WRONG .*no.sock.*there is no such socket")

    file, gone, link = (scene.directory / name for name in ("file", "gone", "sock"))
    file.write_text("")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(link))
        _, quiet = doctor("--control", gone, f"unix-connect:{link}:-")
        listener.listen()
        terminal, port = pty.openpty()
        name = os.ttyname(port)
        with subprocess.Popen(["sleep", "60"], stdin=port) as holder:
            code, text = doctor(
                "--control", gone, f"unix-connect:{file}:-", f"unix-connect:{gone}:-",
                f"unix-connect:{link}:-", f"unix-listen:{scene.directory}/new/path:-",
                f"unix-listen:{gone}:-", f"virtio-serial:{file}:-", f"virtserial-open:{name}:-",
            )
            holder.kill()
        os.close(terminal)
        os.close(port)
    assert code == 1
    assert "chardev" in advice_on(text, f"^WRONG {file} is a regular file$")
    assert "start the machine" in advice_on(text, f"^WRONG {gone}: No such file or directory$")
    mode = stat.S_IMODE(link.stat().st_mode) if link.exists() else 0
    assert f"ok    {link} is a socket, of uid {os.getuid()} and gid {os.getgid()}, mode {mode:04o}\n" in text
    assert "start the machine" in advice_on(quiet, f"^note  {link}: no process of this network namespace listens there$")
    assert "make the directory" in advice_on(text, f"^WRONG {scene.directory}/new: No such file")
    assert f"ok    {scene.directory} takes the listener's path\n" in text
    assert "one user at a time" in advice_on(text, rf"^WRONG {name} is open in .*sleep \(pid {holder.pid}\)")
    assert "a unix socket instead" in advice_on(text, rf"^note  {name} is a pseudo-terminal")


def test_a_method_that_is_none_is_refused() -> None:
    done = subprocess.run([BIN / "virtproxyctl", "doctor", "unix-conect:/run/vm1.sock:-"], capture_output=True,
                          text=True, timeout=WAIT, check=False)
    assert done.returncode != 0
    assert done.stderr == (
        "virtproxyctl: 'unix-conect' is no channel with a path (unix-connect, unix-listen, virtio-serial, "
        "virtserial-open, isa-serial): the nearest is unix-connect\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_a_socket_is_judged_with_the_rights_of_the_daemon(scene: Scene) -> None:
    channel, path = scene.addresses.unix(), scene.addresses.unix()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(channel.place)
        os.chmod(channel.place, 0o600)
        listener.listen()
        daemon = scene.daemon("-c", f"unix-connect:{channel.spec}", "-i", "echo:127.0.0.1:7", "--user", "nobody",
                              "--control", path.place)
        code, text = doctor("--control", path.place)
        user = pwd.getpwnam("nobody").pw_uid
        assert code == 1, text
        assert "as the socket's owner" in advice_on(
            text, f"^WRONG user {user} may not connect to {channel.place}, a socket of uid 0 and gid 0, mode 0600$")
        # For this user, root, it is fine.
        code, text = doctor("--control", scene.directory / "none", f"unix-connect:{channel.spec}")
        assert f"ok    {channel.place} is a socket, of uid 0 and gid 0, mode 0600\n" in text
        assert daemon.alive()


def test_with_a_daemon_it_looks_at_its_channels(scene: Scene) -> None:
    service, door, channel, path = (scene.addresses.unix() for _ in range(4))
    far = scene.daemon("-c", f"unix-listen:{channel.spec}", *into("echo", service), name="far")
    near = scene.daemon("-c", f"unix-connect:{channel.spec}", *out("echo", door), "--control", path.place,
                        name="near")
    near.wait_up()
    code, text = doctor("--control", path.place)
    assert code == 0, text
    assert re.search(rf"^ok    daemon \S+, pid {near.pid}, driver ", text, re.MULTILINE)
    assert "ok    channel 0 is up, protocol 2\n" in text
    assert re.search(r"^ok    the daemon has \d+ of \d+ descriptors", text, re.MULTILINE)
    far.send_signal(signal.SIGSTOP)
    code, text = doctor("--control", path.place)
    far.send_signal(signal.SIGCONT)
    assert code == 1
    assert "stands still" in advice_on(text, "^WRONG channel 0: the other end has not answered within 5 s$")
    mark = near.mark()
    far.terminate()
    near.wait_down(since=mark)
    code, text = doctor("--control", path.place)
    assert code == 1
    assert "events" in advice_on(text, "^WRONG channel 0 is down$")
    assert "start the machine" in advice_on(text, f"^WRONG {channel.place}: No such file")


def test_it_explains_every_message_of_the_manual() -> None:
    section = MANUAL.read_text(encoding="utf-8").split("## Messages that ask for something\n")[1]
    rows = re.findall(r"^\| (`.*`) \| (.*) \|$", section.split("\n## ")[0], re.MULTILINE)
    assert len(rows) > 15
    for messages, markdown in rows:
        advice = re.sub(r"\[([^][]*)\]\(.*?\)", r"\1", markdown).replace("`", "")
        for message in re.findall(r"`(.*?)`", messages):
            line = "2026-11-22T13:45:01.123Z warn  channel 0: " + message.replace("…", "this and that")
            code, text = doctor("--log", "-", log="nothing of note\n" + line.replace(" X,", " ssh,") + "\n")
            assert code == 0
            assert advice in text, message
    code, text = doctor("--log", "-", log="2026-11-22T13:45:01.123Z info  ready\n")
    assert (code, text) == (0, "ok    1 line, none of which needs an explanation\n")
    code, text = doctor("--log", "-", log="")
    assert code == 0 and text.startswith("note  there is no line in this log\n"), text
