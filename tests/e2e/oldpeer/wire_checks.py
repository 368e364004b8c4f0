"""One old peer with the test on the other end: the bytes it sends, and its habits."""

from __future__ import annotations

import pytest

import old_wire as wire_format
from harness import PATIENCE, Scene, into, out
from old_peer import channel, connect_to, silent, start, start_scripted
from old_wire import ACK, CLIENT, CLOSE, CONTROL, INIT, SERVER, Packet, Wire
from stage import ListeningService, echo, eventually, receive


def test_the_bytes_of_a_conversation_with_its_client(scene: Scene) -> None:
    door = scene.addresses.tcp()
    peer, wire, _ = start_scripted(scene, *out("echo-31-characters-long-xxxxxxxx", door))
    client = door.connect(10 * PATIENCE)
    client.sendall(b"early")
    packet = wire.raw()
    assert packet[0:4] == b"\x01\0\0\0" and packet[4:8] == b"\x01\0\0\0"
    number = packet[8]  # A descriptor: small.
    assert 3 < number < 16 and packet[9:12] == b"\0\0\0"
    assert packet[12:44] == b"echo-31-characters-long-xxxxxxxx"[:31] + b"\0"
    assert packet[44:1040] == bytes(996)
    assert packet[1040:1044] == b"\x59\x40\x37\x1f"
    # Nothing of the client is read before the ACK, and unknown CONTROL messages mean nothing.
    wire.send(*(wire_format.control(message, number, 5) for message in (0, 4, -1)))
    wire.send(wire_format.data(SERVER, number, 77, b"greeting"))
    assert receive(client, 8) == b"greeting"
    assert silent(wire.sock)
    wire.send(wire_format.ack(number, 0x01020304))
    packet = wire.raw()
    assert packet[0:4] == b"\x02\0\0\0" and packet[4:8] == bytes([number, 0, 0, 0])
    assert packet[8:12] == b"\x04\x03\x02\x01" and packet[12:16] == b"\x05\0\0\0"
    assert packet[16:21] == b"early" and packet[21:1040] == bytes(1019)
    assert packet[1040:1044] == b"\x59\x40\x37\x1f"
    client.close()
    packet = wire.raw()
    assert packet[0:8] == b"\x01\0\0\0\x03\0\0\0"
    assert packet[8:16] == b"\xff\xff\xff\xff\x04\x03\x02\x01"
    assert packet[16:1044] == bytes(1024) + b"\x59\x40\x37\x1f"
    peer.wait_log(f"^sent CONTROL CLOSE client=-1 server={0x01020304}$")


def test_the_bytes_of_a_conversation_with_its_service(scene: Scene) -> None:
    service = ListeningService(scene)
    _, wire, _ = start_scripted(scene, *into("web", service.address))
    wire.send(wire_format.init(0x0A0B0C0D, "web"))
    packet = wire.raw()
    assert packet[0:8] == b"\x01\0\0\0\x02\0\0\0" and packet[8:12] == b"\x0d\x0c\x0b\x0a"
    number = packet[12]
    assert 3 < number < 16 and packet[13:1040] == bytes(1027)
    with service.accept() as server:
        wire.send(wire_format.data(CLIENT, 0x0A0B0C0D, number, b"q" * 1024))
        assert receive(server, 1024) == b"q" * 1024
        server.sendall(b"answer")
        packet = wire.raw()
        assert packet[0:8] == b"\x03\0\0\0\x0d\x0c\x0b\x0a"
        assert packet[8:16] == bytes([number, 0, 0, 0]) + b"\x06\0\0\0"
        assert packet[16:1040] == b"answer" + bytes(1018)
    assert wire.next() == Packet(CONTROL, CLOSE, 0x0A0B0C0D, -1)
    # The other way round: CLOSE names the service's number.
    wire.send(wire_format.init(9, "web"))
    assert wire.next() == Packet(CONTROL, ACK, 9, number)  # Reused at once.
    with service.accept() as server:
        wire.send(wire_format.close(-1, number))
        assert server.recv(1) == b""


def test_bad_packets_are_dropped_and_one_stray_byte_is_the_end(scene: Scene) -> None:
    peer, wire, _ = start_scripted(scene, *into("echo", scene.echo_service()))
    good = wire_format.init(9, "echo")
    wire.send(b"\x07" + good[1:], good[:-1] + b"!", good)
    assert wire.next().message == ACK
    peer.wait_log("^sent CONTROL ACK")
    assert peer.packets()[:2] == ["received UNKNOWN-TYPE type=7", "received BAD-MAGIC"]
    wire.send(b"!", good, good, good)
    eventually("three more bad packets", lambda: peer.packets().count("received BAD-MAGIC") == 4)
    assert silent(wire.sock)


def test_data_reaches_the_next_connection_with_that_number(scene: Scene) -> None:
    door = scene.addresses.tcp()
    _, wire, _ = start_scripted(scene, *out("any", door))
    first = door.connect(10 * PATIENCE)
    number = wire.next().client
    wire.send(wire_format.close(number, -1))
    assert first.recv(1) == b""
    second = door.connect(10 * PATIENCE)
    assert wire.next() == Packet(CONTROL, INIT, number, service="any")
    wire.send(wire_format.data(SERVER, number, 5, b"late"))
    assert receive(second, 4) == b"late"


@pytest.mark.parametrize("switch", [[], ["--realign-on-reconnect"]], ids=["original", "realign"])
def test_half_a_packet_misaligns_a_listener_for_good(scene: Scene, switch: list[str]) -> None:
    echo_address = scene.echo_service()
    peer, wire, address = start_scripted(scene, *into("echo", echo_address), *switch)
    wire.send(wire_format.init(9, "echo")[:500])
    wire.close()
    for _ in range(3):
        peer.wait_lost(peer.mark() - 1)
        wire = connect_to(scene, peer, address)
        if switch:
            wire.send(wire_format.init(9, "echo"))
            assert wire.next().message == ACK
            return
        mark = peer.mark()
        wire.send(wire_format.init(9, "echo"))
        peer.wait_log("received BAD-MAGIC", since=mark)
        assert silent(wire.sock)
        wire.close()


@pytest.mark.parametrize("forgets", [False, True])
def test_a_listener_keeps_stale_connections(scene: Scene, forgets: bool) -> None:
    door = scene.addresses.tcp()
    switch = ["--forget-on-reconnect"] if forgets else []
    peer, wire, address = start_scripted(scene, *out("any", door), *switch)
    client = door.connect(10 * PATIENCE)
    number = wire.next().client
    wire.send(wire_format.ack(number, 5))
    client.sendall(b"x")
    assert wire.next().data == b"x"
    wire.close()
    peer.wait_lost()
    if forgets:
        assert client.recv(1) == b""
        return
    wire = connect_to(scene, peer, address)
    client.sendall(b"stale")
    assert wire.next() == Packet(CLIENT, client=number, server=5, data=b"stale")


@pytest.mark.parametrize("reconnects", [False, True])
def test_a_connector_is_defunct_after_the_end(scene: Scene, reconnects: bool) -> None:
    address = scene.addresses.unix()
    door = scene.addresses.tcp()
    listener = address.listen()
    listener.settimeout(10 * PATIENCE)
    switch = ["--reconnect"] if reconnects else []
    peer = start(scene, "-c", channel("connect", address), *out("any", door), *switch)
    listener.accept()[0].close()
    peer.wait_lost()
    if reconnects:
        wire = Wire(listener.accept()[0])
        wire.sock.settimeout(10 * PATIENCE)
        door.connect()
        assert wire.next().message == INIT
        return
    with door.connect() as client:
        peer.wait_log("no channel for CONTROL INIT")
        assert silent(client)
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()


@pytest.mark.parametrize("switch", [[], ["--background-dial"]], ids=["original", "background"])
def test_a_dial_stops_everything(scene: Scene, switch: list[str]) -> None:
    slow = scene.addresses.tcp()
    backlog = scene.hold("ready", "never-accept", "--listen", slow.traffic)
    args = [*into("slow", slow), *into("echo", scene.echo_service()), *switch]
    peer, wire, _ = start_scripted(scene, *args)
    wire.send(wire_format.init(9, "slow"), wire_format.init(10, "echo"))
    if switch:
        assert wire.next().client == 10
        return
    peer.wait_blocked_in("connect")
    assert silent(wire.sock)
    backlog.kill()
    assert wire.next() == Packet(CONTROL, ACK, 9, -1)
    assert wire.next().client == 10


def test_large_numbers_are_not_reused_and_need_no_descriptor(scene: Scene) -> None:
    args = [*into("echo", scene.echo_service()), "--large-numbers", "--number-base", "2000000"]
    _, wire, _ = start_scripted(scene, *args)
    for number in (2_000_000, 2_000_001):
        wire.send(wire_format.init(9, "echo"))
        assert wire.next() == Packet(CONTROL, ACK, 9, number)
        wire.send(wire_format.data(CLIENT, 9, number, b"hello"))
        assert wire.next() == Packet(SERVER, client=9, server=number, data=b"hello")
        wire.send(wire_format.close(-1, number))
    for number in (2_000_001, 5):
        wire.send(wire_format.data(CLIENT, 9, number, b"nobody"))
    wire.send(wire_format.init(9, "echo"))
    assert wire.next().server == 2_000_002


def test_resync_finds_the_next_packet(scene: Scene) -> None:
    _, wire, _ = start_scripted(scene, *into("echo", scene.echo_service()), "--resync")
    wire.send(b"!!!", wire_format.init(9, "echo"))
    assert wire.next().message == ACK


def test_an_unknown_control_message_may_end_the_channel(scene: Scene) -> None:
    _, wire, _ = start_scripted(scene, "--no-ignore-unknown-control")
    wire.send(wire_format.control(4, 0, 0))
    assert wire.ended()


def test_hold_clients_waits_for_the_channel(scene: Scene) -> None:
    door, address = scene.addresses.tcp(), scene.addresses.unix()
    args = ("-c", channel("listen", address), *out("any", door))
    hasty = start(scene, *args)
    with door.connect():
        hasty.wait_log("no channel for CONTROL INIT")
    hasty.kill()
    patient = start(scene, *args, "--hold-clients")
    with door.connect():
        assert connect_to(scene, patient, address).next().message == INIT
