"""A daemon on the host, one in the guest and the channel between them; real servers and clients."""

from __future__ import annotations

import hashlib
import random
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from addresses import Address
from harness import BIN, PATIENCE, SENT_NOTHING, Daemon, Scene, Stats, _pairs
from processes import deadline_after
from stage import eventually

from .control import ControlLost
from .initramfs import GuestError
from .machine import Guest, MissingPackage, Process

KIB, MIB = 1 << 10, 1 << 20
PROXY, TRAFFIC = "/bin/virtproxy", "/bin/virtproxy-traffic"

# Services in the guest, on its loopback interface.
HTTP, ECHO = 8080, 7001


def content(seed: int, size: int) -> bytes:
    """Bytes drawn from the seed: no two places look alike."""
    return random.Random(seed).randbytes(size)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Page:
    """A file that a web server has."""

    name: str
    data: bytes

    @property
    def path(self) -> str:
        return f"/{self.name}"


@contextmanager
def guest_with_services(folder: Path, pages: Sequence[Page], **options) -> Iterator[Guest]:
    """A booted guest: the daemon inside, and a web server and an echo.

    The web server's root is in memory and has the pages; `folder` gets them too, for the host's.
    Options are those of Guest; `extra_files` come on top.
    """
    programs = {PROXY: BIN / "virtproxy-static", TRAFFIC: BIN / "virtproxy-traffic-static"}
    for program in programs.values():
        if not program.exists():
            raise FileNotFoundError(f"{program}: configure with -D VIRTPROXY_STATIC=ON and build")
    files: dict[str, Path] = {**programs, **options.pop("extra_files", {})}
    for page in pages:
        (folder / page.name).write_bytes(page.data)
        files[f"/var/www/{page.name}"] = folder / page.name
    options.setdefault("memory", "640M")
    with Guest(extra_files=files, **options) as guest:
        guest.start(["httpd", "-f", "-p", f"127.0.0.1:{HTTP}", "-h", "/var/www"])
        echo = guest.start([TRAFFIC, "echo", "--listen", f"127.0.0.1:{ECHO}"])
        guest.wait_for(f"grep ready {echo.log_path}")
        guest.check("echo up > /var/www/up")
        guest.wait_for(f"wget -q -O - http://127.0.0.1:{HTTP}/up")
        yield guest


def serve_files(scene: Scene, folder: Path) -> Address:
    """A real web server on the host: nginx where there is one, else Python's."""
    address = scene.addresses.tcp()
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx:
        places = "".join(f"{kind}_temp_path {scene.directory};" for kind in
                         ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        config = scene.directory / "nginx.conf"
        config.write_text(
            f"daemon off; master_process off; pid {scene.directory}/nginx.pid;\n"
            "error_log stderr; events {}\n"
            f"http {{ access_log off; sendfile on; {places}\n"
            f"server {{ listen {address.spec}; root {folder}; }} }}\n")
        scene.spawn([nginx, "-e", "stderr", "-c", config], name="nginx")
    else:
        scene.spawn([sys.executable, "-m", "http.server", "--bind", address.place, "--directory",
                     folder, str(address.port)], name="http.server")

    def up() -> bool:
        try:
            address.connect().close()
        except OSError:
            return False
        return True

    eventually("the host's web server", up)
    return address


def curl(scene: Scene, door: Address, page: Page, timeout: float = 60) -> None:
    """A real client on the host fetches the page and it is the right one."""
    program = shutil.which("curl")
    if program is None:
        raise MissingPackage("no curl", "curl")
    copy = scene.directory / f"curl-{page.name}"
    scene.run([program, "--silent", "--show-error", "--fail", "--output", copy,
               f"http://{door.spec}{page.path}"], timeout)
    with copy.open("rb") as stream:
        assert hashlib.file_digest(stream, "sha256").hexdigest() == sha256(page.data)
    copy.unlink()


def wget(guest: Guest, door: str, page: Page, timeout: float = 60,
         keep: str = "") -> None:
    """A real client in the guest fetches the page, the right one, and may keep it in a file."""
    # Not by tee: that of busybox copies 3 MB/s in an emulated guest.
    fetch = f"set -o pipefail; wget -q -O {keep or '-'} http://{door}{page.path}"
    digest = guest.check(f"{fetch} && sha256sum {keep}" if keep else f"{fetch} | sha256sum", timeout * PATIENCE)
    assert digest.split()[0] == sha256(page.data)


class GuestDaemon:
    """One virtproxy process in the guest; to a Scene it is a process among others."""

    def __init__(self, guest: Guest, args: Sequence[str], name: str,
                 channels: Sequence[int] = (0,)) -> None:
        self.guest, self.name, self.channels = guest, name, tuple(channels)
        self.command = [PROXY, *args]
        self.process: Process = guest.start(self.command)
        self.wait_for_log(r"\bready\b")

    def lines(self) -> list[str]:
        return self.process.log().splitlines()

    def mark(self) -> int:
        return len(self.lines())

    def wait_for_log(self, pattern: str, timeout: float = 20, since: int = 0) -> re.Match[str]:
        """Waits for a line in the log that the pattern matches somewhere."""
        regex = re.compile(pattern)
        deadline = deadline_after(timeout * PATIENCE)
        while True:
            ended = not self.process.alive()
            for line in self.lines()[since:]:
                if match := regex.search(line):
                    return match
            assert not ended, f"{self.name} ended without /{pattern}/\n{self.everything()}"
            assert time.monotonic() < deadline, (
                f"{self.name} said nothing of /{pattern}/ for {timeout:g} s")
            time.sleep(0.02)

    def wait_up(self, since: int = 0, timeout: float = 20, channel: int = 0,
                protocol: int = 2) -> None:
        """Waits for a session. One of protocol 1 may begin without a byte from the other end."""
        up = rf"up, protocol {protocol}\b"
        state = rf"({up}|{SENT_NOTHING})" if protocol == 1 else up
        self.wait_for_log(f"channel {channel}: {state}", timeout, since)

    def wait_down(self, since: int = 0, timeout: float = 20, channel: int = 0) -> None:
        self.wait_for_log(rf"channel {channel}: down\b", timeout, since)

    def stats(self) -> Stats:
        since = self.mark()
        self.process.kill(signal.SIGUSR1)
        stats = Stats()
        stats.process = _pairs(self.wait_for_log(r"stats process\b.*", 10, since).group(0))
        for channel in self.channels:
            line = self.wait_for_log(rf"stats channel={channel}\b.*", 10, since).group(0)
            stats.channels[channel] = _pairs(line)
        return stats

    def wait_at_rest(self, descriptors: int | None = None, timeout: float = 20) -> Stats:
        """Waits until no stream, buffer, dial (and no descriptor above `descriptors`) is left."""
        deadline = deadline_after(timeout * PATIENCE)
        while True:
            stats = self.stats()
            few = descriptors is None or stats.process["descriptors"] <= descriptors
            if stats.at_rest() and few:
                return stats
            assert time.monotonic() < deadline, f"{self.name} is not at rest: {stats}"

    def cpu_ticks(self) -> int:
        """Processor time so far, in hundredths of a second."""
        stat = self.guest.check(f"cat /proc/{self.process.pid}/stat").rpartition(")")[2].split()
        return int(stat[11]) + int(stat[12])

    def alive(self) -> bool:
        return self.process.alive()

    def kill9(self) -> None:
        self.process.kill(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM; the daemon must leave with exit code 0."""
        self.process.kill(signal.SIGTERM)
        status = self.process.wait(20 * PATIENCE)
        assert status == 0, f"{self.name}: exit code {status}\n{self.everything()}"

    # What a Scene asks of its processes.

    def kill(self) -> None:
        try:
            if self.process.alive():
                self.kill9()
        except ControlLost:
            pass  # Its machine has ended.

    def everything(self) -> str:
        try:
            said = self.process.log()
        except GuestError as error:
            said = f"(what it said is lost: {error})"
        return f"{' '.join(self.command)} (pid {self.process.pid})\n{said}"


class Line:
    """Both daemons and their doors.

    to_guest: service → port in the guest, or path of a unix socket; clients knock at
    `doors[service]` on the host.
    to_host: service → address on the host; clients knock at `guest_doors[service]` in the guest.
    A door is of the kind of its service.
    """

    _next_guest_port = 9000

    def __init__(self, scene: Scene, guest: Guest, host_channel: str, guest_channel: str,
                 to_guest: Mapping[str, int | str], to_host: dict[str, Address] | None = None,
                 guest_options: Sequence[str] = (), protocol: int = 2) -> None:
        self.scene, self.guest, self.protocol = scene, guest, protocol
        self.to_host = to_host or {}
        self.doors = {service: scene.addresses.unix() if isinstance(place, str)
                      else scene.addresses.tcp() for service, place in to_guest.items()}
        self.guest_doors: dict[str, str] = {}
        self._host_args, self._guest_args = ["-c", host_channel], ["-c", guest_channel]
        self._guest_args += guest_options
        if protocol != 2:
            self._guest_args += ["--protocol", str(protocol)]
        for service, place in to_guest.items():
            there = f"{place}:-" if isinstance(place, str) else f"127.0.0.1:{place}"
            self._host_args += ["-o", f"{service}:{self.doors[service].spec}"]
            self._guest_args += ["-i", f"{service}:{there}"]
        for service, address in self.to_host.items():
            door = self.guest_address(address.kind)
            self.guest_doors[service] = door.traffic
            self._host_args += ["-i", f"{service}:{address.spec}"]
            self._guest_args += ["-o", f"{service}:{door.spec}"]
        self.host = self._new_host()
        self.guest_daemon = self._new_guest()
        self.wait_up()

    @classmethod
    def guest_address(cls, kind: str) -> Address:
        """An address in the guest that no other line uses."""
        cls._next_guest_port += 1
        if kind == "unix":
            return Address(kind, f"/run/door.{cls._next_guest_port}")
        return Address("tcp", "127.0.0.1", cls._next_guest_port)

    def _new_host(self) -> Daemon:
        return self.scene.daemon(*self._host_args, name="host daemon")

    def _new_guest(self) -> GuestDaemon:
        daemon = GuestDaemon(self.guest, self._guest_args, "guest daemon")
        self.scene.processes.append(daemon)
        return daemon

    def restart_host(self) -> None:
        self.host = self._new_host()

    def restart_guest(self) -> None:
        self.guest_daemon = self._new_guest()

    def wait_up(self, timeout: float = 20) -> None:
        self.host.wait_up(timeout=timeout, protocol=self.protocol)
        self.guest_daemon.wait_up(timeout=timeout, protocol=self.protocol)

    def wait_at_rest(self) -> None:
        self.host.wait_at_rest()
        self.guest_daemon.wait_at_rest()

    def sessions(self) -> tuple[int, int]:
        """How many sessions each end has had."""
        return self.host.stats().total("sessions"), self.guest_daemon.stats().total("sessions")

    def descriptors(self) -> tuple[int, int]:
        return (max(self.host.fds(), self.host.stats().process["descriptors"]),
                self.guest_daemon.stats().process["descriptors"])


def on_threads(*calls: Callable[[], None]) -> None:
    """Makes all the calls at the same time; the first error is raised."""
    errors: list[BaseException] = []

    def make(call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:  # pylint: disable=broad-except
            errors.append(error)

    threads = [threading.Thread(target=make, args=(call,), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
