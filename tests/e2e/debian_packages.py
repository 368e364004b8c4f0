"""The Debian packages of this build."""

from __future__ import annotations

import subprocess
from pathlib import Path

from harness import BIN, PATIENCE


def run(*command: str | Path, timeout: float = 120, expect: int = 0) -> str:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=timeout * PATIENCE, check=False
    )
    assert done.returncode == expect, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build_packages(place: Path, *components: str) -> dict[str, Path]:
    """All of them, or those of some components, by name. Packed quickly: what is in them is the same."""
    settings = ["-D", "CPACK_DEBIAN_COMPRESSION_TYPE=gzip"]
    settings += ["-D", f"CPACK_COMPONENTS_ALL={';'.join(components)}"] if components else []
    run("cpack", "--config", BIN.parent / "CPackConfig.cmake", *settings, "-B", place, timeout=300)
    return {path.name.split("_")[0]: path for path in place.glob("*.deb")}
