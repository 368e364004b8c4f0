"""Runs a program in which one system call fails with EPERM, as in many containers, or with another error.

    without_call.py CALL[:ERROR] PROGRAM ARGUMENT...   CALL is a key of CALLS, ERROR as ENOSYS
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
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
SECOND_ARGUMENT = 24  # in struct seccomp_data, its lower half
RET_ALLOW, RET_ERRNO = 0x7FFF0000, 0x00050000


class Program(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def forbid(number: int, second: int | None, error: int) -> None:
    compare = []
    if second is not None:
        compare = [(LOAD_WORD, 0, 0, SECOND_ARGUMENT), (JUMP_IF_EQUAL, 0, 1, second)]
    instructions = [
        (LOAD_WORD, 0, 0, 0),
        (JUMP_IF_EQUAL, 0, 1 + len(compare), number),
        *compare,
        (RETURN, 0, 0, RET_ERRNO | error),
        (RETURN, 0, 0, RET_ALLOW),
    ]
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    program = Program(len(instructions), code)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs")
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program)) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


if __name__ == "__main__":
    CALL, _, ERROR = sys.argv[1].partition(":")
    forbid(*CALLS[CALL], getattr(errno, ERROR or "EPERM"))
    os.execvp(sys.argv[2], sys.argv[2:])
