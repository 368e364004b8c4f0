"""The journal of a real guest is shipped, up to its last line, over a power-off.

What the guest has logged is read from its disk, by the real journalctl, when it is off.
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import PATIENCE
from stage import eventually
from systemd_machine import needs_machine

from .debian import why_not
from .site import INSTALL, Site, debian_site


def missing() -> str:
    for program, package in (("journalctl", "systemd"), ("debugfs", "e2fsprogs")):
        if shutil.which(program) is None:
            return f"{program} is not installed: apt-get install {package}"
    return why_not()


pytestmark = [needs_machine, pytest.mark.skipif(bool(missing()), reason=missing() or "-")]

# As SHIPPING.md says, with a smaller spool.
INSTALL_DROP_IN = (
    "install -Dm644 /usr/share/virtproxy/ship-journal.conf -t /etc/systemd/system/virtproxy-guest.service.d"
)
GUEST_ENV = (
    "ARGS=--ship journal,name=journal,cursor=/var/lib/virtproxy/journal --ship-spool /var/lib/virtproxy/spool:16M\n"
)
HOST_DROP_IN = "[Service]\nStateDirectory=virtproxy\n"
HOST_TOML = '[collect]\nsink = ["file:/var/lib/virtproxy/guests,format=json"]\n'
# Logs when it is stopped, through each way into the journal.
CHATTER = """[Unit]
Description=says much while it stops
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
ExecStop=/bin/sh -c 'for i in $(seq 200); do echo "chatter %i $i"; done; logger -t chatter "dev-log %i"; echo "over %i"'
[Install]
WantedBy=multi-user.target
"""
CHATTERS = ("a", "b", "c")
LAST = "log shipping: the last line of this run, "


@dataclass(frozen=True)
class Entry:
    """Of the journal, what its line is made of."""

    identifier: str
    text: str  # the line


def entries_of(export: bytes) -> list[Entry]:
    """The journal's export format: a field a line, or its name, its size and its value."""
    entries, fields, at = [], {}, 0
    while at < len(export):
        end = export.index(b"\n", at)
        head = export[at:end]
        at = end + 1
        if not head:
            entries.append(entry_of(fields))
            fields = {}
        elif b"=" in head:
            name, _, value = head.partition(b"=")
            fields[name.decode()] = value
        else:
            (size,) = struct.unpack_from("<Q", export, at)
            fields[head.decode()] = export[at + 8 : at + 8 + size]
            at += 8 + size + 1
    return entries


def entry_of(fields: dict[str, bytes]) -> Entry:
    def text(name: str, otherwise: str = "") -> str:
        return fields.get(name, otherwise.encode()).decode("utf-8", "surrogateescape")

    priority = int(text("SYSLOG_FACILITY", "3")) * 8 + int(text("PRIORITY", "6"))
    moment = time.gmtime(int(text("__REALTIME_TIMESTAMP")) // 1_000_000)
    date = f"{time.strftime('%b', moment)} {moment.tm_mday:2} {time.strftime('%H:%M:%S', moment)}"
    identifier = text("SYSLOG_IDENTIFIER") or text("_COMM") or "-"
    pid = text("_PID") or text("SYSLOG_PID")
    return Entry(identifier, f"<{priority}>{date} {identifier}{f'[{pid}]' if pid else ''}: {text('MESSAGE')}")


def journal_on_disk(site: Site) -> list[Entry]:
    """All of it, of a guest that is off."""
    place = site.scene.directory / f"journal-{time.monotonic_ns()}"
    place.mkdir()
    subprocess.run(["debugfs", "-R", f"rdump /var/log/journal {place}", site.disk], check=True, capture_output=True)
    (machine,) = (place / "journal").iterdir()
    command = ["journalctl", f"--directory={machine}", "--output=export", "--no-pager"]
    return entries_of(subprocess.run(command, check=True, capture_output=True).stdout)


def collected(site: Site) -> list[dict]:
    text = site.host.outside("/var/lib/virtproxy/guests").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def lines_of(records: list[dict]) -> list[str]:
    """The lines; anything else, a drop or numbers without account, is a failure."""
    assert [record for record in records if "message" not in record and "message_base64" not in record] == []
    assert [record["seq"] for record in records] == list(range(len(records))), "numbers left out, or twice"
    return [record["message"] for record in records]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with debian_site() as site:
        yield site


def test_the_last_line_of_the_journal_is_at_the_host(site: Site) -> None:
    guest, host = site.guest, site.host
    host.check(INSTALL, 120)
    host.check("mkdir -p /etc/systemd/system/virtproxy@vm1.service.d /etc/virtproxy/vm")
    host.check("cat >/etc/systemd/system/virtproxy@vm1.service.d/state.conf", stdin=HOST_DROP_IN.encode())
    host.check("cat >/etc/virtproxy/vm/vm1.toml", stdin=(HOST_TOML + site.host_toml()).encode())
    host.check("systemctl daemon-reload && systemctl enable --now virtproxy@vm1")
    guest.check(INSTALL, 300)
    guest.check(INSTALL_DROP_IN)
    guest.check("cat >/etc/virtproxy/guest.env", stdin=GUEST_ENV.encode())
    guest.check("cat >/etc/systemd/system/chatter@.service", stdin=CHATTER.encode())
    guest.check("systemctl daemon-reload && systemctl enable --now " + " ".join(f"chatter@{name}" for name in CHATTERS))
    site.attach()
    guest.wait_for("systemctl is-active virtproxy-guest", 60)
    guest.check("logger -t test 'a line of /dev/log'")
    eventually("lines are collected", lambda: any("a line of /dev/log" in record.get("message", "")
                                                  for record in collected(site)), 60)  # fmt: skip
    guest.power_off()

    # Everything until the service was stopped, which is behind all others.
    journal = journal_on_disk(site)
    lines = lines_of(collected(site))
    assert LAST in lines[-1]
    assert lines == [entry.text for entry in journal[: len(lines)]]
    for name in CHATTERS:
        for text in (f": chatter {name} 200", f": dev-log {name}", f": over {name}"):
            assert sum(line.endswith(text) for line in lines) == 1, text
    rest = journal[len(lines) :]
    print(f"{len(lines)} lines before the guest was off, {len(rest)} behind the last one:")
    print("\n".join(entry.text for entry in rest))
    late = {"systemd", "systemd-journald", "systemd-shutdown", "umount", "virtproxy", "kernel"}
    assert {entry.identifier for entry in rest} <= late
    stopped = [entry.text for entry in rest if "Stopped " in entry.text and ".service" in entry.text]
    assert "virtproxy-guest.service" in stopped[0], stopped

    # What came behind it is in the guest's journal, and shipped when it boots again.
    with site.boot_again() as booted:
        site.let_daemon_connect()
        booted.wait_booted()
        eventually("the rest is collected", lambda: len(collected(site)) > len(journal), 60)
        logs = {record["log"] for record in collected(site)}
        print(f"the journal's last line of that boot: {journal[-1].text}; logs: {len(logs)}")
        got = [record["message"] for record in collected(site)]
        assert got[: len(journal)] == [entry.text for entry in journal]
        metrics = host.check("virtproxyctl metrics --control /run/virtproxy/vm/vm1/control.sock")
        unaccounted = [line for line in metrics.splitlines() if line.startswith("virtproxy_log_unaccounted")]
        assert unaccounted and all(line.split()[-1] == "0" for line in unaccounted), unaccounted
