"""Two machines on one network that can be cut: network namespaces joined by a bridge in a third.

A cut is silent both ways: each machine keeps its carrier, and its packets go nowhere.
"""

from __future__ import annotations

import itertools
import os
import subprocess

from harness import Scene

_COUNT = itertools.count()


class TwoMachines:
    """`wrappers` are what a command is started with on either of them, `addresses` their own."""

    def __init__(self, scene: Scene) -> None:
        prefix = f"vp-{os.getpid()}-{next(_COUNT)}"
        self._names = [f"{prefix}-{name}" for name in ("near", "far", "between")]
        self.addresses = ["198.18.0.1", "198.18.0.2"]
        self.wrappers = [("ip", "netns", "exec", name) for name in self._names[:2]]
        scene.cleanup(self._remove)
        for name in self._names:
            _ip("netns", "add", name)
        between = self._names[2]
        _ip("-n", between, "link", "add", "bridge", "type", "bridge")
        _ip("-n", between, "link", "set", "bridge", "up")
        for index, address in enumerate(self.addresses):
            name = self._names[index]
            peer = ("peer", "name", f"port{index}", "netns", between)
            _ip("link", "add", "eth", "netns", name, "type", "veth", *peer)
            _ip("-n", between, "link", "set", f"port{index}", "master", "bridge", "up")
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth")
            for device in ("lo", "eth"):
                _ip("-n", name, "link", "set", device, "up")

    def cut(self) -> None:
        for index in range(2):
            _ip("-n", self._names[2], "link", "set", f"port{index}", "nomaster")

    def join(self) -> None:
        for index in range(2):
            _ip("-n", self._names[2], "link", "set", f"port{index}", "master", "bridge")

    def _remove(self) -> None:
        for name in self._names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True, capture_output=True)
