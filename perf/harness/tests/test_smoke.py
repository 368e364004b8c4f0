"""The whole comparison, in little: real daemons and relays, no judgement of their speed."""

import json
import subprocess
import sys
from pathlib import Path

HARNESS = Path(__file__).resolve().parents[1]


def test_the_floor_is_compared_and_written_down(tmp_path):
    out = tmp_path / "out.json"
    done = subprocess.run(
        [sys.executable, "-B", str(HARNESS / "compare.py"), "--quick", "--floor", "--rounds",
         "1", "--seconds", "0.2", "--free", "--load", "bulk-1", "--load", "ping-pong-1", "--load",
         "open-streams", "--load", "channels", "--json", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=240, check=False)
    said = done.stdout.decode()
    assert done.returncode == 0, said
    results = json.loads(out.read_text())
    assert results["format"] == 1
    assert results.keys() >= {"date", "machine", "rounds", "seconds", "peers", "runs", "summary",
                              "goals"}
    relays = {peer["name"] for peer in results["peers"] if peer["floor"]}
    assert relays == {f"{kind}{size}" for kind in ("splice", "uring-copy", "epoll-copy")
                      for size in ("", "-big")}
    assert all(peer["failure"] is None for peer in results["peers"]), said
    taken = {(run["load"], run["contestant"]) for run in results["runs"]}
    everybody = {"virtproxy", *relays}
    assert taken == {(load, name) for load in ("bulk-1", "ping-pong-1") for name in everybody} | {
        ("open-streams", "500-open"), ("open-streams", "16-open"), ("channels", "4-channels"),
        ("channels", "1-channel")}
    for run in results["runs"]:
        assert run["failure"] is None, run
        assert run["figures"] and all(value > 0 for value in run["figures"].values()), run
    for row in results["summary"]:
        assert row["figures"]
    ratios = [row for row in results["summary"] if row["ratios"]]
    assert len(ratios) == 2 * len(relays) + 2
    assert "## bulk, 1 stream, free" in said


def test_a_real_guest_is_measured(tmp_path):
    out = tmp_path / "out.json"
    done = subprocess.run(
        [sys.executable, "-B", str(HARNESS / "through_guest.py"), "--rounds", "1", "--seconds",
         "0.2", "--load", "guest-64kib", "--load", "host-64kib", "--load", "guest-lines", "--json",
         str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=240, check=False)
    said = done.stdout.decode()
    assert done.returncode == 0, said
    results = json.loads(out.read_text())
    assert len(results["runs"]) == 6
    for run in results["runs"]:
        assert run["failure"] is None, run
        assert all(value > 0 for value in run["figures"].values()), run
    assert len(results["goals"]) == 3
