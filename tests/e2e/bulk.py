"""Reads a bulk stream as fast as it comes and says, again and again, how much that was so far.

    bulk.py ADDRESS     host:port or a unix path; a line {"at": SECONDS, "bytes": N} every 25 ms
"""

from __future__ import annotations

import sys
import time

from party import connect

INTERVAL = 0.025


def main(address: str) -> None:
    sock = connect(address)
    sock.settimeout(INTERVAL)
    buffer = bytearray(1 << 20)
    total = 0
    due = time.monotonic()
    while True:
        try:
            count = sock.recv_into(buffer)
            if count == 0:
                raise EOFError("the stream has ended")
            total += count
        except TimeoutError:
            pass
        now = time.monotonic()
        if now >= due:
            print(f'{{"at": {now:.6f}, "bytes": {total}}}', flush=True)
            due = now + INTERVAL


if __name__ == "__main__":
    main(sys.argv[1])
