"""Makes a thread of a running process call the kernel, as code that took the process over would.

The tracer of ptrace(2) puts `syscall; int3` where the process began, which nothing runs any more,
and lets one stopped thread go through it with registers of its choice.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

POSSIBLE = platform.machine() == "x86_64" and os.geteuid() == 0

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.ptrace.restype = ctypes.c_long
_LIBC.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_CONT, _GETREGS, _SETREGS, _ATTACH, _DETACH = 7, 12, 13, 16, 17
_WALL = 0x40000000
_SYSCALL_INT3 = b"\x0f\x05\xcc"

NUMBERS = {
    name: int(number)
    for name, number in (
        entry.split("=")
        for entry in """
    open=2 mprotect=10 mmap=9 ioctl=16 getppid=110 dup2=33 socket=41 connect=42 accept=43 bind=49
    listen=50 setsockopt=54 clone=56 fork=57 vfork=58 execve=59 kill=62 rename=82 mkdir=83 creat=85
    link=86 unlink=87 symlink=88 chmod=90 chown=92 ptrace=101 setuid=105 setgid=106 setgroups=116
    mknod=133 prctl=157 setrlimit=160 chroot=161 mount=165 tkill=200 tgkill=234 openat=257
    unshare=272 accept4=288 memfd_create=319 seccomp=317 bpf=321 execveat=322
    process_vm_readv=310 process_vm_writev=311 setns=308 perf_event_open=298 capset=126 clone3=435
    sendto=44 landlock_create_ruleset=444 landlock_add_rule=445 landlock_restrict_self=446
    io_uring_setup=425 io_uring_enter=426 io_uring_register=427 epoll_wait=232 epoll_ctl=233
    epoll_pwait=281 timerfd_settime=286 pidfd_open=434 pidfd_getfd=438 openat2=437 getpid=39
    """.split()
    )
}


class Registers(ctypes.Structure):
    """struct user_regs_struct"""

    _fields_ = [
        (name, ctypes.c_ulonglong)
        for name in "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags"
        " rsp ss fs_base gs_base ds es fs gs".split()
    ]


class Killed(Exception):
    """The thread, and with it the process, did not survive the call."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


def threads(pid: int) -> list[int]:
    return sorted(int(name) for name in os.listdir(f"/proc/{pid}/task"))


def _ptrace(request: int, tid: int, data: object = None) -> None:
    if _LIBC.ptrace(request, tid, None, data) < 0:
        raise OSError(ctypes.get_errno(), f"ptrace {request}")


def _entry_point(pid: int) -> int:
    """Where the program began."""
    header = Path(f"/proc/{pid}/exe").read_bytes()[:64]
    kind = struct.unpack_from("<H", header, 16)[0]
    entry = struct.unpack_from("<Q", header, 24)[0]
    if kind == 2:  # ET_EXEC
        return entry
    program = os.readlink(f"/proc/{pid}/exe")
    for line in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines():
        fields = line.split()
        if fields[-1] == program and int(fields[2], 16) == 0:
            return int(fields[0].split("-")[0], 16) + entry
    raise AssertionError("the program is not mapped")


class Intruder:
    """One thread in our hands, stopped between calls."""

    def __init__(self, pid: int, tid: int) -> None:
        self.tid = tid
        self._entry = _entry_point(pid)
        self._memory = os.open(f"/proc/{pid}/mem", os.O_RDWR)
        os.pwrite(self._memory, _SYSCALL_INT3, self._entry)
        _ptrace(_ATTACH, tid)
        self._wait(signal.SIGSTOP)
        self._saved = Registers()
        _ptrace(_GETREGS, tid, ctypes.byref(self._saved))

    def _wait(self, wanted: int) -> None:
        """Until the thread stops with that signal; hands it every other one."""
        while True:
            status = os.waitpid(self.tid, _WALL)[1]
            if os.WIFSIGNALED(status):
                raise Killed(os.WTERMSIG(status))
            assert os.WIFSTOPPED(status), f"unexpected end {status:#x}"
            got = os.WSTOPSIG(status)
            if got == wanted:
                return
            _ptrace(_CONT, self.tid, got)

    def call(self, name: str, *args: int | bytes) -> int:
        """The result of the system call, negative errno and all."""
        registers = Registers.from_buffer_copy(self._saved)
        at = self._saved.rsp - 8192
        values = []
        for arg in args:
            if isinstance(arg, bytes):
                os.pwrite(self._memory, arg + b"\0", at)
                values.append(at)
                at += (len(arg) + 16) // 16 * 16
            else:
                values.append(arg & 0xFFFFFFFFFFFFFFFF)
        values += [0] * (6 - len(values))
        for register, value in zip(("rdi", "rsi", "rdx", "r10", "r8", "r9"), values):
            setattr(registers, register, value)
        registers.rax = NUMBERS[name]
        registers.orig_rax = 0xFFFFFFFFFFFFFFFF  # nothing to restart
        registers.rip = self._entry
        registers.rsp = (self._saved.rsp - 65536) & ~0xF
        _ptrace(_SETREGS, self.tid, ctypes.byref(registers))
        _ptrace(_CONT, self.tid)
        self._wait(signal.SIGTRAP)
        _ptrace(_GETREGS, self.tid, ctypes.byref(registers))
        return ctypes.c_longlong(registers.rax).value

    def leave(self) -> None:
        _ptrace(_SETREGS, self.tid, ctypes.byref(self._saved))
        _ptrace(_DETACH, self.tid)

    def close(self) -> None:
        os.close(self._memory)


@contextmanager
def intruder(pid: int, tid: int | None = None) -> Iterator[Intruder]:
    """In the thread, or in the last one, and out again unless it died."""
    inside = Intruder(pid, tid or threads(pid)[-1])
    dead = False
    try:
        yield inside
    except Killed:
        dead = True
        raise
    finally:
        if not dead:
            inside.leave()
        inside.close()
