"""libvirt as a process of its own: a session daemon with all its files in one directory, no system service."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from agent_ends import await_that
from harness import PATIENCE, Scene

from .machine import MissingPackage

NOBODY = 65534
DAEMON = "/usr/sbin/libvirtd"
DRIVER = "/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so"


class Libvirtd:
    """One libvirtd and the domains that it has started.

    For root it is always the system's daemon, with the system's files: so root runs it as nobody.
    """

    def __init__(self, scene: Scene, folder: Path) -> None:
        for file, package in ((DAEMON, "libvirt-daemon"), (DRIVER, "libvirt-daemon-driver-qemu"),
                              (shutil.which("virsh") or "virsh", "libvirt-clients")):
            if not Path(file).exists():
                raise MissingPackage(f"no {file}", package)
        self._folder = folder
        self._as = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
                    "--pdeathsig=KILL"] if os.getuid() == 0 else []
        places = {"HOME": "home", "XDG_CONFIG_HOME": "config", "XDG_CACHE_HOME": "cache", "XDG_DATA_HOME": "data",
                  "XDG_RUNTIME_DIR": "run"}
        self._env = {name: str(folder / place) for name, place in places.items()}
        for place in self._env.values():
            Path(place).mkdir()
        config = folder / "config/libvirt"
        config.mkdir()
        (config / "libvirtd.conf").write_text('log_outputs="3:stderr"\n')
        (config / "qemu.conf").write_text('security_driver="none"\nstdio_handler="file"\n')
        self.give(folder)
        scene.cleanup(self._end_domains)
        self.process = scene.spawn([*self._as, DAEMON, "-f", config / "libvirtd.conf"], "libvirtd", env=self._env)
        self._socket = folder / "run/libvirt/libvirt-sock"
        await_that("libvirtd listens", self._listens, 20)

    def give(self, path: Path) -> None:
        """Makes the path and what is below it that of libvirt's user."""
        if self._as:
            for each in (path, *path.rglob("*")):
                os.chown(each, NOBODY, NOBODY)

    def _listens(self) -> bool:
        assert self.process.alive(), self.process.everything()
        with socket.socket(socket.AF_UNIX) as sock:
            return sock.connect_ex(str(self._socket)) == 0

    def run(self, *args: str | Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """virsh to its end."""
        command = [*self._as, "virsh", "-q", "-c", f"qemu:///session?socket={self._socket}", *args]
        return subprocess.run(command, env={**os.environ, **self._env}, capture_output=True, text=True, check=False,
                              timeout=timeout * PATIENCE)

    def virsh(self, *args: str | Path, timeout: float = 60) -> str:
        """What virsh prints; it must succeed."""
        done = self.run(*args, timeout=timeout)
        assert done.returncode == 0, f"virsh {args}: {done.stderr}"
        return done.stdout.strip()

    def _end_domains(self) -> None:
        """QEMU is no child of libvirtd, and would go on without it."""
        for file in self._folder.glob("run/libvirt/qemu/run/*.pid"):
            try:
                os.kill(int(file.read_text()), signal.SIGKILL)
            except (OSError, ValueError):
                pass  # It has ended by itself.
