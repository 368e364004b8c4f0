"""The static daemon on other kernels: which driver it takes, what it does without, and that bytes are exact.

The kernel that is installed is always one of them. `kernels` beside this file fetches those of other
Debian suites and names their folder in VIRTPROXY_KERNELS.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import PATIENCE, Scene, scaled
from stage import wait_for_echo

from .initramfs import Kernel, find_kernel
from .line import (ECHO, HTTP, MIB, TRAFFIC, Line, Page, content, curl, guest_with_services,
                   on_threads, serve_files, wget)
from .machine import Guest

PAGE = Page("page", content(5, 4 * MIB))
EXCHANGE = 7003
IO_URING = (5, 19)  # The first kernel whose ring is good enough.
SYSCTL = "/proc/sys/kernel/io_uring_disabled"  # From Linux 6.6 on.


def kernels() -> list[Kernel | None]:
    """None is the one that is installed."""
    folder = os.environ.get("VIRTPROXY_KERNELS")
    found = [find_kernel(suite / "boot", suite / "lib" / "modules")
             for suite in sorted(Path(folder).iterdir())] if folder else []
    return [None, *sorted(found, key=lambda kernel: kernel.version)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("g")


@pytest.fixture(scope="module", params=kernels(),
                ids=lambda kernel: kernel.release if kernel else "installed")
def guest(request: pytest.FixtureRequest, folder: Path) -> Iterator[Guest]:
    with guest_with_services(folder, [PAGE], kernel=request.param,
                             virtio_ports={"vp": folder / "vp.sock"}) as guest:
        guest.check("chown nobody /dev/virtio-ports/vp")
        yield guest


def version(guest: Guest) -> tuple[int, int]:
    major, minor = guest.check("uname -r").split(".")[:2]
    return int(major), int(minor)


def features(guest: Guest, *options: str) -> tuple[dict[str, str], str]:
    """What `virtproxy --features` says there: name → value; and all it said."""
    said = guest.check(f"virtproxy --features {' '.join(options)} 2>&1")
    pairs = [line.split(maxsplit=1) for line in said.splitlines()]
    return {name: rest for name, *rest in pairs for rest in rest}, said


def exchange(scene: Scene, guest: Guest, line: Line) -> None:
    """Streams that send both ways at once, every byte compared at both ends."""
    amounts = ("--seed", "9", "--streams", "20", "--bytes", str(scaled(512 << 10, 64 << 10)))
    service = guest.start([TRAFFIC, "exchange", "--listen", f"127.0.0.1:{EXCHANGE}", *amounts])
    guest.wait_for(f"grep ready {service.log_path}")
    result = scene.traffic("exchange", "--connect", line.doors["exchange"].traffic, *amounts, timeout=120)
    assert result["clients"]["complete"] == 20, result
    assert service.wait(30 * PATIENCE) == 0, service.log()


def move_bytes(scene: Scene, guest: Guest, driver: str, asked: str, protocol: int = 2) -> None:
    """Pages both ways, and streams whose every byte is compared, between this machine and the guest."""
    to_guest = {"http": HTTP, "echo": ECHO, "exchange": EXCHANGE}
    line = Line(scene, guest, f"unix-connect:{guest.virtio_ports['vp']}:-",
                "virtio-serial:/dev/virtio-ports/vp:-", to_guest,
                {"web": serve_files(scene, Path(guest.virtio_ports["vp"]).parent)},
                guest_options=("--user", "nobody", "--driver", asked), protocol=protocol)
    wait_for_echo(line.doors["echo"])
    mark = line.guest_daemon.mark()
    line.guest_daemon.stats()
    line.guest_daemon.wait_for_log(rf"stats worker=0 .*driver={driver}$", since=mark)
    wget(guest, line.guest_doors["web"], PAGE)
    curl(scene, line.doors["http"], PAGE)
    if protocol == 2:
        exchange(scene, guest, line)
    else:  # which has no end of input that leaves the other direction open
        on_threads(lambda: curl(scene, line.doors["http"], PAGE),
                   *[lambda: wget(guest, line.guest_doors["web"], PAGE)] * 3)
    line.guest_daemon.wait_at_rest()
    said = line.guest_daemon.everything()
    line.guest_daemon.terminate()
    assert "the sandbox refused" not in said, said


def test_the_driver_suits_the_kernel(guest: Guest) -> None:
    found, said = features(guest)
    print(f"\n{guest.check('uname -r').strip()}:", *said.splitlines(), sep="\n  ")
    recent = version(guest) >= IO_URING
    assert found["driver"] == ("io_uring" if recent else "epoll"), said
    assert recent or re.search(r"going on with epoll.*Linux 5\.19", said), said
    assert found["landlock"] == ("yes" if version(guest) >= (5, 13) else "no"), said


@pytest.mark.parametrize("driver", ["auto", "epoll"])
@pytest.mark.parametrize("protocol", [2, 1])
def test_bytes_are_exact_with(scene: Scene, guest: Guest, driver: str, protocol: int) -> None:
    used = "io_uring" if driver == "auto" and version(guest) >= IO_URING else "epoll"
    move_bytes(scene, guest, used, driver, protocol)


def test_where_a_sysctl_forbids_io_uring_it_goes_on_with_epoll(scene: Scene, guest: Guest) -> None:
    if guest.run(f"test -e {SYSCTL}").status != 0:
        pytest.skip(f"no {SYSCTL} before Linux 6.6")
    guest.check(f"echo 2 > {SYSCTL}")  # Root too.
    try:
        found, said = features(guest)
        assert found["driver"] == "epoll", said
        assert re.search(r"sysctl kernel\.io_uring_disabled=0", said), said
        move_bytes(scene, guest, "epoll", "auto")
    finally:
        guest.check(f"echo 0 > {SYSCTL}")
