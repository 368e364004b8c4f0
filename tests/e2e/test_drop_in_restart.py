"""Either end beside an old peer is killed or leaves, and comes back: traffic works each time."""

from __future__ import annotations

import random
import signal
import socket
import time
import zlib

import pytest

from drop_in import NEW, OLD, PAIRINGS, SEED, Crowd, End, Line, expect_end
from harness import PATIENCE, Scene, scaled
from stage import ListeningService, echo, echo_once, receive

# What no daemon on the other end can make good: the original never connects a second time; its next
# life behind a line that hides it is given what was meant for the earlier one; and SIGKILL may cut
# off the packet that a tty was just taking.
SWITCHES = {
    "unix": ["--reconnect"],
    "tcp": ["--reconnect"],
    "pty": ["--no-unchecked-numbers", "--large-numbers", "--resync"],
}


# More than seventy in all.
@pytest.mark.parametrize("pairing", PAIRINGS)
def test_restarts_of_either_end_at_any_moment(scene: Scene, pairing: str) -> None:
    """Drawn: which end, SIGKILL or SIGTERM, and the moment; clients come and go all the time."""
    draw = random.Random(SEED + zlib.crc32(pairing.encode()))
    switches = SWITCHES[pairing.split("-")[0]]
    new = ["--drain-timeout", "0.1", "--ack-timeout", "1"]
    line = Line(scene, pairing, {"echo": scene.echo_service()}, old=switches, new=new)
    line.wait_for_echo()
    crowd = Crowd(scene, [end.doors["echo"] for end in line.ends])
    for round_number in range(scaled(12, 3)):
        crowd.wait_for_answers(1)
        time.sleep(draw.random() * 0.03)  # The drawn moment.
        victim, survivor = draw.sample(line.ends, 2)
        number = draw.choice((signal.SIGKILL, signal.SIGTERM))
        print(f"seed {SEED}, {round_number}: {victim.program} ends by {number.name}")
        mark = survivor.process.err.count()
        victim.stop(number)
        if victim.program == OLD:
            base = draw.randrange(2_000_000_000)
            victim.switches[OLD] = [*switches, "--number-base", str(base)]
        victim.start(victim.program)
        if not line.hides_replacement:
            survivor.wait_up(mark)
        victim.wait_up()
        line.wait_for_echo()
    crowd.stop()
    assert not crowd.wrong, crowd.wrong
    # Behind a line that hides it, streams to an earlier life of the old peer may be left.
    if not line.hides_replacement:
        line.daemon.wait_at_rest()
    assert line.daemon.fds() < 64, "descriptors are left"


def restart(end: End) -> None:
    end.stop(signal.SIGKILL)
    end.start(end.program)


def streams(line: Line, program: str, service: ListeningService, count: int):
    """Open streams of clients at the program's end: pairs of client and service sockets."""
    found: list[tuple[socket.socket, socket.socket]] = []
    for _ in range(count):
        client = line.running(program).doors["any"].connect(10 * PATIENCE)
        client.sendall(b"!")
        server = service.accept()
        assert receive(server, 1) == b"!"
        found.append((client, server))
    return found


@pytest.mark.parametrize("clients", [OLD, NEW])
def test_streams_of_an_earlier_life_do_not_touch_those_of_the_next(
    scene: Scene, clients: str
) -> None:
    """The original keeps its connections and their numbers when the channel comes back."""
    service = ListeningService(scene)
    line = Line(scene, "unix-old-new", {"any": service.address})
    stale = streams(line, clients, service, 20)
    mark = line.peer.mark()
    restart(line.running(NEW))
    line.peer.wait_up(since=mark)
    fresh = streams(line, clients, service, 20)
    for client, server in stale:
        # At our end the kernel has closed them; the old peer's ends still speak.
        speaker = client if clients == OLD else server
        speaker.sendall(b"from an earlier life")
        speaker.close()
    for _ in range(3):
        for client, server in fresh:
            for sender, receiver in ((client, server), (server, client)):
                sender.sendall(b"from this one")
                assert receive(receiver, 13) == b"from this one"
    for client, server in fresh:
        client.close()
        assert expect_end(server) == b""
        server.close()
    for client, server in stale:
        client.close()
        server.close()
    line.daemon.wait_at_rest()


def test_leaving_ends_no_packet_in_the_middle(scene: Scene) -> None:
    """A listener of old that got half a packet would be deaf for good. SIGTERM under full load."""
    service = ListeningService(scene)
    services = {"any": service.address, "echo": scene.echo_service()}
    line = Line(scene, "unix-old-new", services, new=["--drain-timeout", "0.1"])
    for _ in range(scaled(5, 2)):
        client = line.running(NEW).doors["any"].connect(10 * PATIENCE)
        client.setblocking(False)
        with service.accept() as server:
            # Nobody reads there, so the old peer stops, and the channel is full when we leave.
            while True:
                try:
                    client.send(bytes(1 << 16))
                except BlockingIOError:
                    if line.peer.blocked_in("write") is not None:
                        break
                    time.sleep(0.01)
            mark = line.peer.mark()
            line.running(NEW).process.send_signal(signal.SIGTERM)
            line.daemon.expected_death = True
            time.sleep(0.2)  # It leaves while the channel is stuck: the hard case.
        client.close()
        line.daemon.check_exit()
        line.peer.wait_lost(since=mark)
        assert "received BAD-MAGIC" not in line.peer.err.lines(mark)
        mark = line.peer.mark()
        line.running(NEW).start(NEW)
        line.peer.wait_up(since=mark)
        for end in line.ends:
            echo_once(end.doors["echo"])
    assert "received BAD-MAGIC" not in line.peer.err.lines()


def test_leaving_a_tty_ends_no_packet_in_the_middle(scene: Scene) -> None:
    """Nor does coming back: what the line has yet to take of the earlier life is left in it."""
    new = ["--drain-timeout", "0.5", "--ack-timeout", "1"]
    line = Line(scene, "pty-old-new", {"echo": scene.echo_service()}, new=new)
    ours = line.running(NEW)
    crowd = Crowd(scene, [end.doors["echo"] for end in line.ends])
    for _ in range(scaled(8, 3)):
        crowd.wait_for_answers(2)
        ours.stop(signal.SIGTERM)
        ours.start(NEW)
        ours.wait_up()
        line.wait_for_echo()
    crowd.stop()
    assert "received BAD-MAGIC" not in line.peer.err.lines()


def test_the_old_peers_streams_end_when_its_channel_drops(scene: Scene) -> None:
    """All that were open at our end are reset, in both directions, and none is left."""
    service = ListeningService(scene)
    line = Line(scene, "unix-new-old", {"any": service.address})
    descriptors = line.descriptors()
    ours = streams(line, NEW, service, 10)
    theirs = streams(line, OLD, service, 10)
    for client, server in (*ours, *theirs):
        echo_there_and_back(client, server)
    line.running(OLD).stop(signal.SIGKILL)
    for end in [client for client, _ in ours] + [server for _, server in theirs]:
        assert expect_end(end) == b""
        end.close()
    line.daemon.wait_at_rest(descriptors)


def echo_there_and_back(client: socket.socket, server: socket.socket) -> None:
    client.sendall(b"there")
    assert receive(server, 5) == b"there"
    server.sendall(b"back")
    assert receive(client, 4) == b"back"


@pytest.mark.parametrize("pairing", ["unix-old-new", "pty-new-old"])
def test_a_connection_survives_hours_of_silence_in_short(scene: Scene, pairing: str) -> None:
    """The original says nothing unless it has to: silence means nothing."""
    line = Line(scene, pairing, {"echo": scene.echo_service()})
    with line.running(OLD).doors["echo"].connect(10 * PATIENCE) as sock:
        echo(sock)
        mark = line.daemon.mark()
        time.sleep(3)  # Longer than any interval at which we might ask for a sign of life.
        echo(sock)
        assert not [text for text in line.daemon.err.lines(mark) if "channel 0: " in text]
