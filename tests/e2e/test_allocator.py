"""The allocator that was asked for at build time is the one that serves objects at run time."""

from __future__ import annotations

import subprocess

from harness import BIN, SANITIZED, Scene


def linked_libraries() -> str:
    return subprocess.run(
        ["ldd", BIN / "virtproxy"], capture_output=True, text=True, check=True
    ).stdout


def test_objects_lie_in_the_heap_of_mimalloc(scene: Scene) -> None:
    channel = scene.addresses.unix()
    daemon = scene.daemon("-c", f"unix-listen:{channel.spec}", "--log-level", "debug")
    # The sanitizers bring an allocator of their own.
    wanted = "the C library's" if SANITIZED else r"mimalloc 2\.\d+\.\d+"
    daemon.wait_for_log(f"memory comes from {wanted}")
    assert ("libmimalloc" in linked_libraries()) != SANITIZED
