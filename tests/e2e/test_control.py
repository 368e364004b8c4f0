"""The control socket, virtproxyctl and the metrics, beside streams that carry data."""

from __future__ import annotations

import json
import os
import pwd
import pty
import re
import select
import shutil
import socket
import stat
import subprocess
import termios
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

from harness import BIN, PATIENCE, Daemon, Scene, into, out
from stage import ListeningService, echo, eventually, receive, wait_for_echo

WAIT = 10 * PATIENCE
DASHBOARD = Path(__file__).resolve().parents[2] / "uring/daemon/grafana/virtproxy.json"


class Operated:
    """A pair with an echo service, and one that is played by hand; the near end is operated."""

    def __init__(self, scene: Scene, *extra: str) -> None:
        service = scene.addresses.unix()
        scene.serve("echo", service)
        self.door = scene.addresses.unix()
        self.by_hand = ListeningService(scene, "unix")
        self.door_by_hand = scene.addresses.unix()
        channel = scene.addresses.unix()
        self.path = scene.addresses.unix().place
        self.metrics = scene.addresses.tcp()
        self.far = scene.daemon("-c", f"unix-listen:{channel.spec}", *into("echo", service),
                                *into("hand", self.by_hand.address), name="far")
        self.near: Daemon = scene.daemon(
            *("-c", f"unix-connect:{channel.spec}", *out("echo", self.door)),
            *out("hand", self.door_by_hand),
            *("--control", self.path, "--metrics", self.metrics.spec, *extra),
            name="near",
        )
        self.near.wait_up()
        wait_for_echo(self.door)

    def stream(self) -> tuple[socket.socket, socket.socket]:
        """(client, service) of a stream of the service that is played by hand."""
        client = self.door_by_hand.connect(WAIT)
        client.sendall(b"!")
        service = self.by_hand.accept()
        assert receive(service, 1) == b"!"
        return client, service

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(WAIT)
        sock.connect(self.path)
        return sock

    def ask(self, line: bytes) -> str:
        with self.connect() as sock:
            sock.sendall(line)
            return read_answer(sock)

    def ctl(self, *args: str) -> subprocess.CompletedProcess[str]:
        command = [BIN / "virtproxyctl", args[0], "--control", self.path, *args[1:]]
        return subprocess.run(command, capture_output=True, text=True, timeout=WAIT, check=False)

    def ctl_json(self, *args: str):
        done = self.ctl(*args, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)


def read_answer(sock: socket.socket) -> str:
    data = b""
    while not data.endswith(b"\n\n"):
        piece = sock.recv(1 << 16)
        if not piece:
            raise EOFError(data)
        data += piece
    return data.decode()


def test_the_commands_tell_what_is_so(scene: Scene) -> None:
    stage = Operated(scene)
    with stage.door.connect(WAIT) as client:
        echo(client, b"x" * 1000)
        status = stage.ctl_json("status")
        assert status["pid"] == stage.near.pid
        assert (status["state"], status["channels"], status["channels_up"]) == ("serving", 1, 1)
        assert status["streams"] == 1
        (channel,) = stage.ctl_json("channels")
        assert (channel["channel"], channel["state"], channel["protocol"]) == ("0", "up", 2)
        assert channel["sent"] >= 1000 and channel["received"] >= 1000
        forward, _ = stage.ctl_json("forwards")
        assert (forward["service"], forward["role"]) == ("echo", "listen")
        assert forward["opened"] >= 1 and forward["failed"] == 0
    text = stage.ctl("channels").stdout.splitlines()
    assert text[0].split()[:3] == ["channel", "state", "protocol"]
    assert text[1].split()[:3] == ["0", "up", "2"]
    assert stage.ctl("log-level", "debug").stdout.split() == ["log_level", "debug"]
    assert stage.ctl_json("log-level") == {"log_level": "debug"}


def fill(sock: socket.socket) -> int:
    """Sends until nothing more is taken; returns how many bytes were."""
    sent = 0
    sock.setblocking(False)
    while select.select([], [sock], [], 0.2)[1]:
        with suppress(BlockingIOError):
            sent += sock.send(bytes(1 << 16))
    sock.settimeout(WAIT)
    return sent


def test_why_names_the_side_that_does_not_read(scene: Scene) -> None:
    stage = Operated(scene)
    assert stage.ctl("why").stdout == "no stream waits\n"
    client = stage.door.connect(WAIT)
    echo(client)
    (idle,) = [row["stream"] for row in stage.ctl_json("streams")]
    assert stage.ctl("why", idle).stdout == f"stream {idle} does not wait\n"
    assert stage.ctl_json("why", idle) == []
    client.close()
    eventually("it is over", lambda: not stage.ctl_json("streams"))
    over = stage.ctl("why", idle)
    assert (over.returncode, over.stderr) == (1, f"virtproxyctl: there is no stream {idle}\n")
    assert stage.ctl("why", idle, "--json").returncode == 1
    for reason, sender in (
        ("the application at the other end does not read", 0),
        ("the application at this end does not read", 1),
    ):
        ends = stage.stream()
        sent = fill(ends[sender])
        eventually("it waits", lambda: stage.ctl_json("why"))
        (waits,) = stage.ctl_json("why")
        begun = time.monotonic()
        assert (waits["service"], waits["reason"]) == ("hand", reason)
        # A person is told which client it is that does not read.
        assert (f"{reason}: {waits['client']}\n" in stage.ctl("why").stdout) == (sender == 1)
        assert f"pid {os.getpid()}" in waits["client"]
        for of in (waits["stream"], "0"):
            assert [row["stream"] for row in stage.ctl_json("why", of)] == [waits["stream"]]
        time.sleep(0.5)  # A measured time, not a wait for anything.
        (later,) = stage.ctl_json("why")
        passed = time.monotonic() - begun
        assert passed - 0.3 * PATIENCE < later["waiting"] - waits["waiting"] < passed + 0.3 * PATIENCE
        receive(ends[1 - sender], sent)
        eventually("nothing waits", lambda: not stage.ctl_json("why"))
        for end in ends:
            end.close()


def test_streams_are_listed_and_one_is_reset(scene: Scene) -> None:
    stage = Operated(scene)
    clients = [stage.door.connect(WAIT) for _ in range(300)]
    for number, client in enumerate(clients):
        echo(client, b"x" * (number + 1))
    streams = stage.ctl_json("streams", "--sort", "sent")
    assert [stream["sent"] for stream in streams] == list(range(300, 0, -1))
    largest = streams[0]
    assert (largest["service"], largest["side"], largest["received"]) == ("echo", "client", 300)
    assert f"pid {os.getpid()}" in largest["client"]
    assert len({stream["stream"] for stream in streams}) == 300
    limited = stage.ctl("streams", "0", "--limit", "3").stdout.splitlines()
    assert len(limited) == 5 and limited[-1] == "(3 of 300 streams; --limit N for more)"
    assert stage.ctl("kill", largest["stream"]).stdout == f"stream {largest['stream']} is reset\n"
    with suppress(ConnectionResetError):
        assert clients[299].recv(1) == b""
    (event,) = [event for event in stage.ctl_json("events") if event["event"] == "client_reset"]
    assert event["text"] == "killed by an administrator"
    echo(clients[298])
    assert len(stage.ctl_json("streams")) == 299
    again = stage.ctl("kill", largest["stream"])
    assert (again.returncode, again.stderr) == (
        1, f"virtproxyctl: there is no stream {largest['stream']}\n")
    for client in clients:
        client.close()


def test_what_is_wrong_is_one_line(scene: Scene) -> None:
    stage = Operated(scene)
    for line, error in (
        (b"\n", "error: no command; try help\n\n"),
        (b"strea\x07ms\n", "error: there is no command 'strea\\x07ms'; try help\n\n"),
        (b"status now\n", "error: status: what is 'now'? Try help\n\n"),
        (b"log-level loud\n",
         "error: there is no level 'loud'; there are error, warn, info, debug and trace\n\n"),
        (b"streams vm9\n", "error: there is no channel 'vm9'; the channel is 0\n\n"),
        (b"streams --limit 0\n", "error: --limit '0': use 1 to 65536\n\n"),
        (b"streams --sort\n", "error: streams: a value is missing behind --sort\n\n"),
        (b"streams --sort size\n", "error: --sort 'size': use age, sent, received or waiting\n\n"),
        (b"kill 0/1\n", "error: kill '0/1': name a stream as the command streams does\n\n"),
        (b"kill 0/7.1\n", "error: there is no stream 0/7.1\n\n"),
        (b"x" * 5000 + b"\n", "error: a command has at most 4096 bytes\n\n"),
    ):
        assert stage.ask(line) == error
    assert json.loads(stage.ask(b"nothing --json\n"))["error"].startswith("there is no command")
    done = stage.ctl("log-level", "loud")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "virtproxyctl: there is no level 'loud'; there are error, warn, info, debug and trace\n"
    wrong = subprocess.run([BIN / "virtproxyctl", "status", "--control", stage.path + "x"],
                           capture_output=True, text=True, timeout=WAIT, check=False)
    assert wrong.returncode == 1
    assert "there is no such socket: is the daemon running with --control PATH?" in wrong.stderr
    wrong = subprocess.run([BIN / "virtproxyctl", "status", "--control", scene.directory],
                           capture_output=True, text=True, timeout=WAIT, check=False)
    assert wrong.returncode == 1 and "that is no socket" in wrong.stderr
    channel = scene.addresses.unix()
    scene.daemon("-c", f"unix-listen:{channel.spec}", name="of-channel")
    wrong = subprocess.run([BIN / "virtproxyctl", "status", "--control", channel.place],
                           capture_output=True, text=True, timeout=WAIT, check=False)
    assert wrong.returncode == 1
    assert "is no daemon's control socket: give the path of its --control" in wrong.stderr


def test_only_its_user_may_connect_and_the_path_goes_with_the_daemon(scene: Scene) -> None:
    stage = Operated(scene)
    status = os.stat(stage.path)
    assert stat.S_ISSOCK(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o600
    assert stage.ctl("drain").stdout == "draining: open streams may finish\n"
    stage.near.check_exit()
    assert not Path(stage.path).exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_the_socket_belongs_to_the_user_that_the_daemon_runs_as(scene: Scene) -> None:
    user = pwd.getpwnam("nobody")
    scene.directory.chmod(0o755)
    folder = scene.directory / "run"
    folder.mkdir()
    os.chown(folder, user.pw_uid, user.pw_gid)
    scene.daemon("-c", f"tcp-listen:{scene.addresses.tcp().spec}", "--user", "nobody", "--control", folder / "control")
    status = os.stat(folder / "control")
    assert (status.st_uid, status.st_gid) == (user.pw_uid, user.pw_gid)
    assert stat.S_IMODE(status.st_mode) == 0o600
    asked = subprocess.run([BIN / "virtproxyctl", "status", "--control", folder / "control"], user=user.pw_uid,
                           group=user.pw_gid, extra_groups=[], capture_output=True, text=True, timeout=WAIT, check=False)
    assert asked.returncode == 0, asked.stderr


def test_stop_does_not_wait_for_streams(scene: Scene) -> None:
    stage = Operated(scene, "--drain-timeout", "300")
    with stage.door.connect(WAIT) as client:
        echo(client)
        assert stage.ctl("drain").returncode == 0
        assert stage.ctl_json("status")["state"] == "draining"
        echo(client)
        assert stage.ctl("stop").stdout == "stopping: open streams are reset\n"
        stage.near.check_exit()


def test_commands_are_answered_while_one_worker_has_ended(scene: Scene) -> None:
    """An end that drains has a worker without streams, which ends at once, and one that goes on."""
    idle = scene.addresses.unix()
    stage = Operated(scene, "-c", f"unix-listen:{idle.spec}", "--threads", "2", "--drain-timeout", "300")
    threads = Path(f"/proc/{stage.near.pid}/task")
    with stage.door.connect(WAIT) as client:
        echo(client)
        before = len(list(threads.iterdir()))
        assert stage.ctl("drain").returncode == 0
        eventually("the worker without streams has ended", lambda: len(list(threads.iterdir())) < before)
        status = stage.ctl_json("status")
        assert (status["state"], status["channels_up"], status["streams"]) == ("draining", 1, 1)
        assert {row["state"] for row in stage.ctl_json("channels")} == {"up", "down"}
        assert [row["service"] for row in stage.ctl_json("streams")] == ["echo"]
        assert stage.ctl_json("why") == []
        assert stage.ctl("far", "status", "1").stderr == "virtproxyctl: channel 1 is not there\n"
        assert 'virtproxy_turn_seconds_count{worker="0"}' in http(stage)
        echo(client)
        assert stage.ctl("stop").returncode == 0
        stage.near.check_exit()


def test_clients_that_misbehave_harm_neither_streams_nor_others(scene: Scene) -> None:
    """Garbage, half a line, a flood without end, 1,000 clients, one that never reads."""
    stage = Operated(scene)
    with stage.door.connect(WAIT) as client:
        echo(client)
        half, flood, deaf = stage.connect(), stage.connect(), stage.connect()
        half.sendall(b"stat")
        with pytest.raises(OSError):
            for _ in range(1 << 14):
                flood.sendall(bytes(1 << 16))
        deaf.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                deaf.sendall(b"metrics\n" * 512)
        echo(client)
        assert "serving" in stage.ask(b"status\n")
        crowd = [stage.connect() for _ in range(1000)]
        assert "serving" in stage.ask(b"status\n")
        echo(client)
        for sock in (*crowd, half, flood, deaf):
            sock.close()
        eventually("descriptors come back", lambda: stage.ctl_json("status")["descriptors"] < 60)
        echo(client)


def http(stage: Operated, target: str = "/metrics") -> str:
    url = f"http://{stage.metrics.spec}{target}"
    with urllib.request.urlopen(url, timeout=WAIT) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return answer.read().decode()


OPEN_METRICS = "application/openmetrics-text"


def accepting(stage: Operated, accept: str) -> tuple[str, str]:
    """The type and the text of the metrics for a client that accepts those types."""
    request = urllib.request.Request(f"http://{stage.metrics.spec}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=WAIT) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def test_metrics_are_what_a_client_accepts(scene: Scene) -> None:
    stage = Operated(scene)
    for accept, opens in (
        (f"{OPEN_METRICS};version=1.0.0,text/plain;version=0.0.4;q=0.5", True),
        (f"text/plain;q=0.2, {OPEN_METRICS}", True),
        (f"{OPEN_METRICS};q=0.1,text/plain", False),
        (f"{OPEN_METRICS};q=0", False),
        ("*/*", False),
    ):
        kind, text = accepting(stage, accept)
        assert kind.startswith(OPEN_METRICS) == opens, accept
        assert text.endswith("# EOF\n") == opens
        counter = "virtproxy_sessions" if opens else "virtproxy_sessions_total"
        assert f"# TYPE {counter} counter\n" in text
        assert "\nvirtproxy_turn_seconds_count{worker=\"0\"} " in text
    promtool = shutil.which("promtool")
    if promtool:
        plain = accepting(stage, "text/plain")[1]
        done = subprocess.run([promtool, "check", "metrics"], input=plain, capture_output=True,
                              text=True, timeout=WAIT, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_dashboard_asks_for_what_there_is(scene: Scene) -> None:
    # One that listens and offers has all families.
    stage = Operated(scene, *into("own", scene.addresses.unix()))
    text = accepting(stage, "text/plain")[1]
    there = {re.match(r"\w+", line).group() for line in text.splitlines() if line[0] != "#"}
    labels = set(re.findall(r'[{,](\w+)="', text)) | {"instance"}
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [variable["query"] for variable in dashboard["templating"]["list"][1:]]
    assert len(queries) > 15
    for query in queries:
        names = re.findall(r"\bvirtproxy_\w+", query)
        assert names and set(names) <= there, query
        asked = re.findall(r"(\w+)=~", query) + re.findall(r"\w+", "".join(re.findall(r"by \((.*?)\)", query)))
        assert set(asked) <= labels, query


def families_of(text: str) -> dict[str, list[str]]:
    """Type, labels and meaning of each family."""
    found: dict[str, list] = {}
    for line in text.splitlines():
        if line.startswith("# "):
            _, what, name, rest = line.split(" ", 3)
            family = found.setdefault(name, ["", set(), ""])
            family[0 if what == "TYPE" else 2] = rest
        elif "{" in line:
            name = line.partition("{")[0]
            name = name if name in found else re.sub("_(bucket|count|sum)$", "", name)
            found[name][1] |= set(re.findall(r'[{,](\w+)="', line.rpartition("}")[0])) - {"le"}
    return {name: [kind, ", ".join(sorted(labels)), help_text] for name, (kind, labels, help_text) in found.items()}


def test_the_list_of_metrics_is_true(scene: Scene) -> None:
    """METRICS.md has each family that daemons show which do everything, and no other."""
    first, second, log, other_log = (scene.addresses.unix() for _ in range(4))
    control = [scene.addresses.unix().place for _ in range(3)]
    scene.daemon(
        "-c", f"unix-listen:{first.spec}:vm1", "-c", f"unix-listen:{second.spec}:vm2", "--control", control[0],
        "-i", f"service:{scene.addresses.tcp().spec}:vm1", "-o", f"own:{scene.addresses.tcp().spec}:vm1",
        "--collect", f"file:{scene.directory}/lines", "--collect-spool", f"{scene.directory}/spool:8M",
        channels=("vm1", "vm2"))  # fmt: skip
    scene.daemon("-c", f"unix-connect:{first.spec}:host", "--ship", f"unix-dgram:{log.place},full=spool",
                 "--ship-spool", f"{scene.directory}/guest:1M", "--control", control[1], channels=("host",)).wait_up("host")
    scene.daemon("-c", f"unix-connect:{second.spec}:host", "--ship", f"unix-dgram:{other_log.place}",
                 "--control", control[2], channels=("host",)).wait_up("host")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"a line", log.place)

    def shown() -> dict[str, list[str]]:
        asked = [subprocess.run([BIN / "virtproxyctl", "metrics", "--control", path], capture_output=True, text=True,
                                timeout=WAIT, check=True).stdout for path in control]
        return {name: family for text in asked for name, family in families_of(text).items()}

    eventually("the line has come", lambda: "source" in shown().get("virtproxy_log_source_lines", ["", ""])[1])
    document = (DASHBOARD.parents[1] / "METRICS.md").read_text(encoding="utf-8")
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in document.splitlines()
            if line.startswith("| `virtproxy_")]
    assert {name: rest for name, *rest in rows} == shown()
    assert [name for name, *_ in rows] == sorted(name for name, *_ in rows)


@pytest.mark.skipif(not shutil.which("prometheus"), reason="needs the package prometheus")
def test_prometheus_scrapes(scene: Scene) -> None:
    stage = Operated(scene)
    web = scene.addresses.tcp()
    config = scene.directory / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 200ms, scrape_timeout: 200ms}\n"
        f"scrape_configs: [{{job_name: virtproxy, static_configs: [{{targets: ['{stage.metrics.spec}']}}]}}]\n",
        encoding="ascii",
    )
    scene.spawn(["prometheus", f"--config.file={config}", f"--web.listen-address={web.spec}",
                 f"--storage.tsdb.path={scene.directory / 'tsdb'}"])

    def value(query: str) -> float | None:
        url = f"http://{web.spec}/api/v1/query?" + urllib.parse.urlencode({"query": query})
        try:
            with urllib.request.urlopen(url, timeout=WAIT) as answer:
                found = json.load(answer)["data"]["result"]
        except OSError:
            return None
        return float(found[0]["value"][1]) if found else None

    eventually("a scrape", lambda: value('up{job="virtproxy"}') == 1, 30)
    with stage.door.connect(WAIT) as client:
        echo(client, b"x" * 5000)
        query = 'virtproxy_stream_bytes_total{forward="echo",direction="sent"} >= 5000'
        eventually("the bytes", lambda: value(query) is not None)
    eventually("a histogram", lambda: (value("histogram_quantile(0.99, virtproxy_turn_seconds_bucket)") or 0) > 0)


def test_events_are_kept_and_followed(scene: Scene) -> None:
    stage = Operated(scene)
    (up,) = [event for event in stage.ctl_json("events") if event["event"] == "up"]
    assert up["channel"] == "0" and f"pid {stage.far.pid}" in up["text"]
    follow = scene.spawn([BIN / "virtproxyctl", "events", "--follow", "--control", stage.path])
    follow.out.wait_for("  0  up  protocol 2", WAIT)
    stage.by_hand.listener.close()
    resets = 0

    def be_reset() -> None:
        nonlocal resets
        with suppress(OSError), stage.door_by_hand.connect(WAIT) as client:
            client.sendall(b"?")
            client.recv(1)
        resets += 1

    be_reset()
    follow.out.wait_for("client_reset  hand: ", WAIT)
    (down,) = [event for event in stage.ctl_json("events") if event["event"] == "client_reset"]
    assert (down["service"], down["suppressed"]) == ("hand", 0)
    # A flood of one kind leaves room for the others, and is counted.
    for _ in range(50):
        be_reset()

    def all_are_counted() -> bool:
        be_reset()
        kept = [event for event in stage.ctl_json("events") if event["event"] == "client_reset"]
        return sum(1 + event["suppressed"] for event in kept) == resets

    eventually("the next event has the count", all_are_counted)
    events = stage.ctl_json("events")
    assert [event["number"] for event in events] == list(range(1, len(events) + 1))
    last = events[-1]["number"]
    assert json.loads(stage.ask(f"events 0 --after {last - 1} --json\n".encode())) == events[-1:]
    wrong = stage.ask(b"events --after x\n")
    assert wrong == "error: --after 'x': use the number of an event\n\n"


def test_top_is_made_for_a_terminal(scene: Scene) -> None:
    stage = Operated(scene)
    command = [BIN / "virtproxyctl", "top", "--control", stage.path]
    with stage.door.connect(WAIT) as client:
        echo(client, b"x" * 5000)
        once = subprocess.run(command, capture_output=True, text=True, timeout=WAIT, check=True,
                              stdin=subprocess.DEVNULL)
        assert "\x1b" not in once.stdout
        lines = once.stdout.splitlines()
        assert lines[2].split()[:3] == ["STREAM", "SERVICE", "AGE"]
        assert " echo " in lines[3] and " 4.9K" in lines[3]
        assert all(len(line) <= 80 for line in lines)
        terminal, slave = pty.openpty()
        termios.tcsetwinsize(terminal, (24, 60))
        before = termios.tcgetattr(slave)
        with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave) as top:
            shown = b""
            while shown.count(b"\x1b[H") < 2:
                shown += os.read(terminal, 1 << 16)
            assert b"\x1b[7mSTREAM" in shown and b" echo " in shown
            text = re.sub(rb"\x1b\[[0-9;]*[A-Za-z]", b"", shown).decode()
            assert max(len(line) for line in text.splitlines()) <= 60
            os.write(terminal, b"q")
            assert top.wait(WAIT) == 0
        assert termios.tcgetattr(slave) == before
        os.close(slave)
        os.close(terminal)


def test_metrics_count_what_happens(scene: Scene) -> None:
    stage = Operated(scene)
    with stage.door.connect(WAIT) as client:
        echo(client, b"x" * 5000)
        text = http(stage)
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert lines['virtproxy_channel_up{channel="0"}'] == "1"
    sent = 'virtproxy_stream_bytes_total{channel="0",forward="echo",direction="sent"}'
    assert int(lines[sent]) >= 5000
    assert stage.ctl("metrics").stdout.splitlines()[0] == text.splitlines()[0]
    for target, code in (("/", 404), ("/metrics/x", 404)):
        with pytest.raises(urllib.error.HTTPError) as refused:
            http(stage, target)
        assert refused.value.code == code
    with stage.metrics.connect(WAIT) as sock:
        sock.sendall(b"GARBAGE\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 400 ")
