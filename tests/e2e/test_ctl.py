"""virtproxyctl's commands that need no daemon: what they write is given to the program that it is for."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import stat
import threading
from pathlib import Path

import pytest

from guest.qmp import Qmp
from harness import BIN, PATIENCE, Scene

CTL = BIN / "virtproxyctl"
SCHEMA = Path("/usr/share/libvirt/schemas/domain.rng")
DOMAIN = """<domain type='qemu'>
  <name>vm1</name>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>{}</devices>
</domain>
"""


def ctl(scene: Scene, *args: str | Path) -> str:
    return scene.run([CTL, *args]).stdout()


def refused(scene: Scene, *args: str | Path, code: int = 1) -> str:
    """The one line of a command that fails."""
    process = scene.run([CTL, *args], expect=code)
    assert process.stdout() == ""
    lines = process.err.lines()
    assert len(lines) == 1 and lines[0].startswith("virtproxyctl: "), process.everything()
    return lines[0].removeprefix("virtproxyctl: ")


class Qemu:
    """A machine that is paused before its first instruction; arguments are for a shell to expand."""

    def __init__(self, scene: Scene, args: str = "") -> None:
        self.monitor = scene.directory / f"qmp-{len(scene.processes)}"
        spare = scene.directory / f"qmp-of-the-test-{len(scene.processes)}"
        command = (
            "exec qemu-system-x86_64 -S -machine q35,accel=tcg -m 32 -nodefaults -display none "
            f"-qmp unix:{self.monitor},server=on,wait=off -qmp unix:{spare},server=on,wait=off {args}"
        )
        self.process = scene.spawn(["sh", "-c", command], name="qemu")
        self._spare = spare
        self._scene = scene

    def qmp(self) -> Qmp:
        sock = socket.socket(socket.AF_UNIX)
        self._scene.cleanup(sock.close)
        while True:
            try:
                sock.connect(str(self._spare))
                return Qmp(sock)
            except (FileNotFoundError, ConnectionRefusedError):
                assert self.process.alive(), self.process.everything()
                threading.Event().wait(0.02)

    def tree(self, qmp: Qmp) -> str:
        return qmp.execute("human-monitor-command", **{"command-line": "info qtree"})


def test_qemu_takes_the_arguments_of_a_virtio_port(scene: Scene) -> None:
    """As the manual writes it: expanded by a shell. A daemon then reaches the socket."""
    path = scene.directory / "vm,1.sock"
    qemu = Qemu(scene, f"$({shlex.quote(str(CTL))} qemu-args --vm vm1 --socket '{path}')")
    qmp = qemu.qmp()
    assert 'chardev = "vp-virtproxy"' in qemu.tree(qmp)
    assert 'name = "virtproxy"' in qemu.tree(qmp)
    daemon = scene.daemon("-c", f"unix-connect:{path}:-", "-o", f"ssh:{scene.addresses.tcp().spec}")
    daemon.wait_for_log("channel 0: connected, but the other end has sent nothing")


def test_qemu_takes_a_port_on_a_bus_of_its_own(scene: Scene) -> None:
    path = scene.directory / "vm1.sock"
    line = ctl(scene, "qemu-args", "--vm", "vm1", "--socket", path, "--bus", "vps.0", "--port-name", "a.b")
    qemu = Qemu(scene, f"-device virtio-serial-pci,id=vps {line}")
    assert 'name = "a.b"' in qemu.tree(qemu.qmp())
    assert stat.S_ISSOCK(path.stat().st_mode)


def test_qemu_takes_the_arguments_of_a_serial_port(scene: Scene) -> None:
    path = scene.directory / "vm1.sock"
    qemu = Qemu(scene, ctl(scene, "qemu-args", "--vm", "vm1", "--socket", path, "--isa"))
    assert 'dev: isa-serial' in qemu.tree(qemu.qmp())


@pytest.mark.parametrize("kind", [(), ("--isa",), ("--bus", "vps.0")], ids=["virtio", "isa", "bus"])
def test_qemu_takes_a_second_port_for_virtagent(scene: Scene, kind: tuple[str, ...]) -> None:
    """Each has a socket that QEMU listens at; virtagent's end on the host connects to the second."""
    path, agent = scene.directory / "vm1.sock", scene.directory / "vm1.agent"
    line = ctl(
        scene, "qemu-args", "--vm", "vm1", "--socket", path, *kind, "--agent", "--agent-socket", agent
    )
    qemu = Qemu(scene, f"{'-device virtio-serial-pci,id=vps ' if '--bus' in kind else ''}{line}")
    qmp = qemu.qmp()
    labels = {one["label"]: one["filename"] for one in qmp.execute("query-chardev")}
    assert str(path) in labels["vp-virtproxy"] and str(agent) in labels["virtagent"], labels
    tree = qemu.tree(qmp)
    if "--isa" in kind:
        assert tree.count("dev: isa-serial") == 2
    else:
        assert 'name = "org.qemu.virtagent"' in tree and 'name = "virtproxy"' in tree
    host = scene.spawn(
        [BIN / "virtagent", "host", "-c", f"unix-connect:{agent}", "--local", scene.directory / "local"],
        name="virtagent host",
    )
    deadline = 20 * PATIENCE
    while not any(
        one["label"] == "virtagent" and not one["filename"].startswith("disconnected:")
        for one in qmp.execute("query-chardev")
    ):
        assert host.alive() and deadline > 0, host.everything()
        threading.Event().wait(0.05)
        deadline -= 0.05


def test_qemu_takes_the_arguments_of_vsock(scene: Scene) -> None:
    qemu = Qemu(scene, ctl(scene, "qemu-args", "--vm", "vm1", "--vsock", "7"))
    if os.access("/dev/vhost-vsock", os.R_OK | os.W_OK):
        assert "guest-cid = 7" in qemu.tree(qemu.qmp())
    else:
        # The arguments are understood; the device is missing on this machine.
        assert qemu.process.wait(20 * PATIENCE) == 1
        assert "failed to open vhost device" in qemu.process.stderr()


@pytest.mark.skipif(
    not SCHEMA.exists() or shutil.which("xmllint") is None, reason="libvirt0 or libxml2-utils is not installed"
)
@pytest.mark.parametrize("options", [
    [], ["--isa"], ["--vsock", "7"], ["--port-name", "org.example.0"], ["--agent"], ["--isa", "--agent"],
])
def test_libvirt_takes_the_device(scene: Scene, options: list[str]) -> None:
    device = ctl(scene, "libvirt-xml", "--vm", "vm1", *options)
    domain = scene.directory / "domain.xml"
    domain.write_text(DOMAIN.format(device), encoding="ascii")
    scene.run(["xmllint", "--noout", "--relaxng", SCHEMA, domain])
    # The schema does judge.
    domain.write_text(DOMAIN.format(device.replace("type=", "sort=", 1).replace("model=", "sort=", 1)))
    scene.run(["xmllint", "--noout", "--relaxng", SCHEMA, domain], expect=3)


def chardevs(qmp: Qmp) -> list[str]:
    return [one["label"] for one in qmp.execute("query-chardev") if one["label"].startswith("vp-")]


@pytest.mark.parametrize(
    "machine", ["-device virtio-serial-pci", "-device pcie-root-port,id=rp0,chassis=1"],
    ids=["a-controller", "a-free-slot"],
)  # fmt: skip
def test_a_port_is_added_to_a_machine_and_removed(scene: Scene, machine: str) -> None:
    """The guest does not run: this is QEMU's side of it."""
    path = scene.directory / "vm1.sock"
    qemu = Qemu(scene, machine)
    qmp = qemu.qmp()
    args = ["--vm", "vm1", "--qmp", qemu.monitor, "--socket", path]
    assert ctl(scene, "attach", *args) == str(path)
    assert 'chardev = "vp-virtproxy"' in qemu.tree(qmp)
    daemon = scene.daemon("-c", f"unix-connect:{path}:-", "-o", f"ssh:{scene.addresses.tcp().spec}")
    daemon.wait_for_log("channel 0: connected, but the other end has sent nothing")
    assert "vp-virtproxy" in refused(scene, "attach", *args)
    daemon.terminate()
    assert ctl(scene, "detach", *args) == ""
    assert 'chardev = "vp-virtproxy"' not in qemu.tree(qmp)
    assert chardevs(qmp) == []
    assert ctl(scene, "attach", *args) == str(path)
    assert refused(scene, "detach", *args, "--port-name", "other").startswith("device_del: ")


def test_a_machine_without_room_is_left_as_it_was(scene: Scene) -> None:
    qemu = Qemu(scene)
    qmp = qemu.qmp()
    line = refused(scene, "attach", "--vm", "vm1", "--qmp", qemu.monitor, "--socket", scene.directory / "s")
    assert "start it with -device virtio-serial-pci, or with a pcie-root-port" in line
    assert chardevs(qmp) == []


def serve(scene: Scene, answers: list[bytes]) -> Path:
    """A listener that writes these and closes. Before each but the first it reads a line."""
    path = scene.directory / "monitor"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    scene.cleanup(listener.close)

    def run() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as lines:
            try:
                for index, answer in enumerate(answers):
                    if index:
                        lines.readline()
                    connection.sendall(answer)
            except OSError:
                return

    threading.Thread(target=run, daemon=True).start()
    return path


GREETING = b'{"QMP": {}}\n'
READY = b'{"return": {}}\n'


@pytest.mark.parametrize(
    ("answers", "line"),
    [
        ([b"SSH-2.0-OpenSSH\n"], "does not speak QMP"),
        ([b"{}\n"], "no QMP monitor listens there"),
        ([b"[1]\n"], "does not speak QMP"),
        ([b""], "QEMU has closed the connection"),
        ([b"x" * (2 << 20)], "an answer has no end"),
        ([GREETING, b'{"error": 7}\n'], "qmp_capabilities: refused"),
        ([GREETING, READY, b'{"error": {"desc": "no\\u001b"}}\n'], r"chardev-add: no\x1b"),
        ([GREETING, READY, b'{"event": 7}\n' * 2000], "sends events without end"),
        ([GREETING, READY, READY,
          b'{"error": {"desc": "No \'virtio-serial-bus\' bus found for device"}}\n',
          b'{"error": {"desc": "full"}}\n', b'{"return": [1]}\n', READY], "does not answer as QEMU does"),
    ],
)  # fmt: skip
def test_a_monitor_that_is_none(scene: Scene, answers: list[bytes], line: str) -> None:
    path = serve(scene, answers)
    assert line in refused(scene, "attach", "--vm", "vm1", "--qmp", path)


@pytest.mark.parametrize(
    ("args", "code", "line"),
    [
        ([], 2, "A subcommand is required"),
        (["qemu-args"], 2, "--vm is required"),
        (["qemu-args", "--vm", "a", "--isa", "--vsock", "7"], 2, "excludes"),
        (["frobnicate"], 2, "there is no command 'frobnicate'; see virtproxyctl --help"),
        (["forwrds"], 2, "there is no command 'forwrds': the nearest is forwards; see virtproxyctl --help"),
        (["channel"], 2, "channel takes add or remove; see virtproxyctl channel add --help"),
        (["forward", "--help"], 2, "forward takes add or remove; see virtproxyctl forward add --help"),
        (["forward", "add"], 2, "-o or -i is required"),
        (["forward", "remove", "--json"], 2, "-o or -i is required"),
        (["--control", "a.ctl", "channels"], 1, "--control a.ctl: there is no such socket"),
        (["--json", "--control=a.ctl", "channels"], 1, "--control a.ctl: there is no such socket"),
        (["--control", "a.ctl", "channel", "remove", "x"], 1, "--control a.ctl: there is no such socket"),
        (["--control", "a.ctl"], 2, "A subcommand is required"),
        (["--control", "a.ctl", "chanels"], 2, "there is no command 'chanels': the nearest is channels"),
        (["--contrl", "a.ctl", "channels"], 2, "unknown option: --contrl: the nearest is --control; see virtproxyctl --help"),
        (["channels", "--contrl", "x"], 2, "unknown option: --contrl: the nearest is --control; see virtproxyctl --help"),
        (["qemu-args", "--vm", "a b"], 1, "--vm 'a b': a name has 1 to 64 letters"),
        (["qemu-args", "--vm", "../x"], 1, "--vm '../x'"),
        (["qemu-args", "--vm", "x" * 65], 1, "--vm 'xxx"),
        (["qemu-args", "--vm", "a", "--socket", "x.sock"], 1, "give an absolute path"),
        (["qemu-args", "--vm", "a", "--socket", "/tmp/$(id)"], 1, "without spaces and quotes"),
        (["libvirt-xml", "--vm", "a", "--socket", "/tmp/<x>"], 1, "without spaces and quotes"),
        (["libvirt-xml", "--vm", "a", "--port-name", "a'b"], 1, "--port-name 'a'b'"),
        (["qemu-args", "--vm", "a", "--bus", "a,b"], 1, "give the name of a bus"),
        (["qemu-args", "--vm", "a", "--vsock", "7", "--agent"], 1, "run virtagent behind virtproxy"),
        (["qemu-args", "--vm", "a", "--agent", "--port-name", "org.qemu.virtagent"], 1, "--agent adds a port"),
        (["qemu-args", "--vm", "a", "--agent", "--agent-socket", "x"], 1, "--agent-socket 'x'"),
        (["qemu-args", "--vm", "a", "--agent", "--agent-socket", "/run/virtproxy/a.sock"], 1, "a socket of its own"),
        (["qemu-args", "--vm", "a", "--agent-socket", "/x"], 2, "--agent"),
        (["qemu-args", "--vm", "a", "--vsock", "2"], 1, "a guest's CID is 3 to 4294967294"),
        (["qemu-args", "--vm", "a", "--vsock", "0"], 1, "a guest's CID is 3 to"),
        (["attach", "--vm", "a", "--qmp", "/nowhere/qmp"], 1, "/nowhere/qmp: No such file"),
        (["detach", "--vm", "a", "--qmp", "/etc/passwd"], 1, "--qmp /etc/passwd: that is no socket"),
        (["guest-iso", "--output", "/nowhere/x.iso"], 1, "--output /nowhere/x.iso: /nowhere: No such file"),
        (["guest-iso", "--output", "x.iso", "--args", "-i 'a'"], 1, "no quotes, backslashes"),
        (["guest-iso", "--output", "x.iso", "--static", "/nowhere/vp"], 1, "/nowhere/vp is not there"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(scene: Scene, args: list[str], code: int, line: str) -> None:
    assert line in refused(scene, *args, code=code)


@pytest.mark.skipif(shutil.which("xorriso") is None, reason="xorriso is not installed")
def test_the_image_installs_a_guest(scene: Scene) -> None:
    program = BIN / "virtproxy-static"
    if not program.exists():
        program = BIN / "virtproxy"
    image, inside, root = (scene.directory / name for name in ("guest.iso", "inside", "root"))
    command = ["guest-iso", "--output", image, "--static", program, "--args", "-i ssh:127.0.0.1:22"]
    ctl(scene, *command)
    ctl(scene, *command)  # It is replaced.
    assert [path.name for path in scene.directory.glob("*.iso*")] == ["guest.iso"]
    (scene.directory / "in-the-way.part").mkdir()
    failed = scene.run([CTL, "guest-iso", "--output", scene.directory / "in-the-way", "--static", program], expect=1)
    assert failed.err.lines()[-1].startswith("virtproxyctl: xorriso failed with exit code ")
    label = scene.run(["xorriso", "-indev", image, "-pvd_info"])
    assert "Volume Id    : virtproxy" in label.stdout() + label.stderr()
    scene.run(["xorriso", "-osirrox", "on", "-indev", image, "-extract", "/", inside])
    assert sorted(path.name for path in inside.iterdir()) == [
        "60-virtproxy.rules", "guest.env", "guest.toml", "install", "virtproxy",
        "virtproxy-guest.service",
        "virtproxy.sysusers",
    ]  # fmt: skip
    root.mkdir()
    scene.run([inside / "install", root])
    installed = root / "usr/local/bin/virtproxy"
    assert scene.run([installed, "--version"]).stdout().startswith("virtproxy ")
    unit = (root / "etc/systemd/system/virtproxy-guest.service").read_text(encoding="ascii")
    assert "\nExecStart=/usr/local/bin/virtproxy --config /etc/virtproxy/guest.toml " in unit
    assert "virtio-serial:" in (root / "etc/virtproxy/guest.toml").read_text(encoding="ascii")
    assert 'ATTR{name}=="virtproxy"' in (root / "etc/udev/rules.d/60-virtproxy.rules").read_text()
    assert (root / "etc/sysusers.d/virtproxy.conf").exists()
    settings = root / "etc/virtproxy/guest.env"
    assert settings.read_text(encoding="ascii") == "ARGS='-i ssh:127.0.0.1:22'\n"
    # What was changed there stays.
    settings.write_text("ARGS=-v\n", encoding="ascii")
    scene.run([inside / "install", root])
    assert settings.read_text(encoding="ascii") == "ARGS=-v\n"


def test_help_and_version(scene: Scene) -> None:
    assert ctl(scene, "--version").startswith("virtproxyctl ")
    text = ctl(scene, "--help")
    for command in ("qemu-args", "libvirt-xml", "attach", "detach", "guest-iso"):
        assert f"\n  {command} " in text
        assert "--" in ctl(scene, command, "--help")
    assert json.dumps(text).isascii()
