"""In a container: the image of uring/daemon/container, under the profiles that engines apply by default."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from confined import as_root, sandboxed
from harness import BIN, Scene, into, out
from stage import wait_for_echo

HERE = Path(__file__).resolve().parent
UNDER_PROFILE = HERE / "under_profile.py"
CONTAINERFILE = HERE.parents[1] / "uring" / "daemon" / "container" / "Containerfile"
# Docker's as this project wrote it down, narrower than it is; and Podman's as Debian has it (package
# golang-github-containers-common).
PROFILES = {"docker": HERE / "docker_profile.json", "podman": Path("/usr/share/containers/seccomp.json")}
IO_URING = "io_uring_setup,io_uring_enter,io_uring_register"

pytestmark = [as_root, sandboxed]


class Image:
    """What the Containerfile makes: a root directory, a user, a program."""

    def __init__(self, scene: Scene) -> None:
        lines = [line.split(maxsplit=1) for line in CONTAINERFILE.read_text(encoding="utf-8").splitlines()
                 if line and not line.startswith("#")]
        assert lines[0] == ["FROM", "scratch"]
        self.root = scene.directory / "image"
        self.user, self.program = "0:0", ""
        for instruction, rest in lines[1:]:
            if instruction == "COPY":
                source, target = rest.split()
                target = self.root / target.lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(BIN / source, target)
            elif instruction == "USER":
                self.user = rest
            else:
                assert instruction == "ENTRYPOINT"
                (self.program,) = json.loads(rest)
        scene.directory.chmod(0o755)
        # A volume, for the sockets of the test.
        self.volume = self.root / "run"
        self.volume.mkdir()
        self.volume.chmod(0o777)

    def under(self, profile: Path, allow: str = "") -> list:
        """A prefix that runs the program in the image."""
        return [sys.executable, UNDER_PROFILE, "--allow", allow, "--root", self.root, "--user", self.user, profile]


@pytest.mark.parametrize("allow", ["", IO_URING], ids=["as-it-is", "with-io_uring"])
@pytest.mark.parametrize("profile", PROFILES)
def test_the_image_serves_under_the_default_profile(scene: Scene, profile: str, allow: str) -> None:
    if not PROFILES[profile].exists():
        pytest.skip(f"no {PROFILES[profile]}: install golang-github-containers-common")
    image = Image(scene)
    wrapper = image.under(PROFILES[profile], allow)
    door, back = scene.addresses.tcp(), scene.addresses.tcp()
    service = scene.addresses.tcp()
    inside = scene.daemon("-c", "unix-listen:/run/channel.sock:-", "--driver", "auto", *out("echo", door),
                          *into("exchange", service), name="container", wrapper=wrapper, program=image.program)
    scene.daemon("-c", f"unix-connect:{image.volume}/channel.sock:-", *into("echo", scene.echo_service()),
                 *out("exchange", back), name="outside").wait_up()
    inside.wait_up()
    if allow:
        assert not [line for line in inside.err.lines() if "epoll" in line], inside.everything()
    else:
        line = inside.wait_for_log(r" warn +.*going on with epoll.*").group(0)
        assert re.search(r"io_uring.*profile" if profile == "docker" else r"Linux 5\.19|profile", line), line
    inside.stats()
    inside.wait_for_log(rf"stats worker=0 .*driver={'io_uring' if allow else 'epoll'}$")
    wait_for_echo(door)
    amounts = ("--seed", 3, "--streams", 8, "--bytes", 1 << 20)
    server = scene.hold("ready", "exchange", "--listen", service.traffic, *amounts)
    result = scene.traffic("exchange", "--connect", back.traffic, *amounts)
    assert result["clients"]["complete"] == 8, result
    assert server.wait(20) == 0
    assert not [line for line in inside.err.lines() if " error " in line or "sandbox" in line], inside.everything()


def test_a_vsock_channel_is_refused_there_in_one_line(scene: Scene) -> None:
    image = Image(scene)
    run = scene.run([*image.under(PROFILES["docker"]), image.program, "-c", "vsock-listen:any:5000", "--driver", "epoll"], expect=1)
    errors = [line for line in run.err.lines() if " error " in line]
    assert len(errors) == 1 and "vsock" in errors[0] and "not permitted" in errors[0], run.everything()
