"""An old-format peer that floods, hoards and comes back for ever, on one of two channels.

The daemon chooses the protocol itself (--protocol auto). The same is asked of it as beside a peer
of protocol 2.
"""

from __future__ import annotations

import random
import select
import time

import pytest

import drop_in  # noqa: F401  First: it knows where old_wire is.
import old_wire as wire_format
from harness import Scene
from hostile_peer import PREFIX, Hello, HostilePeer
from old_wire import ACK, CLIENT, CLOSE, MAGIC, SERVER, SIZE
from siege import (
    ANSWER_MS,
    BULK_BESIDE_DIALS,
    BULK_BESIDE_PACKETS,
    STREAMS,
    Assault,
    Attack,
    Siege,
)

SECONDS = 1.0
SEED = 20101103
MANY = 4096
FULL = b"x" * 1024
STALLED = 64


def old_peer(siege: Siege) -> HostilePeer:
    """A connection on which protocol 1 was chosen, because nothing but old packets comes."""
    mark = siege.daemon.mark()
    peer = siege.peer(20)
    peer.send(wire_format.close(-1, 7))  # Of nobody.
    siege.daemon.wait_up(0, mark, protocol=1)
    siege.begun.set()
    return peer


def repeated(*packets: bytes) -> Assault:
    """An attack that says the same for ever."""

    def attack(siege: Siege, until: float) -> None:
        with old_peer(siege) as peer:
            siege.repeat(peer, b"".join(packets), until)

    return attack


def inits(service: str, numbers: int = MANY) -> Assault:
    """Clients of a few numbers: each INIT resets the earlier bearer of its number."""
    return repeated(*(wire_format.init(number, service) for number in range(1, numbers + 1)))


class Talk:
    """Packets both ways: an old peer that listens to what it is told."""

    def __init__(self, siege: Siege, peer: HostilePeer) -> None:
        self._siege, self._sock = siege, peer.sock
        self._sock.setblocking(False)
        self._outbox, self._inbox = bytearray(), bytearray()

    def idle(self) -> bool:
        return not self._outbox

    def say(self, packets: list[bytes]) -> None:
        self._outbox += b"".join(packets)

    def go_on(self, seconds: float = 0.05) -> list[wire_format.Packet]:
        """Sends and receives what goes at once; returns what came, without greetings."""
        ways = select.select([self._sock], [self._sock] if self._outbox else [], [], seconds)
        if ways[0]:
            piece = self._sock.recv(1 << 18)
            if not piece:
                raise EOFError("the daemon closed the channel")
            self._inbox += piece
        if ways[1]:
            sent = self._sock.send(self._outbox[: 1 << 18])
            del self._outbox[:sent]
            self._siege.sent += sent
        whole = len(self._inbox) // SIZE * SIZE
        packets = [bytes(self._inbox[at : at + SIZE]) for at in range(0, whole, SIZE)]
        del self._inbox[:whole]
        return [wire_format.decode(p) for p in packets if p[4:16] != PREFIX[4:16]]


def init_and_close(siege: Siege, until: float) -> None:
    """As many streams as there may be, closed as soon as they are answered, again and again."""
    with old_peer(siege) as peer:
        talk = Talk(siege, peer)
        number = unanswered = 0
        while time.monotonic() < until:
            while unanswered < siege.streams:
                number += 1
                unanswered += 1
                talk.say([wire_format.init(number, "echo")])
            for packet in talk.go_on():
                unanswered -= packet.message in (ACK, CLOSE)
                if packet.message == ACK:
                    talk.say([wire_format.close(-1, packet.server)])


def noise_between_packets(siege: Siege, until: float) -> None:
    """Real packets, and between them what is none: the boundary is lost all the time."""
    draw = random.Random(SEED)
    pieces = []
    for number in range(1, 500):
        pieces.append(wire_format.init(number, "echo"))
        pieces.append(draw.randbytes(draw.randrange(1, 3 * SIZE)))
    with old_peer(siege) as peer:
        siege.repeat(peer, b"".join(pieces), until)


def torn_packets(siege: Siege, until: float) -> None:
    draw = random.Random(SEED)
    packet = wire_format.init(7, "echo")
    with old_peer(siege) as peer:
        block = b"".join(packet[: draw.randrange(SIZE)] for _ in range(1000))
        siege.repeat(peer, block, until)


def noise(siege: Siege, until: float) -> None:
    with old_peer(siege) as peer:
        siege.repeat(peer, random.Random(SEED).randbytes(1 << 20), until)


def stalled_streams(siege: Siege, until: float) -> None:
    """Data without end for services that never read; who is closed for that is opened anew."""
    with old_peer(siege) as peer:
        talk = Talk(siege, peer)
        servers: dict[int, int] = {}
        number = closed = 0
        wanted = STALLED
        while time.monotonic() < until:
            while wanted > 0:
                number += 1
                wanted -= 1
                talk.say([wire_format.init(number, "sink")])
            for packet in talk.go_on():
                if packet.message == ACK:
                    servers[packet.client] = packet.server
                elif packet.message == CLOSE:
                    servers.pop(packet.client, None)
                    wanted += 1
                    closed += 1
            if talk.idle():
                data = (wire_format.data(CLIENT, *stream, FULL) * 8 for stream in servers.items())
                talk.say(list(data))
        print(f"{closed} stalled streams were closed")


def never_read(siege: Siege, until: float) -> None:
    """Asks for everything and reads nothing of it."""
    with old_peer(siege) as peer:
        for number in range(1, siege.streams + 1):
            peer.send(wire_format.init(number, "pour"))
        while time.monotonic() < until:
            time.sleep(0.05)


def upgrades(siege: Siege, until: float) -> None:
    """A greeting between old packets ends their session, and old packets come again."""
    epoch = 1
    with old_peer(siege) as peer:
        while time.monotonic() < until:
            lives = b""
            for _ in range(100):
                epoch += 2
                lives += Hello(epoch).encode() + wire_format.init(5, "echo") * 3
            siege.pour_in(peer, lives, until)


def reconnect(words: bytes) -> Assault:
    def attack(siege: Siege, until: float) -> None:
        siege.begun.set()
        while time.monotonic() < until:
            try:
                with siege.peer(SECONDS) as peer:
                    peer.send(words)
            except OSError:
                pass

    return attack


def dials(run: Assault, streams: int = MANY) -> Attack:
    return Attack(run, streams=streams, answer_ms=2 * ANSWER_MS, bulk=BULK_BESIDE_DIALS)


# Honest packets cost 0.9 to 1.9 ns a byte on one machine, by how many of them one read finds; what is
# skipped costs 0.6 to 0.7, which is less than the least of that.
def packets(run: Assault, times: float = 1.5, streams: int = STREAMS) -> Attack:
    return Attack(run, streams=streams, bulk=BULK_BESIDE_PACKETS, times=times, shape="packets")


ATTACKS = {
    "inits-of-the-same-numbers": dials(inits("echo", 64), STREAMS),
    "inits-without-end": dials(inits("echo")),
    "inits-to-nobody": packets(inits("no-such"), streams=MANY),
    "inits-that-are-refused": dials(inits("closed")),
    "streams-closed-when-answered": dials(init_and_close, STREAMS),
    "acks-for-nobody": packets(repeated(*(wire_format.ack(n, n + 1) for n in range(1, 500)))),
    "data-for-nobody": packets(
        repeated(*(wire_format.data(kind, 5, 6, FULL) for kind in (CLIENT, SERVER))), 1.0
    ),
    "unknown-words": packets(
        repeated(wire_format.control(77, 1, 2), b"\x09" + wire_format.ack(1, 2)[1:]), 1.0
    ),
    "noise": packets(noise, 1.0),
    "nothing-but-magics": packets(repeated(MAGIC)),
    "noise-between-packets": dials(noise_between_packets, STREAMS),
    "torn-packets": packets(torn_packets),
    "stalled-streams": Attack(stalled_streams, hoards=True),
    "a-reader-that-never-reads": Attack(never_read, 0.5, hoards=True),
    "upgrades-without-end": Attack(upgrades),
    "connections": Attack(reconnect(wire_format.init(1, "echo")), 0.1),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_honest_channel_beside_it_is_unharmed(scene: Scene, name: str) -> None:
    attack = ATTACKS[name]
    Siege(scene, attack.streams).endure(attack, SECONDS)
