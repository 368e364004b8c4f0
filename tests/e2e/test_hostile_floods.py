"""An independent peer that floods, crawls, hoards and comes back for ever, on one of two channels.

The daemon must go on serving the honest channel beside it, in bounded memory, with bounded words in
its log, and with a bounded share of a processor where the peer could be made to pay instead. What
it sends may cost no more than honest traffic does, or a stated multiple.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

import pytest

import hostile_peer as wire
from harness import PATIENCE, SANITIZED, Scene
from hostile_peer import HostilePeer, number
from siege import (
    ANSWER_MS,
    BULK_BESIDE_DIALS,
    BULK_BESIDE_PACKETS,
    BULK_BESIDE_WORDS,
    SECONDS,
    Assault,
    Attack,
    Siege,
)
from stage import eventually, limit_ms
from test_hostile_faults import Speaker

SEED = 20261122
MANY = 4096
WORD = wire.HEADER_SIZE + 1  # the smallest frame of data
GREETING = wire.HELLO_SIZE


def repeated(make: Callable[[HostilePeer], bytes], first: str = "") -> Assault:
    """An attack that says one thing for ever."""

    def attack(siege: Siege, until: float) -> None:
        with siege.greeted() as peer:
            if first:
                peer.send(peer.open_frame(0, first))
                if first == "no-such":
                    peer.wait_for(wire.RESET, number(0))
                    peer.send(peer.frame(wire.RESET, number(0), 1, mine=True))
            siege.repeat(peer, make(peer), until)

    return attack


def count_pings(siege: Siege, until: float) -> None:
    with siege.greeted() as peer:
        while time.monotonic() < until:
            pings = [peer.frame(wire.PING, 0, peer.frames_sent) for _ in range(20_000)]
            siege.pour_in(peer, b"".join(pings), until)


def wait_resets(peer: HostilePeer, count: int) -> None:
    """Reads frames without payload until so many RESETs have come."""
    rest = b""
    while count > 0:
        rest += peer.sock.recv(1 << 16)
        whole = len(rest) // wire.HEADER_SIZE * wire.HEADER_SIZE
        count -= rest[: whole : wire.HEADER_SIZE].count(wire.RESET)
        rest = rest[whole:]


def open_and_reset(service: str) -> Assault:
    """As many streams as there may be, opened and reset in one breath, again and again."""

    def attack(siege: Siege, until: float) -> None:
        with siege.greeted() as peer:
            generation = 0
            while time.monotonic() < until:
                generation += 1
                block = b""
                for slot in range(siege.streams):
                    block += peer.open_frame(slot, service, generation)
                    block += peer.frame(wire.RESET, number(slot, generation), 1, mine=True)
                peer.send(block)
                wait_resets(peer, siege.streams)
                siege.sent += siege.streams

    return attack


def leave_behind(siege: Siege, until: float) -> None:
    """Thousands of open streams, and then no peer any more."""
    while time.monotonic() < until:
        with siege.greeted() as peer:
            peer.send(b"".join(peer.open_frame(slot, "echo") for slot in range(siege.streams)))
            peer.send(peer.frame(wire.PING, 0, peer.frames_sent))
            peer.wait_for(wire.PONG, 0)
            time.sleep(0.1)  # for the dials, some of which are still under way then


def open_half(siege: Siege, until: float) -> None:
    """Every stream there may be, and then silence."""
    with siege.greeted() as peer:
        peer.send(b"".join(peer.open_frame(slot, "echo") for slot in range(siege.streams)))
        while time.monotonic() < until:
            peer.drop_input()
            time.sleep(0.05)


def single_bytes(siege: Siege, until: float) -> None:
    """Fills windows towards services that never read, one byte a frame."""
    with siege.greeted() as peer:
        window = peer.theirs.window
        streams = 8
        peer.send(b"".join(peer.open_frame(slot, "sink") for slot in range(streams)))
        for offset in range(0, window, 500):
            if time.monotonic() > until:
                return
            block = b""
            for slot in range(streams):
                for at in range(offset, min(offset + 500, window)):
                    block += peer.frame(wire.DATA, number(slot), at, b"x", mine=True)
            siege.pour_in(peer, block, until)


def full_windows(siege: Siege, until: float) -> None:
    """Every stream's whole window, for services that never read: all the memory there is."""
    with siege.greeted() as peer:
        size = min(peer.theirs.window, peer.theirs.max_frame)
        for slot in range(siege.streams):
            block = peer.open_frame(slot, "sink")
            block += peer.frame(wire.DATA, number(slot), 0, b"x" * size, mine=True)
            peer.send_what_goes(block, until)
        while time.monotonic() < until:
            peer.drop_input()
            time.sleep(0.05)


def never_read(siege: Siege, until: float) -> None:
    """Grants everything, asks for everything, and reads nothing of it."""
    with siege.greeted() as peer:
        for slot in range(siege.streams):
            peer.send(peer.open_frame(slot, "pour", credit=wire.MOST_WINDOW))
        while time.monotonic() < until:
            time.sleep(0.05)


def read_slowly(siege: Siege, until: float) -> None:
    with siege.greeted() as peer:
        for slot in range(siege.streams):
            peer.send(peer.open_frame(slot, "pour", credit=wire.MOST_WINDOW))
        while time.monotonic() < until:
            peer.sock.recv(1)
            time.sleep(0.2)


def frame_in_bytes(siege: Siege, until: float) -> None:
    """A frame as long as allowed, a byte at a time."""
    with siege.greeted(wanted=wire.CHECKSUM) as peer:
        peer.send(peer.open_frame(0, "sink"))
        size = min(peer.theirs.window, peer.theirs.max_frame)
        frame = peer.frame(wire.DATA, number(0), 0, b"\1" * size, mine=True)
        for at in range(len(frame)):
            if time.monotonic() > until:
                return
            peer.send(frame[at : at + 1])


def credit_in_bytes(siege: Siege, until: float) -> None:
    """A window that opens by one byte, as often as it can."""
    with siege.greeted() as peer:
        peer.send(peer.open_frame(0, "pour", credit=1))
        limit = 1
        while time.monotonic() < until:
            block = b""
            for _ in range(2000):
                limit += 1
                block += peer.frame(wire.CREDIT, number(0), limit, mine=True)
            siege.pour_in(peer, block, until)


def reconnect(farewell: Callable[[HostilePeer], None]) -> Assault:
    def attack(siege: Siege, until: float) -> None:
        siege.begun.set()
        while time.monotonic() < until:
            try:
                with siege.peer(timeout=SECONDS / PATIENCE) as peer:
                    farewell(peer)
            except (OSError, EOFError):
                pass

    return attack


def greet_and_go(peer: HostilePeer) -> None:
    peer.greet()


def greet_and_break(peer: HostilePeer) -> None:
    peer.greet()
    peer.send(peer.frame(wire.DATA, number(0), 0, b"", mine=True))
    peer.wait_gone()


def only_garbage(siege: Siege, until: float) -> None:
    with siege.peer() as peer:
        siege.repeat(peer, random.Random(SEED).randbytes(1 << 20), until)


def almost_greetings(siege: Siege, until: float) -> None:
    """What looks most like greetings: each 32 bytes make the reader compute a check."""
    with siege.peer() as peer:
        siege.repeat(peer, wire.PREFIX + wire.MAGIC + bytes(12), until)


def start_anew(siege: Siege, until: float) -> None:
    """One life after the other on one connection."""
    with siege.greeted() as peer:
        while time.monotonic() < until:
            lives = b""
            for _ in range(200):
                peer.mine = wire.replace(peer.mine, epoch=peer.mine.epoch + 2)
                lives += peer.mine.encode()
            siege.pour_in(peer, lives, until)


def break_and_stay(siege: Siege, until: float) -> None:
    """With trailers the daemon keeps the connection after a fault: greet well and break again."""
    with siege.peer(timeout=SECONDS / PATIENCE) as peer:
        siege.begun.set()
        while time.monotonic() < until:
            try:
                peer.greet(wanted=wire.COMMIT, echo=0)
            except TimeoutError:
                return  # Made to wait.
            peer.send(b"\xee" * 5000)
            peer.mine = wire.replace(peer.mine, epoch=peer.mine.epoch + 2)


def words(run: Assault, hoards: bool = False) -> Attack:
    return Attack(run, hoards=hoards, bulk=BULK_BESIDE_WORDS, times=1.5, shape=WORD)


def greetings(run: Assault) -> Attack:
    return Attack(run, bulk=BULK_BESIDE_PACKETS, times=1, shape=GREETING)


def streams(service: str) -> Attack:
    return Attack(open_and_reset(service), streams=MANY, bulk=0.15, times=0.5, shape="streams")


ATTACKS = {
    "pongs": words(repeated(lambda p: p.frame(wire.PONG, 0, 7))),
    "pings": words(count_pings),
    "acknowledgements-of-nothing": words(repeated(lambda p: p.frame(wire.ACK))),
    "farewells": words(repeated(lambda p: p.frame(wire.GOING_AWAY))),
    "credit-that-says-nothing-new": words(
        repeated(lambda p: p.frame(wire.CREDIT, number(0), 65536, mine=True), "sink")
    ),
    "credit-byte-by-byte": words(credit_in_bytes, hoards=True),
    "resets-of-what-is-over": words(
        repeated(lambda p: p.frame(wire.RESET, number(0), 1, mine=True), "no-such")
    ),
    "greetings": greetings(repeated(lambda p: p.mine.encode())),
    # Each of them ends a session, between turns of others: what that costs is small in all.
    "greetings-of-new-lives": Attack(
        start_anew, 0.3, bulk=BULK_BESIDE_PACKETS, times=2, shape=GREETING
    ),
    "greetings-that-ask": greetings(
        repeated(lambda p: wire.replace(p.mine, flags=wire.PROBE, epoch=99).encode())
    ),
    "streams-reset-at-once": streams("echo"),
    "streams-to-nobody": streams("no-such"),
    "streams-that-are-refused": streams("closed"),
    "streams-left-behind": Attack(
        leave_behind, streams=MANY, answer_ms=2 * ANSWER_MS, bulk=BULK_BESIDE_DIALS
    ),
    "streams-half-open": Attack(open_half, 0.3),
    "data-byte-by-byte": Attack(single_bytes, hoards=True),
    "data-that-nobody-takes": Attack(full_windows, 0.5, hoards=True),
    "a-reader-that-never-reads": Attack(never_read, 0.5, hoards=True),
    "a-reader-that-crawls": Attack(read_slowly, 0.5, hoards=True),
    "a-frame-byte-by-byte": Attack(frame_in_bytes),
    "garbage": greetings(only_garbage),
    "almost-greetings": Attack(
        almost_greetings, bulk=BULK_BESIDE_DIALS, times=6, shape=GREETING
    ),
    "connections": Attack(reconnect(lambda peer: None), 0.1),
    "connections-that-greet": Attack(reconnect(greet_and_go), 0.1),
    "connections-that-break": Attack(reconnect(greet_and_break), 0.1),
    "faults-on-one-connection": Attack(break_and_stay, 0.1),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_honest_channel_beside_it_is_unharmed(scene: Scene, name: str) -> None:
    attack = ATTACKS[name]
    Siege(scene, attack.streams).endure(attack)


def rounds(siege: Siege, peer: HostilePeer) -> Iterator[bytes]:
    """Lawful nuisance on the channel of the honest stream, in pieces."""
    for slot in range(1, 60):
        yield peer.open_frame(slot, "echo")  # half-open for ever
    for slot in range(60, 120):  # a service that never reads
        size = min(peer.theirs.window, peer.theirs.max_frame)
        yield peer.open_frame(slot, "sink") + peer.frame(
            wire.DATA, number(slot), 0, b"x" * size, mine=True
        )
    for slot in range(120, 180):  # a service that pours, and no credit for it but this
        yield peer.open_frame(slot, "pour", credit=4096)
    for slot in range(180, 250):
        yield peer.open_frame(slot, "no-such" if slot % 2 else "closed")
    for _ in range(50):
        yield peer.frame(wire.PONG) * 2000
    for _ in range(50):
        yield peer.frame(wire.CREDIT, number(70), 65536, mine=True) * 2000


def test_a_stream_on_the_same_channel_is_served_beside_all_lawful_nuisance(scene: Scene) -> None:
    siege = Siege(scene)
    worst = 0.0
    with siege.greeted() as peer:
        speaker = Speaker(peer)
        for nuisance in rounds(siege, peer):
            peer.send(nuisance)
            worst = max(worst, speaker.echo())
        stats = siege.daemon.stats()
        assert stats.channels[0]["streams"] > 180, stats
    print(f"echo on the same channel: {worst * 1000:.1f} ms at most")
    assert worst * 1000 < limit_ms(ANSWER_MS)
    siege.daemon.wait_at_rest(timeout=30)


def test_a_flood_of_small_words_is_answered_once(scene: Scene) -> None:
    """Thousands of pings and greetings while the peer does not read: nothing piles up for it."""
    siege = Siege(scene)
    with siege.greeted() as peer:
        pings = [peer.frame(wire.PING, 0, peer.frames_sent) for _ in range(200_000)]
        peer.send(b"".join(pings))
        peer.send(peer.mine.encode() * 2000)
        before = siege.daemon.rss()
        eventually("everything was read", lambda: pong_of(peer) == peer.frames_sent - 1)
        assert SANITIZED or siege.daemon.rss() - before < 8 << 20


def pong_of(peer: HostilePeer) -> int:
    return next(frame for frame in peer.frames() if frame.kind == wire.PONG).argument
