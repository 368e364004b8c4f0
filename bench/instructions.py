"""Holds the number of instructions that the core executes for a frame, a byte or a stream.

    bench/instructions.py PROGRAM            compares with bench/instructions.json
    bench/instructions.py PROGRAM --renew    writes that file anew

PROGRAM is virtproxy-instructions of a release build. Every case runs twice under callgrind, with
two counts; the difference is the work alone. The counts do not depend on how busy the machine
is. They do depend on the compiler: figures of another one are held to a wider bound, and it says so.

Exit status: 0 nothing grew beyond its bound, 1 something did, 2 it could not be measured.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import re
import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).resolve().with_name("instructions.json")
BOUND = 0.02
BOUND_OF_ANOTHER_COMPILER = 0.30
PATIENCE = 120  # seconds for one run
SHRUNK = 0.01  # from here on it is worth a word
# A byte is counted in thousands: the checksum works on whole blocks.
COUNTS = {"byte": (1 << 20, 3 << 20), "stream": (200, 600)}
COUNTS_OF_THE_REST = (4000, 12000)
# Valgrind shows the program the processor that it runs on; this keeps the C library from choosing
# its functions by that.
PLAIN_LIBRARY = ("glibc.cpu.hwcaps=-AVX2,-AVX,-AVX512F,-AVX512VL,-ERMS,-FSRM,"
                 "-AVX_Fast_Unaligned_Load,-Fast_Unaligned_Copy")


class CannotMeasure(Exception):
    pass


def output_of(command: list[str]) -> str:
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              env={"PATH": os.environ.get("PATH", ""),
                                   "GLIBC_TUNABLES": PLAIN_LIBRARY},
                              timeout=PATIENCE, check=False)
    except OSError as error:
        raise CannotMeasure(f"{command[0]}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise CannotMeasure(f"{' '.join(command)}: not over after {PATIENCE} s") from None
    if done.returncode != 0:
        raise CannotMeasure(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def instructions(program: str, case: str, count: int) -> int:
    said = output_of(["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", program,
                      case, str(count)])
    found = re.search(r"Collected : (\d+)", said)
    if not found:
        raise CannotMeasure(f"callgrind did not say how much it collected:\n{said}")
    return int(found.group(1))


def measure(program: str) -> dict[str, dict]:
    """Instructions of each case, by its unit."""
    units = dict(line.split() for line in output_of([program, "--cases"]).splitlines())
    runs = [(case, count) for case, unit in units.items()
            for count in COUNTS.get(unit, COUNTS_OF_THE_REST)]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        counted = dict(zip(runs, pool.map(lambda run: instructions(program, *run), runs)))
    found = {}
    for case, unit in units.items():
        few, many = COUNTS.get(unit, COUNTS_OF_THE_REST)
        each = (counted[case, many] - counted[case, few]) / (many - few)
        found[case] = {"unit": unit, "instructions": round(each, 3)}
    return found


def judge(kept: dict, found: dict, bound: float) -> tuple[list[str], bool]:
    """A line for each case, and whether all are within the bound."""
    lines, good = [], True
    for case in sorted(kept.keys() | found.keys()):
        if case not in found or case not in kept:
            lines.append(f"{case:32} is {'gone' if case not in found else 'new'}")
            good = False
            continue
        before, now = kept[case]["instructions"], found[case]["instructions"]
        growth = now / before - 1
        word = ""
        if growth > bound:
            word, good = f"  GREW beyond {bound:.0%}", False
        elif growth < -SHRUNK:
            word = "  fewer than before: worth keeping"
        lines.append(f"{case:32}{now:12,.2f} a {found[case]['unit']:7}{before:12,.2f} kept"
                     f"{growth:+9.1%}{word}")
    return lines, good


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench/instructions.py")
    parser.add_argument("program")
    parser.add_argument("--renew", action="store_true")
    options = parser.parse_args(arguments)
    try:
        compiler = output_of([options.program, "--compiler"]).strip()
        found = measure(options.program)
    except CannotMeasure as error:
        print(error, file=sys.stderr)
        return 2
    if options.renew:
        FILE.write_text(json.dumps({"compiler": compiler, "cases": found}, indent=1) + "\n")
        print(f"written: {FILE.name}, {len(found)} cases")
        return 0
    kept = json.loads(FILE.read_text())
    bound = BOUND
    if kept["compiler"] != compiler:
        bound = BOUND_OF_ANOTHER_COMPILER
        print(f"ANOTHER COMPILER: the figures kept are of {kept['compiler']}, this program is of\n"
              f"{compiler}. Growth is held to {bound:.0%} only; renew the file for {BOUND:.0%}.\n")
    lines, good = judge(kept["cases"], found, bound)
    print("\n".join(lines))
    if not good:
        print(f"\nIf that is meant: /usr/bin/python3 bench/instructions.py {options.program} "
              "--renew, and say why in the commit.")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
