"""The comparison of log lines in little: real programs, no judgement of their speed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).resolve().parents[1]


def compared(tmp_path, *arguments):
    out = tmp_path / "out.json"
    done = subprocess.run(
        [sys.executable, "-B", str(HARNESS / "logs.py"), "--rounds", "1", "--seconds", "0.2", "--json", str(out),
         *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, check=False)
    said = done.stdout.decode()
    assert done.returncode == 0, said
    return json.loads(out.read_text()), said


def test_the_floor_and_lines_through_socat_are_measured(tmp_path):
    results, said = compared(tmp_path, "--peer", "floor", "--peer", "socat", "--load", "dgram-1", "--load", "stream-batch")
    assert sorted((run["load"], run["contestant"]) for run in results["runs"]) == [
        ("dgram-1", "floor"), ("stream-batch", "floor"), ("stream-batch", "socat")]
    for run in results["runs"]:
        assert run["failure"] is None, run
        assert run["figures"]["lost_lines"] == 0
        assert all(run["figures"][name] > 0 for name in ("lines_per_s", "cpu_us_per_line", "age_p99_us"))
    assert "## unix stream, 200 B, 64 lines a write" in said


@pytest.mark.skipif(shutil.which("rsyslogd", path="/usr/sbin:/usr/bin") is None, reason="rsyslog is not installed")
def test_lines_through_rsyslog_are_measured(tmp_path):
    results, _ = compared(tmp_path, "--peer", "rsyslog-relp", "--peer", "rsyslog-stream", "--load", "dgram-1")
    assert len(results["runs"]) == 2
    for run in results["runs"]:
        assert run["failure"] is None, run
        assert run["figures"]["lost_lines"] == 0
