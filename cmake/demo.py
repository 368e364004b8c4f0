"""Both ends of virtproxy on this machine, real traffic through them, and what it measured.

Called by cmake/demo, which builds first. By itself (python3 cmake/demo.py) it needs the programs of a
release build in build/release/bin, curl, and QEMU for --guest.
Without arguments the two daemons share a unix socket as their channel; with --guest one of them runs
inside a QEMU guest, behind a virtio-serial port. A rate below what is wanted is said and is no failure.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
BIN = TOP / "build/release/bin"
FILE_BYTES = 64 << 20
MIB = 1 << 20


class Failed(Exception):
    """The demonstration did not show what it should; the text says what was wrong."""


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def await_that(what: str, condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {seconds:g} s")
        time.sleep(0.02)


class Daemon:
    """A virtproxy with its log in a file."""

    def __init__(self, name: str, *args: str) -> None:
        self.log = Path(name + ".log")
        command = [str(BIN / "virtproxy"), *args]
        print(f"{name:>6}$ virtproxy {' '.join(args)}", flush=True)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stderr=log)

    def wait_up(self) -> None:
        def up() -> bool:
            if self.process.poll() is not None:
                raise Failed(f"a daemon ended early:\n{self.log.read_text()}")
            return "channel 0: up, protocol 2" in self.log.read_text()

        await_that("the channel comes up", up)

    def stop(self) -> None:
        self.process.terminate()
        code = self.process.wait(10)
        if code != 0:
            raise Failed(f"a daemon ended with {code}:\n{self.log.read_text()}")


@contextlib.contextmanager
def daemon(name: str, *args: str) -> Iterator[Daemon]:
    running = Daemon(name, *args)
    try:
        yield running
        running.stop()
    finally:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextlib.contextmanager
def web_server(directory: Path) -> Iterator[int]:
    handler = functools.partial(Quiet, directory=str(directory))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def fetch(url: str, wanted: str, *options: str) -> None:
    started = time.monotonic()
    run = subprocess.run(["curl", "-sS", "--fail", "--max-time", "120", *options, url],
                         stdout=subprocess.PIPE, check=False)
    seconds = time.monotonic() - started
    if run.returncode != 0:
        raise Failed(f"curl {url} ended with {run.returncode}")
    if hashlib.sha256(run.stdout).hexdigest() != wanted:
        raise Failed(f"curl {url}: the bytes are not those of the server")
    print(f"       {len(run.stdout) / MIB:.0f} MiB by HTTP in {seconds:.2f} s, sha256 right", flush=True)


def measure(what: str, *args: str, pids: list[int] = [], timeout: float = 120) -> dict:
    command = [str(BIN / "virtproxy-bench"), "run", *args, "--quiet", "--json", "figures.json"]
    for pid in pids:
        command += ["--pid", str(pid)]
    if sys.stderr.isatty():
        command.append("--progress")
    say(what)
    run = subprocess.run(command, timeout=timeout, check=False)
    figures = json.loads(Path("figures.json").read_text())
    if run.returncode != 0:
        raise Failed(f"{what}: {figures.get('failure')}")
    found = [] if figures["mode"] == "ping-pong" else [gigabytes(figures)]
    if "latency_ns" in figures:
        found.append(rate(figures))
    print("       " + "; ".join(found), flush=True)
    return figures


def table(rows: list[tuple[str, str, str]]) -> None:
    say("what was measured (a first reading, taken once)")
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows:
        print("   " + "   ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def gigabytes(figures: dict) -> str:
    rate = figures["bytes_per_second"]
    return f"{rate / 1e9:.2f} GB/s" if rate >= 1e8 else f"{rate / 1e6:.0f} MB/s"


def cpu(figures: dict) -> str:
    total = figures["processes_total"]
    if total.get("cpu_seconds_per_gb") is not None:
        return f"{total['cpu_seconds_per_gb']:.3f} CPU-s/GB, both daemons"
    return f"{total['cpu_us_per_message']:.1f} us CPU a round trip, both daemons"


def rate(figures: dict) -> str:
    latency = figures["latency_ns"]
    return f"{figures['messages_per_second']:,.0f}/s, p50 {latency['p50'] / 1e3:.0f} us, " \
           f"p99 {latency['p99'] / 1e3:.0f} us"


def make_file(directory: Path) -> str:
    data = os.urandom(MIB) * (FILE_BYTES // MIB)
    (directory / "file").write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def on_this_machine(here: Path) -> None:
    www = here / "www"
    www.mkdir()
    wanted = make_file(www)
    channel = here / "channel"
    inlet, outlet, web = here / "bench-in", here / "bench-out", here / "web"
    with web_server(www) as port:
        say("two daemons, one channel")
        with daemon("host", "-c", f"unix-listen:{channel}:-", "-o", f"http:{web}:-",
                    "-o", f"bench:{inlet}:-") as host, \
             daemon("guest", "-c", f"unix-connect:{channel}:-", "-i", f"http:127.0.0.1:{port}",
                    "-i", f"bench:{outlet}:-") as guest:
            for end in (host, guest):
                end.wait_up()
            say("a web server behind the one, curl at the other")
            fetch("http://server/file", wanted, "--unix-socket", str(web))
            ends = ["--connect", f"unix:{inlet}", "--listen", f"unix:{outlet}"]
            pids = [host.process.pid, guest.process.pid]
            bulk = measure("bulk, one stream", "bulk", "--duration", "4", *ends, pids=pids)
            many = measure("bulk, 16 streams both ways at once", "bulk", "-n", "16", "--direction",
                           "both", "--duration", "4", *ends, pids=pids)
            one = measure("64-byte round trips, one stream", "ping-pong", "--duration", "4", *ends,
                          pids=pids)
            all64 = measure("64-byte round trips, 64 streams", "ping-pong", "-n", "64",
                            "--duration", "4", *ends, pids=pids)
            mixed = measure("64-byte round trips beside a bulk stream", "mixed", "--duration", "4",
                            *ends, pids=pids)
    table([
        ("bulk, 1 stream", gigabytes(bulk), cpu(bulk)),
        ("bulk, 16 streams, both ways", gigabytes(many), cpu(many)),
        ("round trips, 1 stream", rate(one), cpu(one)),
        ("round trips, 64 streams", rate(all64), cpu(all64)),
        ("round trips beside bulk", rate(mixed), f"bulk at {gigabytes(mixed)}"),
    ])
    aims = [
        ("bulk of one stream, GB/s", bulk["bytes_per_second"] / 1e9, 0.5),
        ("round trips a second on one stream", one["messages_per_second"], 8000),
        ("round trips a second on 64 streams", all64["messages_per_second"], 40000),
    ]
    for what, value, aim in aims:
        print(f"   {what}: {value:,.2f}, at least {aim:,} wanted: "
              f"{'yes' if value >= aim else 'NO (is the machine busy?)'}")


def in_a_guest(here: Path) -> None:
    sys.path.insert(0, str(TOP / "tests/e2e"))
    from guest.machine import Guest  # noqa: PLC0415

    www = here / "www"
    www.mkdir()
    wanted = make_file(www)
    port_socket, web, inlet = here / "port", here / "web", here / "bench-in"
    say("a QEMU guest (software emulation) with a virtio-serial port boots")
    with web_server(www) as http_port, \
         Guest(virtio_ports={"virtproxy": port_socket}, cache_dir=here / "images",
               extra_files={"/bin/virtproxy": BIN / "virtproxy-static",
                            "/bin/virtproxy-bench": BIN / "virtproxy-bench-static"}) as guest:
        print(f"       up after {guest.boot_seconds:.1f} s", flush=True)
        guest_args = ["-c", "virtio-serial:/dev/virtio-ports/virtproxy:-", "-i", "bench:/bench:-",
                      "-i", "http:127.0.0.1:80", "-o", "host-http:127.0.0.1:8080"]
        print(f" guest# virtproxy {' '.join(guest_args)}")
        guest.run("mkdir -p /www && dd if=/dev/urandom of=/www/file bs=1M count=16 2>&1")
        in_guest = guest.run("sha256sum /www/file", timeout=60)[1].split()[0]
        guest.start("busybox httpd -f -p 127.0.0.1:80 -h /www")
        guest.start("virtproxy-bench serve --listen unix:/bench")
        guest.start(["virtproxy", *guest_args])
        with daemon("host", "-c", f"unix-connect:{port_socket}:-", "-o", f"http:{web}:-",
                    "-o", f"bench:{inlet}:-", "-i", f"host-http:127.0.0.1:{http_port}") as host:
            host.wait_up()
            say("a web server in the guest, curl on the host")
            fetch("http://guest/file", in_guest, "--unix-socket", str(web))
            say("a web server on the host, wget in the guest")
            started = time.monotonic()
            status, out = guest.run("wget -q -O - http://127.0.0.1:8080/file | sha256sum",
                                    timeout=120)
            if status != 0 or out.split()[0] != wanted:
                raise Failed(f"wget in the guest: {out}")
            print(f"       {FILE_BYTES / MIB:.0f} MiB by HTTP in {time.monotonic() - started:.2f} s "
                  "(most of it the guest's sha256sum), right", flush=True)
            ends = ["--connect", f"unix:{inlet}", "--no-sink"]
            bulk = measure("bulk into the guest", "bulk", "--duration", "4", *ends)
            back = measure("bulk out of the guest", "bulk", "--direction", "down", "--duration", "4",
                           *ends)
            one = measure("64-byte round trips, one stream", "ping-pong", "--duration", "4", *ends)
    table([
        ("bulk, host to guest", gigabytes(bulk), ""),
        ("bulk, guest to host", gigabytes(back), ""),
        ("round trips, 1 stream", rate(one), ""),
    ])


def main() -> int:
    if not BIN.joinpath("virtproxy").exists():
        print("build first: cmake/demo does", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="virtproxy-demo-") as directory:
        os.chdir(directory)
        try:
            (in_a_guest if "--guest" in sys.argv[1:] else on_this_machine)(Path(directory))
        except Failed as failure:
            print(f"\nFAILED: {failure}", file=sys.stderr)
            return 1
        finally:
            os.chdir("/")
    print("\n== done: everything was carried, checked and cleaned up")
    return 0


if __name__ == "__main__":
    sys.exit(main())
