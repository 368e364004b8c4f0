"""Runs a program under a seccomp profile of the OCI form, as a container engine would apply it.

    under_profile.py [--allow CALL,CALL] [--root DIRECTORY] [--user UID:GID] PROFILE PROGRAM ARGUMENT...

Rules for capabilities are left out: the program is to have none. With --root the program sees that directory
only, as the only user.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import json
import os
import platform
from pathlib import Path

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
COMPARISONS = {"SCMP_CMP_NE": 1, "SCMP_CMP_LT": 2, "SCMP_CMP_LE": 3, "SCMP_CMP_EQ": 4, "SCMP_CMP_GE": 5,
               "SCMP_CMP_GT": 6, "SCMP_CMP_MASKED_EQ": 7}
NOT_THERE = -1  # __NR_SCMP_ERROR


class Comparison(ctypes.Structure):
    """struct scmp_arg_cmp"""

    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


def action(name: str, error: int | None) -> int:
    match name:
        case "SCMP_ACT_ALLOW":
            return 0x7FFF0000
        case "SCMP_ACT_ERRNO":
            return 0x00050000 | (errno.EPERM if error is None else error)
        case "SCMP_ACT_KILL_PROCESS":
            return 0x80000000
        case _:
            raise ValueError(f"unknown action {name}")


def concerns_us(rule: dict) -> bool:
    """Whether a rule is for a process of this architecture without capabilities, on a kernel of today."""
    wanted, unwanted = rule.get("includes") or {}, rule.get("excludes") or {}
    if wanted.get("caps") or ARCHITECTURE not in wanted.get("arches", [ARCHITECTURE]):
        return False
    return ARCHITECTURE not in unwanted.get("arches", [])


def apply(library: ctypes.CDLL, profile: dict, allowed: list[str]) -> None:
    library.seccomp_init.restype = ctypes.c_void_p
    otherwise = action(profile["defaultAction"], profile.get("defaultErrnoRet"))
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(otherwise)))

    def add(name: str, verdict: int, comparisons: list[Comparison]) -> None:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number == NOT_THERE or verdict == otherwise:
            return  # newer than the library: the default takes it
        array = (Comparison * len(comparisons))(*comparisons)
        result = library.seccomp_rule_add_array(context, ctypes.c_uint32(verdict), number, len(array), array)
        if result not in (0, -errno.EEXIST):
            raise OSError(-result, f"rule for {name}")

    for rule in profile["syscalls"]:
        if not concerns_us(rule):
            continue
        comparisons = [Comparison(each["index"], COMPARISONS[each["op"]], each["value"], each.get("valueTwo", 0))
                       for each in rule.get("args") or []]
        for name in rule["names"]:
            add(name, action(rule["action"], rule.get("errnoRet")), comparisons)
    for name in allowed:
        add(name, action("SCMP_ACT_ALLOW", None), [])
    if result := library.seccomp_load(context):
        raise OSError(-result, "seccomp_load")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("profile", type=Path)
    parser.add_argument("--allow", default="")
    parser.add_argument("--root")
    parser.add_argument("--user")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    profile = json.loads(options.profile.read_text(encoding="utf-8"))
    library = ctypes.CDLL("libseccomp.so.2", use_errno=True)  # while it can be found
    if options.root:
        os.chroot(options.root)
        os.chdir("/")
    if options.user:
        uid, gid = map(int, options.user.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    apply(library, profile, [name for name in options.allow.split(",") if name])
    os.execv(options.command[0], options.command)
