"""Sockets of sources that a service manager keeps over a restart: what is sent meanwhile is there afterwards."""

from __future__ import annotations

import re
import socket

import pytest

from harness import Scene
from log_shipping import LogPeer, send_dgrams
from manager import Manager


def connect(family: socket.AddressFamily, address: str | tuple[str, int], data: bytes) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.connect(address)
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)
    return sock


@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM"])
def test_nothing_that_is_sent_over_a_restart_is_lost(scene: Scene, end: str) -> None:
    """Of each kind of socket: what the first process reads, what comes while there is none, and what comes later."""
    manager = Manager(scene)
    env = {"FDSTORE": "64"}
    channel = scene.addresses.unix()
    dgram, stream = scene.directory / "dgram", scene.directory / "stream"
    udp, tcp = scene.addresses.tcp(), scene.addresses.tcp()
    args = ["-c", f"unix-connect:{channel.spec}", "--ship", f"unix-dgram:{dgram},name=dgram",
            "--ship", f"unix:{stream},name=stream", "--ship", f"udp:{udp.spec},name=udp",
            "--ship", f"tcp:{tcp.spec},name=tcp", "--ship-flush-timeout", "5",
            "--ship-spool", f"{scene.directory / 'spool'}:8M"]
    peer = LogPeer(scene, channel)
    daemon = manager.start(*args, env=env)
    names = ("dgram", "stream", "udp", "tcp")
    lines: list[bytes] = []

    def send(what: str) -> None:
        mine = [b"%s %d" % (what.encode(), number) for number in range(50)]
        lines.extend(mine)
        send_dgrams(str(dgram), mine)
        send_dgrams(("127.0.0.1", udp.port), mine)
        text = b"".join(line + b"\n" for line in mine)
        clients.append(connect(socket.AF_UNIX, str(stream), text))
        clients.append(connect(socket.AF_INET, ("127.0.0.1", tcp.port), text))

    clients: list[socket.socket] = []
    send("before")
    for name in names:
        peer.wait_numbered(name, len(lines))
    manager.wait_for("sources are stored", lambda message: message.get("FDNAME") == "virtproxy.sources"
                     and message.get("FDSTORE") == "1")
    assert len(manager.sources) == 4
    while manager.receive(0.01) is not None:
        pass
    if end == "SIGKILL":
        daemon.kill9()
    else:
        daemon.terminate()
    send("between")
    daemon = manager.start(*args, env=env)
    send("after")
    for index, name in enumerate(names):
        account = peer.wait_numbered(name, len(lines))
        assert account["delivered"] == len(lines) and not account["dropped"], account
        assert sorted(peer.texts(index)) == sorted(lines), name
    while manager.receive(0.01) is not None:
        pass
    assert len(manager.sources) == 4
    for client in clients:
        client.close()
    daemon.terminate()

    # One that is not wanted any more is closed.
    daemon = manager.start("-c", f"unix-connect:{channel.spec}", "--ship", f"unix-dgram:{dgram},name=dgram",
                           "--ship-flush-timeout", "0.2", env=env)
    assert re.search(r"the socket of a source on \S+ of an earlier process is closed", daemon.stderr())
    while manager.receive(0.01) is not None:
        pass
    assert len(manager.sources) == 1
    with pytest.raises(ConnectionRefusedError):
        connect(socket.AF_INET, ("127.0.0.1", tcp.port), b"x")
