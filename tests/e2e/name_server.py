"""A name server for tests; each file has its own address, for files run at the same time."""

from __future__ import annotations

import socket
import threading


class NameServer:
    """Answers every question for an address with 127.0.0.1; over UDP only that TCP is needed."""

    def __init__(self, address: str) -> None:
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.tcp = socket.socket()
        self.tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for sock in (self.udp, self.tcp):
            sock.bind((address, 53))
        self.tcp.listen()
        self.asked = {"udp": 0, "tcp": 0}
        for run in (self._serve_udp, self._serve_tcp):
            threading.Thread(target=run, daemon=True).start()

    @staticmethod
    def _answer(question: bytes, truncated: bool) -> bytes:
        end = question.index(b"\0", 12) + 5
        is_a = question[end - 4 : end - 2] == b"\0\1" and not truncated
        flags = b"\x83\x80" if truncated else b"\x81\x80"
        head = question[:2] + flags + b"\0\1" + (b"\0\1" if is_a else b"\0\0") + b"\0\0\0\0"
        record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4\x7f\0\0\1" if is_a else b""
        return head + question[12:end] + record

    def _serve_udp(self) -> None:
        while True:
            try:
                question, client = self.udp.recvfrom(512)
            except OSError:
                return
            self.asked["udp"] += 1
            self.udp.sendto(self._answer(question, True), client)

    def _serve_tcp(self) -> None:
        while True:
            try:
                client = self.tcp.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._serve_one, args=(client,), daemon=True).start()

    def _serve_one(self, client: socket.socket) -> None:
        with client:
            while size := client.recv(2, socket.MSG_WAITALL):
                question = client.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL)
                self.asked["tcp"] += 1
                answer = self._answer(question, False)
                client.sendall(len(answer).to_bytes(2, "big") + answer)

    def close(self) -> None:
        for sock in (self.udp, self.tcp):
            sock.close()
