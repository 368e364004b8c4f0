"""What carries log lines from an application to a file on the other side: virtproxy, and what people use instead.

A peer takes lines from a datagram or stream socket, and what comes out at its far end is a file. All processes
on the way are the peer's, and their CPU counts. Each is set up for speed: large queues and batches, no rate limit.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peers import BIN, own, version_of
from processes import Address, Failed, Process, Stage, await_that, find_program

SYSLOG_NG = BIN.parent / "syslog-ng"  # where perf/logs unpacks it: it cannot be installed beside rsyslog
DATAGRAM = "unix-dgram"
STREAM = "unix"
UDP = "udp"


@dataclass(frozen=True)
class Way:
    """Where the load generator writes, and the file that it reads."""

    kind: str
    place: str
    out: str

    def arguments(self) -> list[str]:
        return ["--connect", f"{self.kind}:{self.place}", "--sink", f"file:{self.out}"]


class LogPeer:
    name = ""
    title = ""
    kinds: tuple[str, ...] = (DATAGRAM, STREAM, UDP)
    promise = ""  # what becomes of lines when something dies

    def way(self, stage: Stage, kind: str) -> Way:
        place = f"127.0.0.1:{stage.tcp().port}" if kind == UDP else stage.path("log")
        return Way(kind, place, stage.path("out"))

    def start(self, stage: Stage, way: Way) -> None:
        raise NotImplementedError

    def version(self) -> str:
        return ""


def await_path(path: str, processes: Sequence[Process]) -> None:
    def there() -> bool:
        for process in processes:
            process.check_alive()
        return os.path.exists(path)

    await_that(f"{path} is there", there)


def await_udp(port: int) -> None:
    wanted = f":{port:04X}"
    await_that(f"a process reads UDP port {port}", lambda: any(
        line.split()[1].endswith(wanted) for line in Path("/proc/net/udp").read_text().splitlines()[1:]))


class Ship(LogPeer):
    """A pair of virtproxy; `spool`: options of --ship-spool behind the size, or None; `sink`: of the file."""

    SIZE = "256M"

    def __init__(self, name: str, title: str, spool: str | None, policy: str, promise: str, sink: str = "") -> None:
        self.name = name
        self.title = title
        self.promise = promise
        self._spool = spool
        self._policy = policy
        self._sink = sink

    @property
    def spools(self) -> bool:
        return self._spool is not None

    def commands(self, stage: Stage, way: Way) -> tuple[list[str], list[str]]:
        """Of the guest's daemon, which listens for the channel, and of the host's."""
        program = own("virtproxy")
        told = subprocess.run([program, "--help"], capture_output=True, text=True, check=False).stdout
        if "--ship" not in told or "--collect" not in told:
            raise Failed("this build has no --ship and --collect")
        channel = stage.path("channel")
        near = [program, "-c", f"unix-listen:{channel}:-", "--ship-memory", "16M",
                "--ship", f"{way.kind}:{way.place},full={self._policy}"]
        if self._spool is not None:
            near += ["--ship-spool", f"{stage.path('spool')}:{self.SIZE}{self._spool}"]
        return near, [program, "-c", f"unix-connect:{channel}:-", "--collect", f"file:{way.out}{self._sink}"]

    def start(self, stage: Stage, way: Way) -> None:
        for name, command in zip(("virtproxy-near", "virtproxy-far"), self.commands(stage, way)):
            stage.spawn(name, command).await_text("ready")
        for process in stage.measured:
            process.await_text("channel 0: up")

    def version(self) -> str:
        return version_of([str(BIN / "virtproxy"), "--version"])


def rsyslog_input(way: Way) -> str:
    if way.kind == DATAGRAM:
        return ('module(load="imuxsock" SysSock.Use="off")\n'
                f'input(type="imuxsock" Socket="{way.place}" RateLimit.Interval="0" UseSysTimeStamp="off")\n')
    if way.kind == STREAM:
        return f'module(load="imptcp")\ninput(type="imptcp" path="{way.place}")\n'
    host, port = way.place.split(":")
    return f'module(load="imudp" BatchSize="128")\ninput(type="imudp" address="{host}" port="{port}" rcvbufSize="8m")\n'


def rsyslog_output(path: str) -> str:
    return f'action(type="omfile" file="{path}" ioBufferSize="64k" flushOnTXEnd="on")\n'


class Rsyslog(LogPeer):
    main_queue = 'queue.type="LinkedList" queue.size="200000" queue.dequeueBatchSize="4096"'

    def _spawn(self, stage: Stage, name: str, text: str) -> Process:
        head = (f'global(workDirectory="{stage.directory}" maxMessageSize="64k")\n'
                f'main_queue({self.main_queue})\n')
        conf = stage.write(f"{name}.conf", head + text)
        return stage.spawn(name, [find_program("rsyslogd"), "-n", "-f", conf, "-i", stage.path(f"{name}.pid")])

    def _start_near(self, stage: Stage, way: Way, action: str) -> None:
        near = self._spawn(stage, "rsyslog-near", rsyslog_input(way) + action)
        if way.kind == UDP:
            await_udp(int(way.place.split(":")[1]))
        else:
            await_path(way.place, [near])

    def version(self) -> str:
        return version_of([find_program("rsyslogd"), "-v"])


class RsyslogRelp(Rsyslog):
    def __init__(self, name: str, title: str, queue: str, promise: str) -> None:
        self.name = name
        self.title = title
        self.promise = promise
        self._queue = queue
        if queue:
            # What is on the disk is to be what was taken: no queue in memory in front of it.
            self.main_queue = 'queue.type="Direct"'
            self.kinds = (DATAGRAM, STREAM)  # UDP does not wait for it, and what it took takes minutes to drain

    def start(self, stage: Stage, way: Way) -> None:
        middle = stage.tcp()
        self._spawn(stage, "rsyslog-far",
                    'module(load="imrelp")\n'
                    f'input(type="imrelp" address="127.0.0.1" port="{middle.port}" maxDataSize="64k")\n'
                    + rsyslog_output(way.out))
        stage.await_listening(middle)
        self._start_near(stage, way, 'module(load="omrelp")\n'
                         f'action(type="omrelp" target="127.0.0.1" port="{middle.port}" windowSize="4096" '
                         f'action.resumeRetryCount="-1" {self._queue})\n')


class RsyslogThroughStream(Rsyslog):
    name = "rsyslog-stream"
    title = "rsyslog omfwd, virtproxy TCP stream, imptcp"
    promise = "lost, uncounted: what is in socket buffers"

    def start(self, stage: Stage, way: Way) -> None:
        inlet, outlet, channel = stage.tcp(), stage.tcp(), stage.path("channel")
        self._spawn(stage, "rsyslog-far", 'module(load="imptcp")\n'
                    f'input(type="imptcp" address="127.0.0.1" port="{outlet.port}")\n'
                    + rsyslog_output(way.out))
        stage.await_listening(outlet)
        far = stage.spawn("virtproxy-far", [own("virtproxy"), "-c", f"unix-listen:{channel}:-",
                                            "-i", f"log:{outlet.spec}"])
        far.await_text("ready")
        near = stage.spawn("virtproxy-near", [own("virtproxy"), "-c", f"unix-connect:{channel}:-",
                                              "-o", f"log:{inlet.spec}"])
        near.await_text("channel 0: up")
        stage.await_listening(inlet)
        self._start_near(stage, way, f'action(type="omfwd" target="127.0.0.1" port="{inlet.port}" protocol="tcp" '
                         'TCP_Framing="octet-counted" action.resumeRetryCount="-1")\n')


class SyslogNg(LogPeer):
    name = "syslog-ng"
    title = "syslog-ng, reliable disk buffer"
    promise = "disk, not synced"

    @staticmethod
    def _program() -> tuple[list[str], dict[str, str]]:
        """The command and what it needs in its environment."""
        unpacked = SYSLOG_NG / "usr/sbin/syslog-ng"
        if not unpacked.exists():
            return [find_program("syslog-ng")], {}
        modules = next((SYSLOG_NG / "usr/lib/syslog-ng").glob("*/libaffile.so")).parent
        return [str(unpacked), f"--module-path={modules}"], {"LD_LIBRARY_PATH": str(SYSLOG_NG / "usr/lib/syslog-ng")}

    def _spawn(self, stage: Stage, name: str, text: str) -> Process:
        head = "@version: 3.38\noptions { keep-hostname(yes); use-dns(no); dns-cache(no); flush-lines(1000); stats-freq(0); };\n"
        conf = stage.write(f"{name}.conf", head + text)
        command, environment = self._program()
        files = [part for option, suffix in (("-R", "persist"), ("-c", "control"), ("-p", "pid"))
                 for part in (option, stage.path(f"{name}.{suffix}"))]
        return stage.spawn(name, ["env", *(f"{key}={value}" for key, value in environment.items()), *command,
                                  "-F", "--no-caps", "-f", conf, *files])

    def start(self, stage: Stage, way: Way) -> None:
        middle = stage.tcp()
        self._spawn(stage, "syslog-ng-far",
                    f'source s {{ network(ip("127.0.0.1") port({middle.port}) log-iw-size(100000) log-fetch-limit(10000)); }};\n'
                    f'destination d {{ file("{way.out}"); }};\nlog {{ source(s); destination(d); flags(flow-control); }};\n')
        stage.await_listening(middle)
        if way.kind == UDP:
            host, port = way.place.split(":")
            source = f'udp(ip("{host}") port({port}) so-rcvbuf(8388608))'
        elif way.kind == STREAM:
            source = f'unix-stream("{way.place}" log-iw-size(100000) log-fetch-limit(10000))'
        else:
            source = f'unix-dgram("{way.place}" log-iw-size(100000) log-fetch-limit(10000))'
        near = self._spawn(stage, "syslog-ng-near",
                           f"source s {{ {source}; }};\n"
                           f'destination d {{ network("127.0.0.1" port({middle.port}) disk-buffer(reliable(yes) '
                           f'disk-buf-size(268435456) mem-buf-size(67108864) dir("{stage.directory}"))); }};\n'
                           "log { source(s); destination(d); flags(flow-control); };\n")
        if way.kind == UDP:
            await_udp(int(way.place.split(":")[1]))
        else:
            await_path(way.place, [near])

    def version(self) -> str:
        command, environment = self._program()
        return version_of(["env", *(f"{key}={value}" for key, value in environment.items()), *command, "--version"])


class Socat(LogPeer):
    name = "socat"
    title = "socat to socat, over TCP"
    kinds = (STREAM,)  # it glues datagrams together
    promise = "lost, uncounted: what is in socket buffers"

    def start(self, stage: Stage, way: Way) -> None:
        socat, middle = find_program("socat"), stage.tcp()
        stage.spawn("socat-far", [socat, "-u", "-b", "65536",
                                  f"TCP-LISTEN:{middle.port},bind=127.0.0.1,reuseaddr,fork",
                                  f"OPEN:{way.out},creat,append"])
        stage.await_listening(middle)
        stage.spawn("socat-near", [socat, "-u", "-b", "65536", f"UNIX-LISTEN:{way.place},fork",
                                   f"TCP:127.0.0.1:{middle.port}"])
        stage.await_listening(Address(way.place))

    def version(self) -> str:
        return version_of([find_program("socat"), "-V"])


class Floor(LogPeer):
    """What no way of lines does without: the calls that read them from a socket and write them to a file."""

    name = "floor"
    title = "one process, socket to file"
    kinds = (DATAGRAM, STREAM)
    promise = "lost, uncounted: what is in socket buffers; to no other machine"

    def start(self, stage: Stage, way: Way) -> None:
        process = stage.spawn("relay-lines", [own("relay-lines"), f"{way.kind}:{way.place}", way.out])
        if way.kind == STREAM:
            stage.await_listening(Address(way.place))
        else:
            await_path(way.place, [process])


def every_log_peer() -> list[LogPeer]:
    return [
        Floor(),
        Ship("ship-spool", "virtproxy --ship, spool", ",sync=never", "spool",
             "guest kernel crash: what it had not written"),
        # As much in front of a line as rsyslog and syslog-ng write into their files.
        Ship("ship-text", "virtproxy --ship, spool, format=text", ",sync=never", "spool",
             "guest kernel crash: what it had not written", ",format=text"),
        Ship("ship-memory", "virtproxy --ship, memory only", None, "block", "counted: what is not acknowledged"),
        Ship("ship-sync", "virtproxy --ship, spool, sync=500ms", ",sync=500ms", "spool",
             "guest kernel crash: 500 ms at most"),
        RsyslogRelp("rsyslog-relp", "rsyslog omrelp, imrelp, in memory", "", "lost, uncounted: its queues"),
        RsyslogRelp("rsyslog-relp-disk", "rsyslog omrelp, imrelp, disk queue, synced",
                    'queue.type="Disk" queue.filename="q" queue.syncQueueFiles="on" queue.checkpointInterval="1" '
                    'queue.dequeueBatchSize="4096"',
                    "lost, uncounted: a window of omrelp at most"),
        RsyslogThroughStream(),
        SyslogNg(),
        Socat(),
    ]
