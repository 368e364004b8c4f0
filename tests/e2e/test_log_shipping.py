"""Log shipping from the end that has the sources: every line is delivered, or counted as dropped."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from confined import as_root
from harness import BIN, PATIENCE, Scene
from log_shipping import LogPeer, Shipping, send_dgrams, send_stream, texts
from relay import TO_TARGET, Relay
from stage import eventually

# More datagrams of 1000 bytes than the kernel holds for a UDP socket.
LOST = 12_000
# Every byte but the one that ends a line.
NO_LF = bytes(set(range(256)) - {0x0A})


def sizes(chance) -> int:
    return chance.choice([0, 1, 2, 20, 200, 200, 200, 1000, 8000, 9000])


def host_port(port: int) -> tuple[str, int]:
    return ("127.0.0.1", port)


def check(peer: LogPeer, name: str, index: int, lines: list[bytes]) -> None:
    """All of them were delivered, once and in order."""
    account = peer.wait_numbered(name, len(lines))
    assert account["delivered"] == len(lines) and not account["dropped"], account
    assert account["unaccounted"] == account["duplicates"] == 0
    delivered = peer.delivered(index)
    assert [line.number for line in delivered] == list(range(len(lines)))
    assert [line.text for line in delivered] == lines


def test_every_source_delivers_the_bytes_that_were_written(scene: Scene) -> None:
    """From 1 byte to 1 MiB, zeros and invalid UTF-8 among them."""
    ship = Shipping(scene)
    peer = ship.peer()
    udp, tcp = scene.addresses.number(), scene.addresses.number()
    fifo, dgram, stream = ship.path("stdin"), ship.path("dgram"), ship.path("stream")
    os.mkfifo(fifo)
    keep = os.open(fifo, os.O_RDWR)
    sources = [f"unix-dgram:{dgram},name=dgram", f"udp:127.0.0.1:{udp},name=udp,full=block",
               f"unix:{stream},name=stream,framing=lf,full=block,block-for=60",
               f"tcp:127.0.0.1:{tcp},name=tcp,full=block,block-for=60", "stdin,name=stdin"]
    daemon = ship.daemon(*(arg for source in sources for arg in ("--ship", source)),
                         "--ship-memory", "32M", "--ship-flush-timeout", "10",
                         wrapper=["sh", "-c", f'exec "$@" <{fifo}', "sh"])
    assert stat.S_IMODE(dgram.stat().st_mode) == stat.S_IMODE(stream.stat().st_mode) == 0o666
    plain = texts(400, sizes)
    large = texts(3, lambda chance: chance.choice([100_000, 200_000]), 2)
    send_dgrams(str(dgram), plain + large)
    few = texts(40, lambda chance: chance.choice([1, 200, 4000]), 3) + texts(1, lambda _: 60_000)
    send_dgrams(host_port(udp), few)
    huge = texts(300, sizes, 4, NO_LF) + texts(2, lambda _: 1 << 20, 5, NO_LF) + [b"end"]
    send_stream(str(stream), b"".join(line + b"\n" for line in huge))
    octets = [b"<13>" + line for line in texts(200, sizes, 6)] + [b"<1>" + b"\n\0" * 500_000]
    send_stream(host_port(tcp), b"".join(b"%d %s" % (len(line), line) for line in octets))
    with open(fifo, "wb") as writer:
        os.close(keep)
        writer.write(b"".join(line + b"\n" for line in huge) + b"without an end")
    check(peer, "dgram", 0, plain + large)
    check(peer, "udp", 1, few)
    check(peer, "stream", 2, huge)
    check(peer, "tcp", 3, octets)
    check(peer, "stdin", 4, huge + [b"without an end"])
    stats = daemon.stats().channels[0]
    assert stats["ship_received"] == sum(map(len, (plain, large, few, huge, octets, huge))) + 1
    assert stats["ship_dropped"] == 0 and stats["ship_connected"] == 1
    daemon.terminate()
    assert any("everything is acknowledged" in line for line in daemon.err.lines())
    assert not dgram.exists() and not stream.exists()
    assert all(log["finished"] for log in peer.accounts())


def test_the_programs_that_write_logs(scene: Scene) -> None:
    """logger in all its ways: LF, NUL and counted lines on one port."""
    if shutil.which("logger") is None:
        pytest.skip("no logger(1)")
    ship = Shipping(scene)
    peer = ship.peer()
    udp, tcp = scene.addresses.number(), scene.addresses.number()
    dgram, stream = ship.path("dgram"), ship.path("stream")
    ship.daemon("--ship", f"unix-dgram:{dgram},name=dgram", "--ship", f"unix:{stream},name=stream",
                "--ship", f"udp:127.0.0.1:{udp},name=udp", "--ship", f"tcp:127.0.0.1:{tcp},name=tcp")
    remote = ["-n", "127.0.0.1", "-t", "tag", "--rfc5424"]
    scene.run(["logger", "-u", dgram, "-t", "tag", "one"])
    scene.run(["logger", "-u", stream, "-t", "tag", "two"])
    scene.run(["logger", "-d", "-P", str(udp), *remote, "three"])
    scene.run(["logger", "-T", "-P", str(tcp), *remote, "four"])
    scene.run(["logger", "-T", "-P", str(tcp), "--octet-count", *remote, "five\nstill five"])
    send_stream(host_port(tcp), b"<13>six\0<13>seven\n7 <13>x\ny\n12 monkeys\n")
    for name, count in (("dgram", 1), ("stream", 1), ("udp", 1), ("tcp", 6)):
        peer.wait_numbered(name, count)
    assert re.fullmatch(rb"<13>.* tag: one", peer.texts(0)[0])
    assert re.fullmatch(rb"<13>.* tag: two", peer.texts(1)[0])
    assert peer.texts(2)[0].endswith(b"three")
    found = peer.texts(3)
    assert found[0].endswith(b"four")
    assert b"five" in found[1]
    assert found[-4:] == [b"<13>six", b"<13>seven", b"<13>x\ny", b"12 monkeys"]


@pytest.mark.parametrize("policy", ["drop-newest", "drop-oldest", "block"])
def test_policies_lose_what_they_say_and_count_it(scene: Scene, policy: str) -> None:
    """The channel is not there while lines come; what the memory does not hold is dropped."""
    ship = Shipping(scene)
    dgram = ship.path("dgram")
    daemon = ship.daemon("--ship", f"unix-dgram:{dgram},name=s,full={policy},block-for=0.5",
                         "--ship-memory", "256K")
    lines = texts(3000, lambda _: 500)
    began = time.monotonic()
    send_dgrams(str(dgram), lines)
    took = time.monotonic() - began
    received = daemon.wait_stats("received", lambda s: s.channels[0]["ship_received"] == len(lines))
    kept = len(lines) - received.channels[0]["ship_dropped"]
    assert 0 < kept < len(lines) // 2
    assert daemon.fds() > 0 and received.channels[0]["ship_held"] <= 256 << 10
    if policy == "block":
        assert 0.3 < took < 10 * PATIENCE, "the writer waits, and no longer than its budget"
    peer = ship.peer()
    account = peer.wait_numbered("s", len(lines))
    reason = "oldest" if policy == "drop-oldest" else "newest"
    assert account["delivered"] == kept and account["dropped"] == {reason: len(lines) - kept}
    assert account["unaccounted"] == 0
    end = lines[-kept:] if policy == "drop-oldest" else lines[:kept]
    assert peer.texts() == end, "the right end is kept"
    late = texts(50, lambda _: 100, 9)
    send_dgrams(str(dgram), late)
    peer.wait_source("s", lambda s: s["delivered"] == kept + len(late))
    assert peer.texts()[kept:] == late, "and all is well again"


def test_rates_lengths_and_the_kernels_losses_are_counted(scene: Scene) -> None:
    ship = Shipping(scene)
    peer = ship.peer()
    dgram, udp, stream = ship.path("dgram"), scene.addresses.number(), ship.path("stream")
    daemon = ship.daemon("--ship", f"unix-dgram:{dgram},name=slow,rate=10",
                         "--ship", f"udp:127.0.0.1:{udp},name=udp",
                         "--ship", f"unix:{stream},name=long", "--ship-memory", "256K")
    send_dgrams(str(dgram), texts(500, lambda _: 50))
    account = peer.wait_numbered("slow", 500)
    assert account["delivered"] + account["dropped"]["rate"] == 500
    assert 10 <= account["delivered"] < 100
    daemon.send_signal(signal.SIGSTOP)
    send_dgrams(host_port(udp), texts(LOST, lambda _: 1000))
    daemon.send_signal(signal.SIGCONT)
    send_stream(str(stream), b"x" * 300_000 + b"\nshort\n")
    account = peer.wait_numbered("udp", LOST)
    assert account["next"] == LOST and account["dropped"]["kernel-overflow"] > 0, account
    assert account["delivered"] + sum(account["dropped"].values()) == LOST
    account = peer.wait_numbered("long", 2)
    assert account["dropped"] == {"too-large": 1} and account["bytes"] == 300_005
    head, short = peer.delivered(2)
    assert head.head and head.full_length == 300_000 and set(head.text) == {ord("x")}
    assert short.text == b"short"


def test_a_spool_survives_the_end_of_the_process(scene: Scene) -> None:
    """SIGKILL without a channel, and with one that does not acknowledge; then SIGTERM."""
    ship = Shipping(scene)
    dgram, spool = ship.path("dgram"), ship.path("spool")
    args = ["--ship", f"unix-dgram:{dgram},name=s,full=spool", "--ship-memory", "1M",
            "--ship-spool", f"{spool}:32M,sync=0.05"]
    lines = texts(3000, lambda _: 1000)
    first = ship.daemon(*args, name="first")
    assert spool.stat().st_blocks * 512 >= 30 << 20, "allocated as a whole"
    size = spool.stat().st_size

    def written(daemon, count: int) -> None:
        daemon.wait_stats("written", lambda s: s.channels[0]["ship_received"] == count
                          and s.channels[0]["ship_held"] == s.channels[0]["ship_unwritten"] == 0)

    send_dgrams(str(dgram), lines[:1000])
    written(first, 1000)
    again = scene.daemon("-c", f"unix-connect:{ship.path('none')}:-", *args[2:], "--ship", "kmsg",
                         name="again", wait=False)
    again.check_exit(code=1)
    assert "is in use by another process" in again.stderr()
    first.kill9()
    peer = ship.peer(acknowledges=False)
    second = ship.daemon(*args, name="second")
    send_dgrams(str(dgram), lines[1000:2000])
    peer.wait_source("s", lambda s: s["delivered"] >= 200)  # As much as may be unacknowledged.
    written(second, 1000)
    second.kill9()
    peer.process.kill()
    peer.start()
    third = ship.daemon(*args, name="third")
    send_dgrams(str(dgram), lines[2000:])
    account = peer.wait_source("s", lambda s: s["next"] >= 3000)
    assert account["delivered"] == 3000 and not account["dropped"] and account["unaccounted"] == 0
    assert peer.texts() == lines
    third.terminate()
    assert spool.stat().st_size == size
    peer.process.kill()
    fourth = ship.daemon(*args, name="fourth")
    send_dgrams(str(dgram), lines[:10])
    began = time.monotonic()
    fourth.terminate()
    assert time.monotonic() - began < 4 * PATIENCE, "a spool does not wait for a channel"
    assert re.search(r"\d+ bytes stay in the spool", fourth.stderr())
    fifth = ship.daemon(*args, name="fifth")
    peer.start()
    account = peer.wait_source("s", lambda s: s["delivered"] >= 10)
    assert account["delivered"] == 10 and account["unaccounted"] == 0, account
    fifth.terminate()
    other = ship.daemon(*args[:-1], f"{spool}:64M", name="other", wait=False)
    other.check_exit(code=1)
    assert "was made with" in other.stderr() and other.stderr().count("\n") <= 2
    assert "give 32M, or remove it" in other.stderr()


@pytest.mark.parametrize("spool", [False, True], ids=["memory", "spool"])
def test_a_channel_that_is_cut_loses_and_doubles_nothing(scene: Scene, spool: bool) -> None:
    """Eight times in mid-flow; the receiver keeps its account."""
    ship = Shipping(scene)
    peer = ship.peer()
    between = scene.addresses.unix()
    relay = Relay(between, ship.channel)
    scene.cleanup(relay.close)
    dgram = ship.path("dgram")
    kept = ("--ship-spool", f"{ship.path('spool')}:8M,sync=batch") if spool else ()
    daemon = scene.daemon("-c", f"unix-connect:{between.spec}", *kept, "--ship-flush-timeout", "10",
                          "--ship", f"unix-dgram:{dgram},name=s,full=block,block-for=60")
    lines = texts(8000, lambda _: 500)
    for part in range(8):
        relay.cut_after(TO_TARGET, 200_000)
        send_dgrams(str(dgram), lines[part * 1000 : (part + 1) * 1000])
        peer.wait_numbered("s", (part + 1) * 1000)
    check(peer, "s", 0, lines)
    assert relay.accepted >= 9, "it was cut each time"
    daemon.terminate()


def test_a_source_that_floods_does_not_push_out_another(scene: Scene) -> None:
    ship = Shipping(scene)
    flood, calm = ship.path("flood"), ship.path("calm")
    daemon = ship.daemon("--ship", f"unix-dgram:{flood},name=flood,full=drop-oldest",
                         "--ship", f"unix-dgram:{calm},name=calm", "--ship-memory", "256K")
    rare = texts(20, lambda _: 200, 3)
    for number, line in enumerate(rare):
        send_dgrams(str(flood), texts(300, lambda _: 500, number))
        send_dgrams(str(calm), [line])
    daemon.wait_stats("received", lambda s: s.channels[0]["ship_received"] == 20 * 301)
    peer = ship.peer()
    check(peer, "calm", 1, rare)
    account = peer.wait_numbered("flood", 20 * 300)
    assert account["delivered"] + account["dropped"]["oldest"] == 20 * 300


def test_a_full_spool_follows_its_policy(scene: Scene) -> None:
    ship = Shipping(scene)
    dgram, spool = ship.path("dgram"), ship.path("spool")
    daemon = ship.daemon("--ship", f"unix-dgram:{dgram},name=s,full=spool,then=drop-oldest",
                         "--ship-memory", "256K", "--ship-spool", f"{spool}:1M,sync=never")
    lines = texts(6000, lambda _: 500)
    send_dgrams(str(dgram), lines)
    daemon.wait_stats("received", lambda s: s.channels[0]["ship_received"] == len(lines))
    daemon.wait_for_log("log shipping: the spool was full: .* of the oldest lines in it were given up")
    assert daemon.stats().channels[0]["ship_spool"] <= 1 << 20, "what was given up is not held"
    peer = ship.peer()
    account = peer.wait_numbered("s", len(lines))
    assert set(account["dropped"]) == {"oldest"} and account["unaccounted"] == 0, account
    assert account["delivered"] + account["dropped"]["oldest"] == len(lines)
    # Six of its seven segments are full. Each has room for 120 kB in batches, of which at most one batch of
    # 64 lines, 33 kB, does not fit any more.
    assert account["delivered"] > 1000
    delivered = peer.delivered()
    assert [line.text for line in delivered] == [lines[line.number] for line in delivered]
    assert [line.number for line in delivered[-100:]] == list(range(5900, 6000)), "the newest are kept"
    assert spool.stat().st_size <= 1 << 20


def test_what_cannot_be_sent_at_the_end_is_counted(scene: Scene) -> None:
    """Without a spool and without a channel."""
    ship = Shipping(scene)
    dgram = ship.path("dgram")
    daemon = ship.daemon("--ship", f"unix-dgram:{dgram},name=s", "--ship-flush-timeout", "0.2")
    send_dgrams(str(dgram), texts(20, lambda _: 100))
    daemon.terminate()
    assert re.search(r"20 lines are not acknowledged, and lost", daemon.stderr()), daemon.stderr()


def test_both_ends_stop_at_once(scene: Scene) -> None:
    """The session is lost in the turn in which shipping ends, or about then."""
    ship = Shipping(scene)
    dgram = ship.path("dgram")
    for number in range(6):
        peer = ship.peer()
        daemon = ship.daemon("--ship", f"unix-dgram:{dgram},name=s", name=f"daemon-{number}")
        send_dgrams(str(dgram), [b"line"])
        peer.wait_numbered("s", 1)
        first, then = (daemon, peer.process) if number % 2 else (peer.process, daemon)
        first.send_signal(signal.SIGTERM)
        then.send_signal(signal.SIGTERM)
        daemon.check_exit()
        peer.process.wait(10)


def test_an_end_with_nothing_to_deliver_does_not_wait_for_the_other(scene: Scene) -> None:
    ship = Shipping(scene)
    dgram = ship.path("dgram")
    peer = ship.peer()
    daemon = ship.daemon("--ship", f"unix-dgram:{dgram},name=s", "--ship-flush-timeout", "600")
    send_dgrams(str(dgram), [b"line"] * 20)
    eventually("all lines are acknowledged", lambda: daemon.stats().total("ship_acknowledged") == 20)
    peer.process.kill()
    daemon.wait_for_log("down: ")
    daemon.terminate()
    assert "everything is acknowledged" in daemon.stderr(), daemon.stderr()


@pytest.mark.parametrize("first", ["guest", "host"])
def test_an_orderly_stop_alarms_nobody(scene: Scene, first: str) -> None:
    channel, dgram = scene.addresses.unix(), scene.directory / "dgram"
    host = scene.daemon("-c", f"unix-listen:{channel.spec}", "--collect", f"file:{scene.directory}/out", name="host")
    guest = scene.daemon("-c", f"unix-connect:{channel.spec}", "--ship", f"unix-dgram:{dgram}", name="guest")
    guest.wait_for_log("the other end takes lines")
    send_dgrams(str(dgram), [b"line"])
    eventually("the line is there", lambda: (scene.directory / "out").read_bytes().endswith(b"line\n"))
    if first == "guest":
        guest.terminate()
        assert "everything is acknowledged" in guest.stderr()
        host.wait_for_log("down: ")
    else:
        host.terminate()
        guest.wait_for_log("log shipping: the stream is over: one end is stopping")
        guest.wait_for_log("down: ")
    for daemon in (host, guest):
        assert not re.search(r"is reset|aborted| error ", daemon.stderr()), daemon.stderr()


@as_root
def test_what_the_start_makes_belongs_to_the_user_that_goes_on(scene: Scene) -> None:
    """A later start by that user can use it; what a link of that user's leads to is not given to it."""
    nobody = pwd.getpwnam("nobody")
    own, foreign = scene.directory / "own", scene.directory / "foreign"
    scene.directory.chmod(0o711)
    own.mkdir()
    os.chown(own, nobody.pw_uid, nobody.pw_gid)
    foreign.mkdir(0o700)
    (own / "link").symlink_to(foreign / "spool")
    ship = Shipping(scene)
    for spool, owner in ((own / "spool", nobody), (own / "link", pwd.getpwuid(0))):
        sockets = own / f"{spool.name}.dgram", own / f"{spool.name}.stream"
        ship.daemon("--ship", f"unix-dgram:{sockets[0]},full=spool", "--ship", f"unix:{sockets[1]}",
                    "--ship-spool", f"{spool}:8M", "--user", "nobody", name=spool.name).wait_for_log("ready")
        for path, user in ((spool, owner), *((each, nobody) for each in sockets)):
            status = path.stat()
            assert (status.st_uid, status.st_gid) == (user.pw_uid, user.pw_gid), path


def test_an_end_without_the_service_is_named_once(scene: Scene) -> None:
    ship = Shipping(scene)
    dgram = ship.path("dgram")
    scene.daemon("-c", f"unix-listen:{ship.channel.spec}", "-i", "x:127.0.0.1:9", name="old")
    daemon = ship.daemon("--ship", f"unix-dgram:{dgram},name=s", "--ship-flush-timeout", "0")
    daemon.wait_for_log("has no service virtproxy.log")
    assert daemon.stderr().count("has no service") == 1
    send_dgrams(str(dgram), [b"waits"])
    daemon.wait_stats("received", lambda s: s.channels[0]["ship_held"] > 0)


# Three entries behind the cursor that it is given, and then what a real one does: it waits until its output
# is closed.
JOURNALCTL = f"""#!{sys.executable}
import os, select, sys
with open(os.path.dirname(__file__) + "/runs", "a", encoding="ascii") as runs:
    print(os.getpid(), *sys.argv[1:], file=runs)
last = 0
for argument in sys.argv:
    if argument.startswith("--after-cursor=c"):
        last = int(argument.split("=c")[1])
out = sys.stdout.buffer
def entry(number):
    message = b"text %d\\nand more" % number
    return (b"__CURSOR=c%d\\n__REALTIME_TIMESTAMP=86400000000\\nPRIORITY=4\\n_PID=7\\n_UID=8\\n_GID=9\\n"
            b"SYSLOG_IDENTIFIER=prog\\nMESSAGE\\n" % number + len(message).to_bytes(8, "little") + message
            + b"\\n\\n")
for number in range(last + 1, last + 4):
    out.write(entry(number))
EXTRA
out.flush()
until_it_is_closed = select.poll()
until_it_is_closed.register(out, 0)
until_it_is_closed.poll()
"""


def journalctl(ship: Shipping, extra: str = "") -> tuple[dict[str, str], Path]:
    """The environment with that program, and a file that has its process and arguments for each run."""
    programs = ship.path("bin")
    programs.mkdir()
    program = programs / "journalctl"
    program.write_text(JOURNALCTL.replace("EXTRA", extra), encoding="ascii")
    program.chmod(0o755)
    return {"PATH": f"{programs}:{os.environ['PATH']}"}, programs / "runs"


def journal_texts(count: int) -> list[bytes]:
    return [b"<28>Jan  2 00:00:00 prog[7]: text %d\nand more" % number for number in range(1, count + 1)]


def test_a_journal_is_shipped_from_its_cursor_on(scene: Scene) -> None:
    """The cursor moves when lines are acknowledged, and the next start goes on behind it."""
    ship = Shipping(scene)
    cursor = ship.path("cursor")
    env, _ = journalctl(ship)
    args = ["--ship", f"journal,name=j,cursor={cursor}"]
    peer = ship.peer()
    for start in (0, 3):
        daemon = ship.daemon(*args, env=env)
        peer.wait_numbered("j", start + 3)
        deadline = time.monotonic() + 10 * PATIENCE
        while cursor.read_text(encoding="ascii").strip() != f"c{start + 3}":
            assert time.monotonic() < deadline, cursor.read_text(encoding="ascii")
            time.sleep(0.02)
        daemon.terminate()
    assert peer.texts() == journal_texts(6)


@pytest.mark.parametrize("cursor", [True, False], ids=["cursor", "no-cursor"])
def test_a_journalctl_that_dies_is_run_again_behind_what_was_read(scene: Scene, cursor: bool) -> None:
    """Inside the sandbox, again and again. The entry in whose middle it dies is read again, whole."""
    ship = Shipping(scene)
    env, runs = journalctl(ship, "out.write(entry(last + 4)[:-20])")
    peer = ship.peer()
    daemon = ship.daemon("--ship", f"journal,name=j,cursor={ship.path('cursor')}" if cursor else "journal,name=j",
                         env=env)
    for run in range(3):
        peer.wait_numbered("j", 3 * run + 3)
        mark = daemon.mark()
        os.kill(int(runs.read_text(encoding="ascii").splitlines()[-1].split()[0]), signal.SIGKILL)
        daemon.wait_for_log("error j: journalctl was killed by signal 9; it is run again", since=mark)
        daemon.wait_for_log("j: journalctl runs again", since=mark)
    account = peer.wait_numbered("j", 12)
    assert peer.texts() == journal_texts(12) and not account["dropped"] and not account["duplicates"]
    arguments = [line.split()[1:] for line in runs.read_text(encoding="ascii").splitlines()]
    assert [each[-2:] for each in arguments[1:]] == [[f"--after-cursor=c{number}", "--no-tail"] for number in (3, 6, 9)]
    assert arguments[0][-1] == ("--no-tail" if cursor else "--lines=0")
    daemon.terminate()


def test_a_journalctl_that_ends_at_once_is_run_again_after_pauses(scene: Scene) -> None:
    """What the journal has had since the start is asked for, where no entry tells a place in it."""
    ship = Shipping(scene)
    env, runs = journalctl(ship)
    program = ship.path("bin") / "journalctl"
    good = program.read_text(encoding="ascii")
    program.write_text(good.replace("last = 0\n", "sys.exit(3)\n"), encoding="ascii")
    peer = ship.peer()
    started = time.time()
    daemon = ship.daemon("--ship", "journal,name=j", "--control", str(ship.path("control")), env=env)
    daemon.wait_for_log("error j: journalctl ended with status 3; it is run again")

    def state() -> str:
        shown = subprocess.run([BIN / "virtproxyctl", "logs", "--json", "--control", ship.path("control")],
                               capture_output=True, text=True, timeout=30 * PATIENCE, check=True)
        (row,) = (row for row in json.loads(shown.stdout) if row["name"] == "j")
        return row["state"]

    assert state() == "down"
    program.write_text(good, encoding="ascii")
    peer.wait_numbered("j", 3)
    assert not state()
    assert peer.texts() == journal_texts(3)
    first, *more = [line.split()[1:] for line in runs.read_text(encoding="ascii").splitlines()]
    assert first[-1] == "--lines=0" and more
    for arguments in more:
        assert arguments[-1] == "--no-tail"
        assert started - 5 < int(arguments[-2].removeprefix("--since=@")) <= time.time()
    daemon.terminate()


def test_the_kernels_log(scene: Scene) -> None:
    try:
        kmsg = os.open("/dev/kmsg", os.O_RDWR | os.O_NONBLOCK)
        os.write(kmsg, b"<6>virtproxy is tested: %d\n" % os.getpid())
        os.close(kmsg)
    except OSError as error:
        pytest.skip(f"/dev/kmsg: {error}")
    ship = Shipping(scene)
    peer = ship.peer()
    ship.daemon("--ship", "kmsg")
    wanted = re.compile(rb"<\d+>.*virtproxy is tested: %d" % os.getpid())
    peer.wait_source("kmsg", lambda _: any(wanted.search(text) for text in peer.texts()))


def test_a_configuration_file_ships(scene: Scene) -> None:
    ship = Shipping(scene)
    dgram, spool = ship.path("dgram"), ship.path("spool")
    config = ship.path("virtproxy.toml")
    config.write_text(f"""
[ship]
source = ["unix-dgram:{dgram},name=s,full=spool,then=block", "stdin"]
memory = "1M"
spool = "{spool}:4M,sync=batch"
flush-timeout = "2s"
channel = "host"
[channel.host]
transport = "unix-connect:{ship.channel.place}"
""", encoding="ascii")
    printed = scene.run([BIN / "virtproxy", "--config", config, "--print-config"]).stdout()
    again = ship.path("again.toml")
    again.write_text(printed, encoding="ascii")
    assert scene.run([BIN / "virtproxy", "--config", again, "--print-config"]).stdout() == printed
    peer = ship.peer()
    daemon = scene.daemon("--config", again)
    send_dgrams(str(dgram), [b"one", b"two"])
    check(peer, "s", 0, [b"one", b"two"])
    daemon.terminate()


@pytest.mark.parametrize(("source", "right"), [
    ("unix-dgrams:/x", "use unix-dgram:PATH"),
    ("unix-dgram", "write unix-dgram:PATH"),
    ("kmsg:/x", "write kmsg"),
    ("stdin,full=all", "use block, drop-newest"),
    ("stdin,then=block", "write full=spool,then=POLICY"),
    ("stdin,full=spool", "give --ship-spool"),
    ("stdin,mode=0600", "leave it out"),
    ("udp:0.0.0.0:514", "write remote=on"),
    ("stdin,rate=0", "use 1 to"),
])
def test_a_source_that_is_wrong_is_one_line(scene: Scene, source: str, right: str) -> None:
    daemon = scene.daemon("-c", "unix-connect:/x:-", "--ship", source, wait=False)
    daemon.check_exit(code=1)
    assert len(daemon.err.lines()) == 1 and right in daemon.stderr(), daemon.stderr()


def test_a_source_that_cannot_be_opened_ends_the_start(scene: Scene) -> None:
    ship = Shipping(scene)
    path = ship.path("taken")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as taken:
        taken.bind(str(path))
        daemon = ship.daemon("--ship", f"unix-dgram:{path}", wait=False)
        daemon.check_exit(code=1)
        assert "cannot listen on" in daemon.stderr()
    ship.daemon("--ship", f"unix-dgram:{path},name=s")  # What is left behind is taken over.
