"""A receiver of Fluent forward with a file: a chunk is acknowledged when its records are written.

    forward_receiver.py PORT FILE

A program of its own, so that it can be killed. The file has the fields of each record as a line of JSON.
"""

from __future__ import annotations

import base64
import json
import socket
import sys
import threading

import msgpack


def plain(fields: dict) -> dict:
    """As the JSON of a file has it: bytes that are no text under another name."""
    return {
        f"{name}_base64" if isinstance(value, bytes) else name:
        base64.b64encode(value).decode() if isinstance(value, bytes) else value
        for name, value in fields.items()
    }


def serve(connection: socket.socket, out, lock: threading.Lock) -> None:
    unpacker = msgpack.Unpacker(raw=False, max_buffer_size=1 << 26)
    while piece := connection.recv(1 << 18):
        unpacker.feed(piece)
        for _, packed, options in unpacker:
            entries = msgpack.Unpacker(raw=False, max_buffer_size=1 << 26)
            entries.feed(packed)
            text = "".join(json.dumps(plain(fields)) + "\n" for _, fields in entries)
            with lock:
                out.write(text.encode())
                out.flush()
            connection.sendall(msgpack.packb({"ack": options["chunk"]}))


def main() -> None:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", int(sys.argv[1])))
    listener.listen()
    lock = threading.Lock()
    with open(sys.argv[2], "ab") as out:
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0], out, lock), daemon=True).start()


if __name__ == "__main__":
    main()
