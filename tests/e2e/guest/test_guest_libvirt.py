"""virtagent in place of qemu-ga under a real libvirtd, which starts the guest: virsh asks, virtagent answers."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_ends import Agent, await_that, call
from harness import BIN, PATIENCE, Scene

from . import initramfs
from .libvirtd import Libvirtd
from .machine import KERNEL_ARGUMENTS, QEMU, MissingPackage

NAME = "vm1"
# In the place of the control channel of the other tests: the agent on libvirt's port, again when it ends, and
# one on the port of its own. The guest ends by itself if it is forgotten.
GUEST = """#!/bin/sh
mkdir /mnt
mount -t ext4 /dev/vda /mnt
ip addr add 192.0.2.7/24 dev lo
virtagent guest --local /run/local &
(while :; do
    virtagent -c virtio-serial:/dev/virtio-ports/org.qemu.guest_agent.0 --allow shutdown --allow set-time \\
        --allow fsfreeze --hook end=/bin/end-hook --hook slow=/bin/slow-hook
done) &
sleep 600
"""
SHUTDOWN = "#!/bin/sh\necho \"shutdown $*\" > /dev/console\nexec poweroff -f\n"
END = "#!/bin/sh\nkill -9 $PPID\n"
SLOW = "#!/bin/sh\nsleep 3\n"
DOMAIN = """<domain type='qemu'>
<name>{name}</name><memory unit='MiB'>256</memory><vcpu>2</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type><kernel>{kernel}</kernel><initrd>{initrd}</initrd>
<cmdline>{arguments} virtproxy.ports=3</cmdline></os>
<features><acpi/></features><cpu mode='custom' match='exact'><model>qemu64</model></cpu>
<on_poweroff>destroy</on_poweroff><on_reboot>destroy</on_reboot>
<devices><emulator>{qemu}</emulator>
<disk type='file'><driver name='qemu' type='raw'/><source file='{folder}/disk'/><target dev='vda' bus='virtio'/></disk>
<serial type='file'><source path='{folder}/console.log'/></serial>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
{channels}</devices></domain>
"""


class Domain:
    """A guest that libvirt has started and that its agent serves."""

    def __init__(self, libvirt: Libvirtd, folder: Path) -> None:
        self.libvirt, self.agent = libvirt, folder / "agent"
        self._console = folder / "console.log"
        files = {}
        for target, text in (("/sbin/control", GUEST), ("/sbin/shutdown", SHUTDOWN), ("/bin/end-hook", END),
                             ("/bin/slow-hook", SLOW)):
            files[target] = folder / Path(target).name
            files[target].write_text(text)
            files[target].chmod(0o755)
        files["/bin/virtagent"] = BIN / "virtagent-static"
        kernel = initramfs.find_kernel()
        initrd = initramfs.build(folder / "initrd", folder / "images", kernel=kernel, extra_files=files,
                                 extra_modules=["virtio_blk"])
        with (folder / "disk").open("wb") as disk:
            disk.truncate(16 << 20)
        subprocess.run(["mkfs.ext4", "-q", folder / "disk"], check=True)
        # The channels as virtproxyctl writes them.
        channels = subprocess.run(
            [BIN / "virtproxyctl", "libvirt-xml", "--vm", NAME, "--socket", folder / "mux", "--agent",
             "--agent-socket", self.agent], capture_output=True, text=True, check=True).stdout
        (folder / "domain.xml").write_text(DOMAIN.format(
            name=NAME, kernel=kernel.image, initrd=initrd, arguments=KERNEL_ARGUMENTS, qemu=f"/usr/bin/{QEMU}",
            folder=folder, channels=channels))
        libvirt.give(folder)
        libvirt.virsh("create", folder / "domain.xml")
        self.await_agent()

    def await_agent(self) -> None:
        """libvirt opens the agent's socket when the guest has opened the port."""
        deadline = time.monotonic() + 60 * PATIENCE
        while (done := self.libvirt.run("domtime", NAME)).returncode != 0:
            assert "not connected" in done.stderr or "disappeared" in done.stderr, done.stderr
            assert time.monotonic() < deadline, f"{done.stderr}\n{self.console()}"

    def console(self) -> str:
        return self._console.read_text(errors="replace")

    def virsh(self, command: str, *args: str) -> str:
        return self.libvirt.virsh(command, NAME, *args)

    def agent_command(self, method: str, *options: str, **arguments: object):
        """What virsh qemu-agent-command returns."""
        text = json.dumps({"execute": method, "arguments": arguments})
        return json.loads(self.virsh("qemu-agent-command", text, *options))["return"]

    def refusal(self, command: str, *args: str) -> str:
        done = self.libvirt.run(command, NAME, *args)
        assert done.returncode == 1, done.stdout
        return done.stderr


@pytest.fixture(scope="module")
def stage() -> Iterator[Scene]:
    stage = Scene()
    yield stage
    stage.close(graceful=True)


@pytest.fixture(scope="module")
def domain(stage: Scene) -> Domain:
    try:
        libvirt = Libvirtd(stage, stage.directory)
    except MissingPackage as missing:
        pytest.skip(str(missing))
    return Domain(libvirt, stage.directory)


def test_what_virsh_asks_an_agent(domain: Domain) -> None:
    match = re.fullmatch(r"Time: (\d+)", domain.virsh("domtime"))
    assert match and abs(int(match.group(1)) - time.time()) < 60 * PATIENCE
    for option in ("--pretty", "--sync", "--now"):
        domain.virsh("domtime", option)
    addresses = [line.split() for line in domain.virsh("domifaddr", "--source", "agent").splitlines()]
    assert ["lo", "00:00:00:00:00:00", "ipv4", "127.0.0.1/8"] in addresses
    assert ["-", "-", "ipv4", "192.0.2.7/24"] in addresses and ["-", "-", "ipv6", "::1/128"] in addresses
    assert domain.virsh("domhostname", "--source", "agent") == "guest"
    assert domain.virsh("domfsinfo").split() == ["/mnt", "vda", "ext4"]
    assert re.search(r"^online\s*: 0-1$", domain.virsh("guestvcpus"), re.MULTILINE)
    info = dict(re.split(r"\s*: ", line, maxsplit=1) for line in domain.virsh("guestinfo").splitlines())
    assert info["os.kernel-release"] == initramfs.find_kernel().release and info["timezone.name"] == "UTC"
    assert info["hostname"] == "guest" and info["user.count"] == "0"
    assert (info["fs.count"], info["fs.0.mountpoint"], info["fs.0.fstype"]) == ("1", "/mnt", "ext4")
    assert info["if.0.addr.1.addr"] == "192.0.2.7"
    domain.virsh("domfsfreeze")
    assert domain.agent_command("guest-fsfreeze-status") == "frozen"
    domain.virsh("domfsthaw")
    assert domain.agent_command("guest-fsfreeze-status") == "thawed"
    names = {each["name"] for each in domain.agent_command("guest-info")["supported_commands"]}
    assert {"guest-sync", "guest-get-osinfo", "guest-network-get-interfaces"} <= names
    # What is not there or not allowed is an error of that command alone.
    assert "there is no method guest-exec" in domain.refusal("qemu-agent-command", '{"execute":"guest-exec"}')
    assert "has been disabled" in domain.refusal("domfstrim")
    assert "no method guest-set-user-password" in domain.refusal("set-user-password", "root", "x")
    assert domain.agent_command("guest-ping") == {}


def test_a_command_that_libvirt_gave_up(domain: Domain) -> None:
    """libvirt synchronises before the next one, which gets its own answer."""
    slow = json.dumps({"execute": "va-hook", "arguments": {"name": "slow"}})
    assert "not available" in domain.refusal("qemu-agent-command", slow, "--timeout", "1")
    assert domain.virsh("domhostname", "--source", "agent") == "guest"
    assert domain.agent_command("va-hook", "--timeout", "60", name="slow")["exitcode"] == 0


def test_the_agent_is_killed(domain: Domain) -> None:
    """libvirt sees the port close and open, and begins anew."""
    for _ in range(3):
        end = json.dumps({"execute": "va-hook", "arguments": {"name": "end"}})
        print(domain.refusal("qemu-agent-command", end))
        domain.await_agent()
        assert domain.virsh("domhostname", "--source", "agent") == "guest"


def test_the_port_of_its_own_beside_libvirt(domain: Domain, scene: Scene) -> None:
    """The channel that virtproxyctl libvirt-xml --agent writes has calls both ways."""
    local = scene.directory / "local"
    host = Agent(scene, "host", "-c", f"unix-connect:{domain.agent}", "--local", local)
    host.log("the other end is virtagent", timeout=30)
    assert call(local, "guest-get-host-name") == {"host-name": "guest"}
    assert domain.virsh("domhostname", "--source", "agent") == "guest"


def test_shutdown_by_the_agent(domain: Domain) -> None:
    """The last one: there is no guest afterwards.

    guest-shutdown has no answer. libvirt's command is over when QEMU reports the shutdown, and the same report makes
    libvirt end QEMU: if the command's thread runs late, it finds the closed socket and reports that instead.
    """
    done = domain.libvirt.run("shutdown", NAME, "--mode", "agent")
    assert done.returncode == 0 or "End of file from agent socket" in done.stderr, done.stderr
    await_that("the domain is gone", lambda: NAME not in domain.libvirt.virsh("list", "--all", "--name"), 30)
    assert "shutdown -P +0" in domain.console()
