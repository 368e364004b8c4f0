"""The four parties of the scene that any multiplexer has to survive, one process each.

Alice talks to Bob, Mary talks to Joe, over one channel. Joe stops reading because he waits for Bob;
Bob waits for a message from Mary. Mary must get through.

    party.py bob   LISTEN JOE_WAITS_HERE    does not read Alice until Mary's message has come
    party.py joe   LISTEN JOE_WAITS_HERE    does not read Mary until Bob has told him to
    party.py alice BOB                      writes until stuck, says so, and goes on
    party.py mary  JOE BOB                  writes until stuck, sends Bob the message, and goes on

Addresses are host:port or a unix path. Alice and Mary check that what they said arrived whole.
"""

from __future__ import annotations

import hashlib
import select
import socket
import sys

AMOUNT = 64 * 1024 * 1024
STUCK_AFTER = 0.5
DEADLINE = 120.0


def open_socket(address: str) -> tuple[socket.socket, tuple[str, int] | str]:
    if "/" in address:
        return socket.socket(socket.AF_UNIX), address
    host, _, port = address.rpartition(":")
    return socket.socket(socket.AF_INET), (host, int(port))


def connect(address: str) -> socket.socket:
    sock, name = open_socket(address)
    sock.settimeout(DEADLINE)
    sock.connect(name)
    return sock


def listen(address: str) -> socket.socket:
    sock, name = open_socket(address)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.settimeout(DEADLINE)
    sock.bind(name)
    sock.listen()
    return sock


def say(text: str) -> None:
    print(text, flush=True)


def accept(listener: socket.socket) -> tuple[str, socket.socket]:
    """The next caller and who it is: the first line says so."""
    sock = listener.accept()[0]
    sock.settimeout(DEADLINE)
    name = b""
    while not name.endswith(b"\n"):
        piece = sock.recv(1)
        if not piece:
            raise EOFError("a caller left without a name")
        name += piece
    return name.decode().strip(), sock


def hear_out(sock: socket.socket) -> None:
    """Reads to the end and answers with the digest of what was heard."""
    digest = hashlib.sha256()
    while data := sock.recv(1 << 18):
        digest.update(data)
    sock.sendall(digest.digest())
    sock.close()


class Speech:
    """A long talk to one partner, in pieces."""

    def __init__(self, address: str, name: str) -> None:
        self._sock = connect(address)
        self._sock.sendall(name.encode() + b"\n")
        self._piece = hashlib.sha256(name.encode()).digest() * 2048
        self._sent = 0

    def talk(self, until_stuck: bool) -> None:
        while self._sent < AMOUNT:
            wait = STUCK_AFTER if until_stuck else DEADLINE
            if not select.select([], [self._sock], [], wait)[1]:
                if until_stuck:
                    return
                raise TimeoutError("the partner never listens")
            self._sock.setblocking(False)
            at = self._sent % len(self._piece)
            try:
                self._sent += self._sock.send(self._piece[at : at + AMOUNT - self._sent])
            except BlockingIOError:
                pass
            self._sock.settimeout(DEADLINE)
        if until_stuck:
            raise AssertionError("everything was taken, so nobody was waiting")

    def conclude(self) -> None:
        self.talk(until_stuck=False)
        self._sock.shutdown(socket.SHUT_WR)
        digest = hashlib.sha256()
        for _ in range(AMOUNT // len(self._piece)):
            digest.update(self._piece)
        answer = b""
        while piece := self._sock.recv(64):
            answer += piece
        if answer != digest.digest():
            raise AssertionError("the partner heard something else")


def bob(address: str, joe: str) -> None:
    listener = listen(address)
    say("listening")
    name, alice = accept(listener)
    assert name == "alice", name
    name, mary = accept(listener)
    assert name == "mary", name
    message = mary.recv(64)
    assert message == b"go on", message
    say("heard Mary")
    connect(joe).sendall(b"bob\n")
    hear_out(alice)


def joe(address: str, waits_here: str) -> None:
    for_bob = listen(waits_here)
    listener = listen(address)
    say("listening")
    name, mary = accept(listener)
    assert name == "mary", name
    accept(for_bob)
    say("heard Bob")
    hear_out(mary)


def alice(bob_address: str) -> None:
    speech = Speech(bob_address, "alice")
    speech.talk(until_stuck=True)
    say("stuck")
    speech.conclude()


def mary(joe_address: str, bob_address: str) -> None:
    speech = Speech(joe_address, "mary")
    speech.talk(until_stuck=True)
    say("stuck")
    message = connect(bob_address)
    message.sendall(b"mary\ngo on")
    speech.conclude()


if __name__ == "__main__":
    {"alice": alice, "bob": bob, "joe": joe, "mary": mary}[sys.argv[1]](*sys.argv[2:])
    say("done")
