"""The guest's initramfs: busybox, kernel modules, the control scripts and what a caller adds.

The image is an uncompressed newc archive written here, the same bytes for the same input, and
kept in a cache directory under the hash of its content.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import shutil
import stat
import struct
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
BOOT = Path("/boot")
MODULES = Path("/lib/modules")
BUSYBOX = ("/bin/busybox", "/usr/bin/busybox")
WANTED_MODULES = ("virtio_pci", "virtio_console", "vsock", "vsock_loopback")
SCRIPTS = {
    "init": "init.sh",
    "sbin/link-ports": "link_ports.sh",
    "sbin/control": "control.sh",
    "sbin/control-job": "control_job.sh",
}
DIRECTORIES = ("bin", "sbin", "dev", "etc", "lib", "proc", "root", "run", "sys", "tmp", "var/www")
ETC = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 guest\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\nservices: files\n",
    "etc/services": "ssh 22/tcp\nhttp 80/tcp\nhttps 443/tcp\n",
}


class GuestError(RuntimeError):
    """Anything that keeps the guest from doing what it was asked."""


class MissingPackage(GuestError):
    """A program or file of a Debian package is not there."""

    def __init__(self, what: str, package: str) -> None:
        super().__init__(f"{what}: install the Debian package {package} "
                         f"(apt-get install {package})")
        self.package = package


@dataclass(frozen=True)
class Kernel:
    """A bootable kernel and the release its modules are filed under."""

    image: Path
    release: str
    modules: Path = MODULES

    @property
    def version(self) -> tuple[int, int]:
        """The first two numbers of the release."""
        major, minor = re.findall(r"\d+", self.release)[:2]
        return int(major), int(minor)


def find_kernel(boot: Path = BOOT, modules: Path = MODULES) -> Kernel:
    """The newest cloud kernel that has its modules beside it."""
    def age(release: str) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", release)]

    found = sorted((path.name.removeprefix("vmlinuz-") for path in
                    boot.glob("vmlinuz-*-cloud-amd64")), key=age)
    for release in reversed(found):
        if (modules / release / "modules.dep").is_file():
            return Kernel(boot / f"vmlinuz-{release}", release, modules)
    why = f"no modules in {modules} for {', '.join(found)}" if found else "no cloud kernel"
    raise MissingPackage(f"{why} in {boot}", "linux-image-cloud-amd64")


def elf_interpreter(data: bytes) -> str | None:
    """The dynamic loader a 64-bit ELF program asks for; None if it is static or no ELF."""
    if data[:5] != b"\x7fELF\x02":
        return None
    (offset,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    for index in range(count):
        kind, _, start, _, _, length = struct.unpack_from("<IIQQQQ", data, offset + index * size)
        if kind == 3:
            return data[start:start + length].rstrip(b"\0").decode()
    return None


def find_busybox(candidates: Iterable[str] = BUSYBOX) -> bytes:
    """The content of a statically linked busybox."""
    for name in candidates:
        path = Path(name)
        if path.is_file() and elf_interpreter(data := path.read_bytes()) is None:
            return data
    raise MissingPackage("no statically linked busybox", "busybox-static")


def module_files(release: str, wanted: Iterable[str] = WANTED_MODULES,
                 modules: Path = MODULES) -> list[Path]:
    """The wanted modules and what they need, in load order; built-in ones left out."""
    def plain(path: str) -> str:
        return re.sub(r"\.ko(\.\w+)?$", "", Path(path).name).replace("-", "_")

    root = modules / release
    built_in = {plain(line) for line in (root / "modules.builtin").read_text().split()}
    needs: dict[str, tuple[str, list[str]]] = {}
    for line in (root / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        needs[plain(path)] = (path, [plain(need) for need in rest.split()])
    order: list[str] = []

    def visit(name: str) -> None:
        if name in order or name in built_in:
            return
        if name not in needs:
            raise MissingPackage(f"kernel {release} has no module {name}",
                                 "linux-image-cloud-amd64")
        for need in reversed(needs[name][1]):
            visit(need)
        order.append(name)

    for name in wanted:
        visit(name)
    return [root / needs[name][0] for name in order]


def read_module(path: Path) -> bytes:
    """A module's content, decompressed where the kernel package compresses it."""
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix != ".ko":
        raise GuestError(f"{path}: do not know how to decompress this module")
    return data


@dataclass(frozen=True)
class Entry:
    """One member of the archive."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def newc(entries: Iterable[Entry]) -> bytes:
    """The entries as a cpio archive in newc format, times and owners all zero."""
    parts: list[bytes] = []
    size = 0

    def put(data: bytes) -> None:
        nonlocal size
        padding = -len(data) % 4
        parts.extend((data, bytes(padding)))
        size += len(data) + padding

    for number, entry in enumerate([*entries, Entry("TRAILER!!!", 0)], start=1):
        name = entry.name.encode() + b"\0"
        fields = (number, entry.mode, 0, 0, 1, 0, len(entry.data), 0, 0, *entry.device,
                  len(name), 0)
        put(b"070701" + b"".join(b"%08X" % field for field in fields) + name)
        put(entry.data)
    parts.append(bytes(-size % 512))
    return b"".join(parts)


def collect(kernel: Kernel, extra_files: Mapping[str, Path | str],
            extra_modules: Iterable[str] = ()) -> list[Entry]:
    """Every member of the image, parents first."""
    files: dict[str, tuple[int, bytes]] = {"bin/busybox": (0o755, find_busybox())}
    loads: list[str] = []
    for path in module_files(kernel.release, [*WANTED_MODULES, *extra_modules], kernel.modules):
        name = f"lib/modules/{path.name.split('.ko')[0]}.ko"
        files[name] = (0o644, read_module(path))
        loads.append(f"/{name}\n")
    files["etc/modules-load"] = (0o644, "".join(loads).encode())
    files.update({name: (0o644, text.encode()) for name, text in ETC.items()})
    files.update({name: (0o755, (HERE / script).read_bytes())
                  for name, script in SCRIPTS.items()})
    for target, source in extra_files.items():
        source = Path(source)
        mode = 0o755 if os.access(source, os.X_OK) else 0o644
        files[target.lstrip("/")] = (mode, source.read_bytes())
    for target in extra_files:
        loader = elf_interpreter(files[target.lstrip("/")][1])
        if loader and loader.lstrip("/") not in files:
            raise GuestError(f"{extra_files[target]} is not statically linked: it asks for "
                             f"{loader}, which the guest does not have")
    folders = {str(parent) for name in [*files, *(f"{path}/x" for path in DIRECTORIES)]
               for parent in Path(name).parents} - {"."}
    entries = [Entry(name, stat.S_IFDIR | 0o755) for name in sorted(folders)]
    entries.append(Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)))
    entries.extend(Entry(name, stat.S_IFREG | mode, data)
                   for name, (mode, data) in sorted(files.items()))
    return entries


def prune(cache_dir: Path, keep: Path, most: int = 8) -> None:
    """Removes all but the newest images; links that guests use stay good."""
    images = sorted(cache_dir.glob("initramfs-*.cpio"), key=lambda path: path.stat().st_mtime)
    for image in images[:-most]:
        if image != keep:
            image.unlink(missing_ok=True)


def build(path: Path | str, cache_dir: Path | str, *, kernel: Kernel | None = None,
          extra_files: Mapping[str, Path | str] | None = None,
          extra_modules: Iterable[str] = ()) -> Path:
    """Writes the image to `path` and returns it; `extra_files` maps guest paths to files here,
    `extra_modules` are loaded beside those that every guest has.

    `cache_dir` keeps images by the hash of their content, so that a second call with the same
    input only links one. Several processes may share it.
    """
    path, cache_dir = Path(path), Path(cache_dir)
    cache_dir.mkdir(parents=True, exist_ok=True)
    entries = collect(kernel or find_kernel(), extra_files or {}, extra_modules)
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(f"{entry.name}\0{entry.mode}\0{entry.device}\0{len(entry.data)}\0".encode())
        digest.update(entry.data)
    cached = cache_dir / f"initramfs-{digest.hexdigest()[:32]}.cpio"
    if not cached.is_file():
        with tempfile.NamedTemporaryFile(dir=cache_dir, delete=False) as part:
            part.write(newc(entries))
        os.replace(part.name, cached)
        prune(cache_dir, keep=cached)
    path.unlink(missing_ok=True)
    try:
        os.link(cached, path)
    except OSError:
        shutil.copyfile(cached, path)
    return path
