"""Runs a program in which one system call fails with EPERM, as in many containers, or with another error.

    without_call.py CALL[:ERROR] PROGRAM ARGUMENT...   CALL is a key of CALLS; ERROR as ENOSYS, or KILL
    without_call.py linux-4.18 PROGRAM ARGUMENT...     no call that is newer than that kernel (ENOSYS)
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
IORING_REGISTER_RESTRICTIONS = 11
# The number, and what its second argument has to be where that matters.
CALLS: dict[str, tuple[int, int | None]] = {
    "io_uring_setup": (425, None),  # The same on every architecture.
    "io_uring_restrictions": (427, IORING_REGISTER_RESTRICTIONS),
    "landlock_create_ruleset": (444, None),
    "seccomp": (317 if platform.machine() == "x86_64" else 277, None),
}
# The last system call of a kernel: numbers only grow.
LAST_CALL = {"linux-4.18": 334 if platform.machine() == "x86_64" else 293}  # rseq
LOAD_WORD, JUMP_IF_EQUAL, JUMP_IF_GREATER, RETURN = 0x20, 0x15, 0x25, 0x06
SECOND_ARGUMENT = 24  # in struct seccomp_data, its lower half
RET_ALLOW, RET_ERRNO, RET_KILL = 0x7FFF0000, 0x00050000, 0x80000000


class Program(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def apply(instructions: list[tuple[int, int, int, int]]) -> None:
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    program = Program(len(instructions), code)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs")
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program)) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


def forbid(number: int, second: int | None, verdict: int) -> None:
    compare = []
    if second is not None:
        compare = [(LOAD_WORD, 0, 0, SECOND_ARGUMENT), (JUMP_IF_EQUAL, 0, 1, second)]
    apply([
        (LOAD_WORD, 0, 0, 0),
        (JUMP_IF_EQUAL, 0, 1 + len(compare), number),
        *compare,
        (RETURN, 0, 0, verdict),
        (RETURN, 0, 0, RET_ALLOW),
    ])


def forbid_above(last: int) -> None:
    apply([
        (LOAD_WORD, 0, 0, 0),
        (JUMP_IF_GREATER, 0, 1, last),
        (RETURN, 0, 0, RET_ERRNO | errno.ENOSYS),
        (RETURN, 0, 0, RET_ALLOW),
    ])


if __name__ == "__main__":
    CALL, _, ERROR = sys.argv[1].partition(":")
    if CALL in LAST_CALL:
        forbid_above(LAST_CALL[CALL])
    else:
        forbid(*CALLS[CALL], RET_KILL if ERROR == "KILL" else RET_ERRNO | getattr(errno, ERROR or "EPERM"))
    os.execvp(sys.argv[2], sys.argv[2:])
