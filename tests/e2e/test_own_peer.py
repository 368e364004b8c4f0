"""A port that nobody listens on and that the kernel may choose for a connection: the socket that connects to it would be
its own peer, and take back what it sends."""

from __future__ import annotations

import subprocess

import pytest

from collecting import Collecting
from harness import Scene
from log_guest import Log

PORT = 40000
# With one port to choose from, the kernel chooses that one.
ALONE = ["unshare", "-n", "sh", "-c",
         f'ip link set lo up && echo {PORT} {PORT} > /proc/sys/net/ipv4/ip_local_port_range && exec "$@"', "sh"]


def test_a_sink_whose_port_nobody_has_is_down(scene: Scene) -> None:
    """Without the check, what TCP has confirmed to itself would be acknowledged, and lost."""
    if subprocess.run([*ALONE, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("no network namespace can be made here")
    collecting = Collecting(scene, [f"syslog+tcp:127.0.0.1:{PORT}"])
    daemon = collecting.start(wrapper=ALONE)
    daemon.wait_for_log(rf"127\.0\.0\.1:{PORT}: Connection refused: trying again")
    guest = collecting.guest()
    log = Log()
    assert guest.begin(log)
    assert guest.send(log.add([b"kept"]))
    daemon.wait_stats("it is here", lambda stats: stats.channels["vm1"]["log_delivered"] == 1)
    assert daemon.stats().channels["vm1"]["log_held"] > 0
    guest.peer.close()
