"""What people would use instead of virtproxy, and the floor below all of it.

A peer is a pair of processes in a row: clients connect to the inlet, the two talk to each other
over a unix socket, and the second one connects to the outlet. Each is set up as somebody
would who wants it fast: buffers, limits and time-outs are chosen for the load and not left at
cautious defaults.
"""

from __future__ import annotations

import getpass
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

from processes import PATIENCE, Address, Failed, Stage, find_program

TOP = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("VIRTPROXY_BIN") or TOP / "build/release/bin")
MANY = 20000  # connections a peer must be ready for
BUFFER = 262144
SEND_BUFFER = 1048576


def own(name: str) -> str:
    path = BIN / name
    if not path.exists():
        raise Failed(f"{name} is not built")
    return str(path)


def version_of(command: list[str]) -> str:
    """The first thing that looks like a version in what a program prints."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=10, check=False)
    except OSError:
        return ""
    found = re.search(r"\d+\.\d+[\w.+~-]*", done.stdout.decode(errors="replace"))
    return found.group(0) if found else ""


class Peer:
    name = ""
    title = ""
    kind = "relay"  # relay: a connection a stream; multiplexer: one channel for all
    half_close = True
    http_connect = False  # an HTTP proxy: connections begin with CONNECT
    floor = False
    both_ways = True  # False: known to lock up when both directions are full

    def start(self, stage: Stage, inlet: Address, outlet: Address) -> None:
        raise NotImplementedError

    def version(self) -> str:
        return ""


class Virtproxy(Peer):
    kind = "multiplexer"

    def __init__(self, name: str = "virtproxy", directory: Path = BIN, title: str = "",
                 options: tuple[str, ...] = ()) -> None:
        self.name = name
        self.title = title or name
        self._program = directory / "virtproxy"
        self._options = options

    def start(self, stage: Stage, inlet: Address, outlet: Address) -> None:
        self.start_many(stage, [inlet], outlet)

    def start_many(self, stage: Stage, inlets: list[Address], outlet: Address,
                   threads: int = 1) -> None:
        """A channel for each inlet, all of them in one process on each side."""
        near: list[str] = []
        far: list[str] = []
        for channel, inlet in enumerate(inlets):
            at = stage.path(f"channel-{channel}")
            near += ["-c", f"unix-listen:{at}:-:{channel}", "-o", f"bench:{inlet.spec}:{channel}"]
            far += ["-c", f"unix-connect:{at}:-:{channel}", "-i", f"bench:{outlet.spec}:{channel}"]
        for name, forwards in (("near", near), ("far", far)):
            process = stage.spawn(f"virtproxy-{name}",
                                  [str(self._program), "--threads", str(threads), *self._options,
                                   *forwards])
            if name == "near":
                process.await_text("ready")
        for process in stage.measured[-2:]:
            for channel in range(len(inlets)):
                process.await_text(f"channel {channel}: up")

    def version(self) -> str:
        return version_of([str(self._program), "--version"])


class OldPeer(Peer):
    name = "original"
    title = "the 2010 daemon, imitated"
    kind = "multiplexer"
    half_close = False
    both_ways = False

    def start(self, stage: Stage, inlet: Address, outlet: Address) -> None:
        channel = stage.path("channel")
        program = own("virtproxy-oldpeer")
        stage.spawn("original-near", [program, "-c", f"unix-listen:{channel}:-", "--large-numbers",
                                      "-o", f"bench:{inlet.spec}"])
        stage.await_listening(Address(channel))
        stage.spawn("original-far", [program, "-c", f"unix-connect:{channel}:-",
                                     "--large-numbers", "-i", f"bench:{outlet.spec}"])
        stage.await_listening(inlet)


class Relay(Peer):
    """Two of our own minimal relays."""

    floor = True

    def __init__(self, kind: str, title: str, big: bool) -> None:
        self.name = f"{kind}-big" if big else kind
        self.title = f"{title}, 256 KiB reads" if big else f"{title}, 64 KiB reads"
        self._program = f"relay-{kind}"
        self._options = ["--buffer", str(BUFFER), "--sndbuf", str(SEND_BUFFER)] if big else []

    def start(self, stage: Stage, inlet: Address, outlet: Address) -> None:
        middle = stage.unix("middle")
        for name, listen, connect in (("far", middle, outlet), ("near", inlet, middle)):
            stage.spawn(f"{self.name}-{name}",
                        [own(self._program), listen.url, connect.url, *self._options])
            stage.await_listening(listen)


class Socat(Peer):
    name = "socat"
    title = "socat"

    def start(self, stage: Stage, inlet: Address, outlet: Address) -> None:
        socat = find_program("socat")
        middle = stage.unix("middle")
        for name, listen, connect in (("far", middle, outlet), ("near", inlet, middle)):
            # -t: how long the second direction may last after the first has ended.
            stage.spawn(f"socat-{name}", [socat, "-b", "65536", "-t", "30",
                                          self._listen(listen), self._connect(connect)])
            stage.await_listening(listen)

    @staticmethod
    def _listen(address: Address) -> str:
        if address.unix:
            return f"UNIX-LISTEN:{address.place},fork,backlog=4096"
        return f"TCP-LISTEN:{address.port},bind={address.place},fork,reuseaddr,backlog=4096,nodelay"

    @staticmethod
    def _connect(address: Address) -> str:
        if address.unix:
            return f"UNIX-CONNECT:{address.place}"
        return f"TCP:{address.place}:{address.port},nodelay"

    def version(self) -> str:
        return version_of([find_program("socat"), "-V"])


class HAProxy(Peer):
    name = "haproxy"
    title = "HAProxy, tcp mode"

    def start(self, stage: Stage, inlet: Address, outlet: Address) -> None:
        program = find_program("haproxy")
        middle = stage.unix("middle")
        for name, listen, connect in (("far", middle, outlet), ("near", inlet, middle)):
            config = stage.write(f"haproxy-{name}.cfg", f"""
global
    maxconn {MANY // 4}
    nbthread 1
    tune.bufsize 65536
defaults
    mode tcp
    timeout connect 10s
    timeout client 1h
    timeout server 1h
listen relay
    bind {self._at(listen, True)} backlog 4096
    server next {self._at(connect, False)}
""")
            stage.spawn(f"haproxy-{name}", [program, "-db", "-f", config])
            stage.await_listening(listen)

    @staticmethod
    def _at(address: Address, bind: bool) -> str:
        if address.unix:
            return f"unix@{address.place}"
        return f"{'ipv4@' if bind else ''}{address.place}:{address.port}"

    def version(self) -> str:
        return version_of([find_program("haproxy"), "-v"])


class Nginx(Peer):
    name = "nginx"
    title = "nginx stream"

    MODULE = "/usr/lib/nginx/modules/ngx_stream_module.so"

    def start(self, stage: Stage, inlet: Address, outlet: Address) -> None:
        program = find_program("nginx")
        if not Path(self.MODULE).exists():
            raise Failed("nginx has no stream module: libnginx-mod-stream is not installed")
        middle = stage.unix("middle")
        for name, listen, connect in (("far", middle, outlet), ("near", inlet, middle)):
            config = stage.write(f"nginx-{name}.conf", f"""
load_module {self.MODULE};
daemon off;
master_process off;
worker_rlimit_nofile {MANY};
pid {stage.path(f'nginx-{name}.pid')};
error_log stderr error;
events {{ worker_connections {MANY}; }}
stream {{
    proxy_buffer_size 64k;
    proxy_timeout 1h;
    proxy_half_close on;
    access_log off;
    server {{ listen {self._at(listen)} backlog=4096; proxy_pass {self._at(connect)}; }}
}}
""")
            stage.spawn(f"nginx-{name}",
                        [program, "-p", stage.path(""), "-c", config, "-e", "stderr"])
            stage.await_listening(listen)

    @staticmethod
    def _at(address: Address) -> str:
        return f"unix:{address.place}" if address.unix else f"{address.place}:{address.port}"

    def version(self) -> str:
        return version_of([find_program("nginx"), "-v"])


class SocketProxyd(Peer):
    name = "socket-proxyd"
    title = "systemd-socket-proxyd"
    half_close = False

    PROGRAM = "/lib/systemd/systemd-socket-proxyd"

    def start(self, stage: Stage, inlet: Address, outlet: Address) -> None:
        if not Path(self.PROGRAM).exists():
            raise Failed("systemd-socket-proxyd is not installed")
        middle = stage.unix("middle")
        for name, listen, connect in (("far", middle, outlet), ("near", inlet, middle)):
            if listen.unix:
                listener = socket.socket(socket.AF_UNIX)
                listener.bind(listen.place)
            else:
                listener = socket.socket()
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((listen.place, listen.port))
            listener.listen(4096)
            listener.setblocking(False)
            to = connect.place if connect.unix else f"{connect.place}:{connect.port}"
            fd = listener.fileno()
            # Its listening socket is handed to it as systemd would: number 3, named by the
            # environment of the very process, and with SIGPIPE ignored.
            script = (f'trap "" PIPE; exec 3<&{fd}; LISTEN_FDS=1 LISTEN_PID=$$ exec {self.PROGRAM} '
                      f'--connections-max={MANY} "$0"')
            stage.spawn(f"socket-proxyd-{name}", ["/bin/sh", "-c", script, to], pass_fds=[fd])
            listener.close()
            stage.await_listening(listen)

    def version(self) -> str:
        return version_of([self.PROGRAM, "--version"]) or version_of(["systemctl", "--version"])


class Ssh(Peer):
    name = "ssh"
    title = "ssh -L"
    kind = "multiplexer"

    def start(self, stage: Stage, inlet: Address, outlet: Address) -> None:
        ssh, sshd = find_program("ssh"), find_program("sshd")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # as its service unit would
        for name in ("host_key", "user_key"):
            stage.run([find_program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f",
                       stage.path(name)])
        config = stage.write("sshd_config", f"""
HostKey {stage.path('host_key')}
AuthorizedKeysFile {stage.path('user_key.pub')}
PidFile none
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
AllowStreamLocalForwarding yes
AllowTcpForwarding yes
""")
        # The channel is a unix socket like everybody's: the client has it made by a helper, the
        # server is given the other end as its standard input, as under inetd.
        channel = stage.path("channel")
        connect = stage.write("connect.py", f"""
import socket
channel = socket.socket(socket.AF_UNIX)
channel.connect({channel!r})
socket.send_fds(socket.socket(fileno=1), [bytes(1)], [channel.fileno()])
""")
        proxy = f"{sys.executable} {connect}"
        options = ["ProxyUseFdpass=yes", f"ProxyCommand={proxy}", "StrictHostKeyChecking=no",
                   "UserKnownHostsFile=/dev/null", "BatchMode=yes", "LogLevel=ERROR",
                   "IdentitiesOnly=yes", "ExitOnForwardFailure=yes", "Compression=no",
                   "Ciphers=aes128-gcm@openssh.com"]
        command = [ssh, "-F", "none", "-N", "-i", stage.path("user_key")]
        for option in options:
            command += ["-o", option]
        forward = f"{self._at(inlet)}:{self._at(outlet)}"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(channel)
            listener.listen()
            listener.settimeout(PATIENCE)
            stage.spawn("ssh", [*command, "-L", forward, f"{getpass.getuser()}@channel"])
            end = listener.accept()[0]
        with end:
            stage.spawn("sshd", [sshd, "-i", "-e", "-f", config], stdin=end, stdout=end)
        stage.await_listening(inlet)

    @staticmethod
    def _at(address: Address) -> str:
        return address.place if address.unix else f"{address.place}:{address.port}"

    def version(self) -> str:
        return version_of([find_program("ssh"), "-V"])


class GoMux(Peer):
    kind = "multiplexer"
    half_close = False

    def __init__(self, name: str, package: str) -> None:
        self.name = name
        self.title = f"{name} (Go)"
        self._package = package

    def start(self, stage: Stage, inlet: Address, outlet: Address) -> None:
        channel = stage.unix("channel")
        program = own("mux-relay")
        stage.spawn(f"{self.name}-near", [program, self.name, "near", inlet.url, channel.url])
        stage.await_listening(channel)
        stage.spawn(f"{self.name}-far", [program, self.name, "far", channel.url, outlet.url])
        stage.await_listening(inlet)

    def version(self) -> str:
        return version_of(["dpkg-query", "-W", "-f=${Version}", self._package])


class Nghttpx(Peer):
    name = "nghttpx"
    title = "nghttpx, HTTP/2"
    kind = "multiplexer"
    half_close = False
    http_connect = True

    def start(self, stage: Stage, inlet: Address, outlet: Address) -> None:
        program = find_program("nghttpx")
        channel = stage.unix("channel")
        for name, listen, connect, protocol in (("far", channel, outlet, "http/1.1"),
                                                ("near", inlet, channel, "h2")):
            log = stage.path(f"nghttpx-{name}.log")
            stage.spawn(f"nghttpx-{name}", [
                program, "--conf=/dev/null", "--http2-proxy", "--workers=1", "--no-ocsp",
                "--no-via", f"--errorlog-file={log}", "--accesslog-file=/dev/null",
                f"--pid-file={log}.pid",
                f"--frontend={self._at(listen)};no-tls",
                f"--backend={self._at(connect)};;proto={protocol}",
                f"--backend-connections-per-host={MANY}",
                f"--backend-connections-per-frontend={MANY}",
                f"--rlimit-nofile={MANY}", "--backend-http2-max-concurrent-streams=10000",
                "--frontend-http2-max-concurrent-streams=10000",
                "--frontend-http2-window-size=1M", "--backend-http2-window-size=1M",
                "--frontend-http2-connection-window-size=16M",
                "--backend-http2-connection-window-size=16M", "--frontend-read-timeout=1h",
                "--stream-read-timeout=1h", "--stream-write-timeout=1h",
                "--backend-read-timeout=1h"])
            stage.await_listening(listen)

    @staticmethod
    def _at(address: Address) -> str:
        return f"unix:{address.place}" if address.unix else f"{address.place},{address.port}"

    def version(self) -> str:
        return version_of([find_program("nghttpx"), "--version"])


def every_peer() -> list[Peer]:
    """In the order of tables; virtproxy, which all are compared with, is the first."""
    floor = [Relay(kind, title, big)
             for kind, title in (("splice", "splice relays"), ("uring-copy", "io_uring relays"),
                                 ("epoll-copy", "epoll relays"))
             for big in (False, True)]
    epoll = Virtproxy("epoll", title="virtproxy --driver epoll", options=("--driver", "epoll"))
    return [Virtproxy(), epoll, *floor, SocketProxyd(), HAProxy(), Nginx(), Socat(),
            GoMux("yamux", "golang-github-hashicorp-yamux-dev"),
            GoMux("smux", "golang-github-xtaci-smux-dev"), Nghttpx(), Ssh(), OldPeer()]
