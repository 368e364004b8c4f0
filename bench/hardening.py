"""Counts what the exploit mitigations of the release build cost: each by itself, and all of them.

    bench/hardening.py [--directory BUILD]

Builds virtproxy-instructions once for each row (build/hardening/ROW), counts every case of
bench/instructions.py, and prints a table of the growth over a build that has none of them. The
counts do not depend on how busy the machine is.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

from instructions import measure

ROOT = Path(__file__).resolve().parent.parent
NONE = "none"
# Debian's compiler makes position independent programs unless told otherwise, so that the row that has
# another kind asks for it. Level 3 is not among the flags of the build.
COMPILE = {
    NONE: "",
    "-fno-pie": "-fno-pie -no-pie",
    "-fstack-protector-strong": "-fstack-protector-strong",
    "-fstack-clash-protection": "-fstack-clash-protection",
    "-fcf-protection=full": "-fcf-protection=full",
    "-D_FORTIFY_SOURCE=2": "-D_FORTIFY_SOURCE=2",
    "-D_FORTIFY_SOURCE=3": "-D_FORTIFY_SOURCE=3",
    "-D_GLIBCXX_ASSERTIONS": "-D_GLIBCXX_ASSERTIONS",
    "-ftrivial-auto-var-init=zero": "-ftrivial-auto-var-init=zero",
    "-z relro -z now": "-Wl,-z,relro,-z,now",
}
ALL = "all of them"


def build(directory: Path, number: int, flags: str, hardened: bool) -> Path:
    place = directory / str(number)
    quietly("cmake", "--preset", "release", "-B", str(place), f"-DCMAKE_CXX_FLAGS={flags}",
            f"-DVIRTPROXY_HARDEN={'ON' if hardened else 'OFF'}", "-DVIRTPROXY_TESTS=OFF")
    quietly("cmake", "--build", str(place), "-j2", "--target", "virtproxy-instructions")
    return place / "bin" / "virtproxy-instructions"


def quietly(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stdout}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench/hardening.py")
    parser.add_argument("--directory", type=Path, default=ROOT / "build" / "hardening")
    options = parser.parse_args()
    counted = {}
    for number, (name, flags) in enumerate([*COMPILE.items(), (ALL, "")]):
        program = build(options.directory, number, flags, name == ALL)
        counted[name] = {case: row["instructions"] for case, row in measure(str(program)).items()}
        print(f"counted: {name}", file=sys.stderr, flush=True)
    cases = list(counted[NONE])
    print("| flag | median | least | most |", "|---|---|---|---|", sep="\n")
    for name, figures in counted.items():
        if name == NONE:
            continue
        growth = {case: figures[case] / counted[NONE][case] - 1 for case in cases}
        least, most = min(growth, key=growth.get), max(growth, key=growth.get)
        print(f"| `{name}` | {statistics.median(growth.values()):+.1%} "
              f"| {growth[least]:+.1%} ({least}) | {growth[most]:+.1%} ({most}) |")
    print()
    print("| case |", " | ".join(f"`{name}`" for name in counted), "|")
    print("|---" * (len(counted) + 1) + "|")
    for case in cases:
        print(f"| {case} |", " | ".join(f"{figures[case]:,.1f}" for figures in counted.values()), "|")


if __name__ == "__main__":
    main()
