"""What the old peer does wrong on purpose, byte by byte, and its command line."""

from __future__ import annotations

import pytest

import old_wire as wire_format
from harness import BIN, PATIENCE, Scene, into, out
from old_peer import start_scripted
from old_wire import ACK, CLIENT, CLOSE, CONTROL, INIT, SERVER, SIZE, Packet, Wire, decode
from stage import ListeningService


def client_of(scene: Scene, *switches: str, acknowledged: bool = True):
    """A client of the old peer that has said 'hello', and the channel: (socket, wire, number)."""
    door = scene.addresses.tcp()
    _, wire, _ = start_scripted(scene, *out("any", door), *switches)
    client = door.connect(10 * PATIENCE)
    client.sendall(b"hello")
    scene.cleanup(client.close)
    number = wire.next().client
    if acknowledged:
        wire.send(wire_format.ack(number, 5))
    return client, wire, number


def served(scene: Scene, *switches: str) -> tuple[Wire, ListeningService]:
    """An old peer that was asked for its service by client number 9."""
    service = ListeningService(scene)
    _, wire, _ = start_scripted(scene, *into("any", service.address), *switches)
    wire.send(wire_format.init(9, "any"))
    return wire, service


@pytest.mark.parametrize("value", [0, -1, 1025, 2**31 - 1])
def test_bad_bytes_field(scene: Scene, value: int) -> None:
    client, wire, number = client_of(scene, "--bad-bytes-field", str(value))
    packet = wire.raw()
    assert int.from_bytes(packet[12:16], "little", signed=True) == value
    assert packet[16:21] == b"hello" and packet[1040:] == wire_format.MAGIC
    client.sendall(b"good")
    assert wire.next() == Packet(CLIENT, client=number, server=5, data=b"good")


def test_stray_byte_after(scene: Scene) -> None:
    client, wire, _ = client_of(scene, "--stray-byte-after", "2")
    assert wire.next().data == b"hello"
    assert wire.raw(1) == b"\x5a"
    client.sendall(b"more")
    assert wire.next().data == b"more"


def test_bad_magic_after(scene: Scene) -> None:
    client, wire, _ = client_of(scene, "--bad-magic-after", "1")
    packet = wire.raw()
    assert packet[16:21] == b"hello" and packet[1040:] != wire_format.MAGIC
    client.sendall(b"more")
    assert wire.next().data == b"more"


def test_drop_in_mid_packet(scene: Scene) -> None:
    _, wire, number = client_of(scene, "--drop-in-mid-packet", "1")
    whole = wire_format.data(CLIENT, number, 5, b"hello")
    assert wire.raw(SIZE // 2) == whole[: SIZE // 2]
    assert wire.ended()


def test_ack_twice(scene: Scene) -> None:
    wire, _ = served(scene, "--ack-twice")
    assert (packet := wire.next()) == wire.next() and packet.message == ACK


@pytest.mark.parametrize("closer", ["service", "client"])
def test_ack_for_closed(scene: Scene, closer: str) -> None:
    wire, service = served(scene, "--ack-for-closed")
    ack = wire.next()
    server = service.accept()
    if closer == "service":
        server.close()
        assert wire.next() == Packet(CONTROL, CLOSE, 9, -1)
    else:
        wire.send(wire_format.close(-1, ack.server))
    assert wire.next() == ack


def test_never_ack(scene: Scene) -> None:
    wire, service = served(scene, "--never-ack")
    service.accept().close()
    assert wire.next() == Packet(CONTROL, CLOSE, 9, -1)


def test_close_both(scene: Scene) -> None:
    client, wire, number = client_of(scene, "--close-both")
    assert wire.next().data == b"hello"
    client.close()
    assert wire.next() == Packet(CONTROL, CLOSE, number, 5)


def test_data_after_close(scene: Scene) -> None:
    client, wire, number = client_of(scene, "--data-after-close")
    assert wire.next().data == b"hello"
    client.close()
    assert wire.next() == Packet(CONTROL, CLOSE, -1, 5)
    assert wire.next() == Packet(CLIENT, client=number, server=5, data=b"late")


def test_same_client_number_twice(scene: Scene) -> None:
    _, wire, number = client_of(scene, "--same-client-number-twice", acknowledged=False)
    assert wire.next() == Packet(CONTROL, INIT, number, service="any")


def test_data_before_ack(scene: Scene) -> None:
    _, wire, number = client_of(scene, "--data-before-ack", acknowledged=False)
    assert wire.next() == Packet(CLIENT, client=number, server=-1, data=b"hello")


def test_init_unknown(scene: Scene) -> None:
    _, wire, _ = start_scripted(scene, "--init-unknown", "nonsense")
    assert wire.next() == Packet(CONTROL, INIT, 900_001, service="nonsense")


def test_stray_data(scene: Scene) -> None:
    _, wire, _ = start_scripted(scene, "--stray-data")
    for kind in (CLIENT, SERVER):
        assert wire.next() == Packet(kind, client=900_001, server=900_002, data=b"stray")
    assert wire.next() == Packet(CONTROL, CLOSE, 900_001, -1)
    assert wire.next() == Packet(CONTROL, CLOSE, -1, 900_002)


@pytest.mark.parametrize("value", [0, 4, -1])
def test_unknown_control_and_type(scene: Scene, value: int) -> None:
    args = ("--unknown-control", str(value), "--unknown-type", str(value))
    _, wire, _ = start_scripted(scene, *args)
    number = value.to_bytes(4, "little", signed=True)
    control, odd = wire.raw(), wire.raw()
    assert control[:8] == b"\x01\0\0\0" + number and control[1040:] == wire_format.MAGIC
    assert odd[:4] == number and odd[1040:] == wire_format.MAGIC


@pytest.mark.parametrize("count", [1, 522, 5000])
def test_garbage_may_wait(scene: Scene, count: int) -> None:
    client, wire, _ = client_of(scene, "--garbage", str(count), "--fault-after", "2")
    assert wire.next().data == b"hello"
    noise = wire.raw(count)
    assert wire_format.MAGIC not in noise
    client.sendall(b"more")
    assert wire.next().data == b"more"


def test_faults_wait_for_no_packet_by_default(scene: Scene) -> None:
    _, wire, _ = start_scripted(scene, "--garbage", "10", "--stray-byte-after", "0")
    first = wire.raw(11)
    assert first[:1] == b"\x5a"


def test_slow_dial(scene: Scene) -> None:
    wire, service = served(scene, "--slow-dial", "300")
    service.accept()
    assert wire.next().message == ACK


def test_an_unlisted_packet_does_not_decode() -> None:
    good = wire_format.data(CLIENT, 1, 2, b"x")
    assert decode(good).data == b"x"
    for offset in (0, 13, 17, 1039, 1040, 1043):
        bad = bytearray(good)
        bad[offset] ^= 0xF0
        with pytest.raises(AssertionError):
            decode(bytes(bad))


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ([], "no channel specified"),
        (["-c", "unix-listen"], "error parsing arg: unix-listen"),
        (["-c", "pigeon:/tmp/x:-"], "invalid channel type: pigeon"),
        (["-c", "unix-listen:/nowhere/x:-", "-i", "svc"], "error parsing arg: svc"),
        (["-c", "unix-listen:/nowhere/x:-"], "cannot listen for the channel"),
        (["-c", "unix-connect:/nowhere/x:-"], "cannot open the channel"),
        (["-c", "virtserial-open:/nowhere/x:-"], "cannot open the channel"),
        (["-c", "unix-listen:/nowhere/x:-", "--garbage", "much"], "error parsing arg: much"),
    ],
)
def test_bad_command_lines_end_with_one(scene: Scene, args: list[str], complaint: str) -> None:
    assert complaint in scene.run([BIN / "virtproxy-oldpeer", *args], expect=1).stderr()


def test_help_ends_with_zero(scene: Scene) -> None:
    text = scene.run([BIN / "virtproxy-oldpeer", "-h"]).stdout()
    assert "--nonblocking-writes" in text and "--garbage N" in text
