"""A Debian 12 root with systemd, made by mmdebstrap from Debian's packages, and a guest that boots it.

The root is made once and kept in the build folder: as a directory, which a machine in a namespace has
copy-on-write (systemd_machine.py), and as an ext4 image, of which each guest gets a copy. Both have the
same ssh key for root, so that each may log in on the other. virtproxy is not in it.
"""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import os
import shutil
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness import BIN, PATIENCE

from .initramfs import (Entry, GuestError, Kernel, find_busybox, find_kernel, module_files, newc,
                        read_module)
from .machine import CONTROL_PORT, KERNEL_ARGUMENTS, Guest

HERE = Path(__file__).resolve().parent
SUITE = "bookworm"
PACKAGES = (
    "systemd systemd-sysv udev dbus kmod iproute2 procps openssh-server openssh-client curl nginx-light "
    # What the package of virtproxy depends on: it is installed without a network.
    "libc-ares2 libcap-ng0 libfmt9 libmimalloc2.0 libseccomp2 libspdlog1.10 libstdc++6 liburing2 libxxhash0 "
    "zlib1g"
).split()
BOOT_MODULES = ("virtio_pci", "virtio_blk")
ROOT_MODULES = (*BOOT_MODULES, "virtio_console", "virtio_rng", "autofs4")
CONTROL_UNIT = f"""[Unit]
Description=control channel of the test
DefaultDependencies=no
Conflicts=shutdown.target
Before=shutdown.target
[Service]
ExecStart=/usr/local/sbin/control /dev/virtio-ports/{CONTROL_PORT}
"""
CONTROL_RULE = (
    f'SUBSYSTEM=="virtio-ports", ATTR{{name}}=="{CONTROL_PORT}", TAG+="systemd", '
    'ENV{SYSTEMD_WANTS}+="control.service"\n'
)
CONTROL_SCRIPTS = {"control.sh": "control", "control_job.sh": "control-job"}
FILES = {
    "etc/systemd/system/control.service": CONTROL_UNIT,
    "etc/udev/rules.d/70-control.rules": CONTROL_RULE,
    "etc/hostname": "debian\n",
    "etc/hosts": "127.0.0.1 localhost debian\n",
    "etc/ssh/ssh_config.d/test.conf": "StrictHostKeyChecking accept-new\n",
    # Nothing of what passes here is secret, and the guest's processor is emulated.
    "etc/apt/apt.conf.d/quick": 'DPkg::Options { "--force-unsafe-io"; };\n',
}
# Of no use here, and the guest's processor is emulated.
IDLE_UNITS = (
    "apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer "
    "getty.target modprobe@.service sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount "
    "dev-hugepages.mount proc-sys-fs-binfmt_misc.automount systemd-binfmt.service systemd-pcrphase.service "
    "systemd-pcrphase-sysinit.service systemd-random-seed.service"
).split()


def why_not() -> str:
    """What keeps a Debian root from being made here; empty when nothing does."""
    for program, package in (("mmdebstrap", "mmdebstrap"), ("mkfs.ext4", "e2fsprogs"), ("depmod", "kmod")):
        if shutil.which(program) is None:
            return f"{program} is not installed: apt-get install {package}"
    return "" if os.geteuid() == 0 else "a Debian root takes root"


class Root:
    """Where the root is: `tree` must not be written to."""

    def __init__(self, place: Path, kernel: Kernel) -> None:
        self.tree, self.image, self.kernel = place / "tree", place / "root.ext4", kernel

    def copy_of_disk(self, path: Path) -> Path:
        """A disk of its own for one guest."""
        subprocess.run(["cp", "--sparse=always", self.image, path], check=True)
        return path


def debian_root() -> Root:
    """The root, made if it is not there yet. Tests that want it at the same time wait for each other."""
    kernel = find_kernel()
    cache = BIN.parent / "debian-root"
    cache.mkdir(exist_ok=True)
    packages = cache / f"{digest(SUITE, *PACKAGES)}.tar"
    scripts = [(HERE / name).read_text(encoding="utf-8") for name in CONTROL_SCRIPTS]
    what = (*FILES.values(), *IDLE_UNITS, *ROOT_MODULES, *scripts, inspect.getsource(make))
    place = cache / digest(packages.name, kernel.release, *what)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not packages.exists():
            try:
                fetch(packages)
            except GuestError as error:
                pytest.skip(f"Debian's packages cannot be fetched: {error}")
        if not place.exists():
            for old in cache.glob("*/tree"):
                shutil.rmtree(old.parent)
            part = place.with_suffix(".part")
            part.mkdir()
            make(Root(part, kernel), packages)
            part.rename(place)
    return Root(place, kernel)


def digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def fetch(packages: Path) -> None:
    """Minutes: from Debian's mirror."""
    part = packages.with_suffix(".part")
    run("mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join(PACKAGES)}", "--format=tar", "--quiet",
        "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
        "--dpkgopt=path-exclude=/usr/share/doc/*", SUITE, part)
    part.rename(packages)


def make(root: Root, packages: Path) -> None:
    root.tree.mkdir()
    run("tar", "-C", root.tree, "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xf", packages)
    for name, text in FILES.items():
        (root.tree / name).write_text(text, encoding="ascii")
    for script, name in CONTROL_SCRIPTS.items():
        (root.tree / "usr/local/sbin" / name).write_bytes((HERE / script).read_bytes())
        (root.tree / "usr/local/sbin" / name).chmod(0o755)
    for unit in IDLE_UNITS:
        (root.tree / "etc/systemd/system" / unit).unlink(missing_ok=True)
        (root.tree / "etc/systemd/system" / unit).symlink_to("/dev/null")
    # Known already: a first boot would set up all units anew.
    (root.tree / "etc/machine-id").write_text(f"{digest('machine') * 2}\n", encoding="ascii")
    keys = root.tree / "root/.ssh"
    keys.mkdir(mode=0o700, exist_ok=True)
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys / "id_ed25519")
    shutil.copy(keys / "id_ed25519.pub", keys / "authorized_keys")
    release = root.kernel.release
    modules = root.tree / "usr/lib/modules" / release
    modules.mkdir(parents=True)
    for path in module_files(release, ROOT_MODULES, root.kernel.modules):
        shutil.copy(path, modules)
    for path in (root.kernel.modules / release).glob("modules.*"):
        shutil.copy(path, modules)
    run("depmod", "-b", root.tree, release)
    run("mkfs.ext4", "-q", "-F", "-E", "root_owner=0:0", "-d", root.tree, root.image, "1500M")


def run(*command: str | Path) -> None:
    """A step of making the root."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise GuestError(f"cannot make a Debian root: {command[0]}: {done.stderr[-2000:]}")


class DebianGuest(Guest):
    """Boots a disk of debian_root(); ready when its control service runs, which is before all others do."""

    def __init__(self, root: Root, disk: Path, wrapper: Sequence[str] = (), **options) -> None:
        options.setdefault("memory", "512M")
        options.setdefault("boot_timeout", 300 * PATIENCE)
        drive = f"file={disk},if=virtio,format=raw,cache=unsafe"
        options["qemu_arguments"] = ["-drive", drive, *options.get("qemu_arguments", ())]
        super().__init__(kernel=root.kernel, **options)
        self._wrapper = wrapper

    def command_line(self, kernel: Path, image: Path, control: int, qmp: int) -> list[str]:
        return [*self._wrapper, *super().command_line(kernel, image, control, qmp)]

    def first_image(self, kernel: Kernel) -> Path:
        files = {"bin/busybox": (0o755, find_busybox()), "init": (0o755, (HERE / "disk_init.sh").read_bytes())}
        loads = []
        for path in module_files(kernel.release, BOOT_MODULES, kernel.modules):
            name = f"lib/{path.name.split('.ko')[0]}.ko"
            files[name] = (0o644, read_module(path))
            loads.append(f"/{name}\n")
        files["etc/modules-load"] = (0o644, "".join(loads).encode())
        entries = [Entry(name, stat.S_IFDIR | 0o755) for name in ("bin", "dev", "etc", "lib", "proc", "root")]
        entries.append(Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)))
        entries += [Entry(name, stat.S_IFREG | mode, data) for name, (mode, data) in files.items()]
        image = self.work_dir / "initramfs.cpio"
        image.write_bytes(newc(entries))
        return image

    def kernel_arguments(self) -> str:
        return f"{KERNEL_ARGUMENTS} root=/dev/vda rw systemd.show_status=no"

    def wait_booted(self, timeout: float = 300) -> None:
        """Until no job of systemd is left: all units of the default target have started, or failed."""
        state = self.run("systemctl is-system-running --wait", timeout * PATIENCE)
        failed = self.run("systemctl --failed --no-legend --plain").output.strip()
        if failed:
            raise GuestError(self.explain(f"the guest is {state.output.strip()}: {failed}"))

    def power_off(self, timeout: float = 180) -> None:
        """As an administrator does; returns when QEMU has ended by itself."""
        self._submit("systemctl --no-block poweroff", b"", 60)  # its end may not be told any more
        self.wait_off(timeout * PATIENCE)
