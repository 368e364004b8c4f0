"""Sampled call stacks: reading them, adding them up, and drawing them.

A stack is a tuple of function names from the outermost to the innermost.
"""

from __future__ import annotations

import collections
import html
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

Stack = tuple[str, ...]
Folded = dict[Stack, int]

WIDTH = 1200
ROW = 16
LEAST = 1.0  # narrower than so many pixels is not drawn
LETTER = 6.3  # pixels
_FRAME = re.compile(r"^\s+[0-9a-f]+ (.*) \((\S+)\)$")
_OFFSET = re.compile(r"\+0x[0-9a-f]+$")


def is_kernel(place: str) -> bool:
    return place.startswith("[") and place not in ("[vdso]", "[unknown]")


def short_name(symbol: str, place: str) -> str:
    """Without offset, arguments and our own namespace."""
    symbol = _OFFSET.sub("", symbol)
    if symbol == "[unknown]":
        return f"[{place.rsplit('/', 1)[-1].strip('[]')}]"
    depth, name = 0, []
    for letter in symbol.replace("(anonymous namespace)::", ""):
        if letter in "(<":
            depth += 1
        if depth == 0:
            name.append(letter)
        if letter in ")>":
            depth -= 1
    text = "".join(name).strip().removesuffix(" const")
    text = text.replace("virtproxy::", "").rsplit(" ", 1)[-1]
    # What the compiler split off a function is that function.
    return re.sub(r"\.(isra|constprop|part|cold)\b.*$", "", text) or symbol


def read_samples(lines: Iterable[str], name_of: Callable[[int], str]) -> Iterator[Stack]:
    """Stacks in what `perf script -F pid,ip,sym,dso` prints; the process's name is the outermost.

    A sample begins with the pid, then come its frames from the innermost, then an empty line.
    Functions of the kernel are marked by a following "_[k]".
    """
    pid, frames = None, []
    for line in itertools.chain(lines, [""]):
        frame = _FRAME.match(line)
        if frame and pid is not None:
            symbol, place = frame.groups()
            mark = "_[k]" if is_kernel(place) else ""
            frames.append(short_name(symbol, place) + mark)
        elif line.strip():
            pid = int(line.split()[0])
            frames = []
        else:
            if pid is not None and frames:
                yield (name_of(pid), *reversed(frames))
            pid, frames = None, []


def fold(stacks: Iterable[Stack]) -> Folded:
    return dict(collections.Counter(stacks))


def folded_text(folded: Mapping[Stack, int]) -> str:
    """One stack a line, as other tools read it."""
    return "".join(f"{';'.join(stack)} {count}\n" for stack, count in sorted(folded.items()))


def self_shares(folded: Mapping[Stack, int]) -> list[tuple[str, float]]:
    """How much of all samples ended in each function, most first."""
    total = sum(folded.values())
    counts: collections.Counter[str] = collections.Counter()
    for stack, count in folded.items():
        counts[stack[-1]] += count
    return [(name, count / total) for name, count in counts.most_common()]


def shares_of(folded: Mapping[Stack, int],
              classify: Callable[[Stack], str]) -> list[tuple[str, float]]:
    """How much of all samples belongs to each class, most first."""
    total = sum(folded.values())
    counts: collections.Counter[str] = collections.Counter()
    for stack, count in folded.items():
        counts[classify(stack)] += count
    return [(name, count / total) for name, count in counts.most_common()]


class Node:
    def __init__(self) -> None:
        self.count = 0
        self.children: dict[str, Node] = {}

    @staticmethod
    def of(folded: Mapping[Stack, int]) -> Node:
        root = Node()
        for stack, count in folded.items():
            node = root
            node.count += count
            for name in stack:
                node = node.children.setdefault(name, Node())
                node.count += count
        return root

    def depth(self) -> int:
        return 1 + max((child.depth() for child in self.children.values()), default=0)


def colour(name: str) -> str:
    """Kernel, our own code and the rest in their own hues; shades tell neighbours apart."""
    shade = sum(map(ord, name)) % 30
    if name.endswith("_[k]"):
        return f"rgb({225 + shade},{165 + shade},{110 + shade})"
    if "::" in name:
        return f"rgb({200 + shade},{95 + shade},{75 + shade})"
    return f"rgb({165 + shade},{180 + shade},{205 + shade})"


def draw(folded: Mapping[Stack, int], heading: str) -> str:
    """An SVG: width is share of CPU, callers below, what they call above."""
    root = Node.of(folded)
    height = (root.depth() + 3) * ROW
    font = "font-family='DejaVu Sans Mono, monospace' font-size='10.5'"
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' "
        f"width='{WIDTH}' height='{height}'><rect width='{WIDTH}' height='{height}' fill='white'/>"
        f"<text x='8' y='16' {font}>{html.escape(heading)}; orange: kernel, red: virtproxy</text>"]

    def place(node: Node, name: str, x: float, level: int) -> None:
        width = node.count / root.count * WIDTH
        if width < LEAST:
            return
        y = height - (level + 1) * ROW
        shown = name.removesuffix("_[k]")
        share = f"{node.count / root.count:.1%}"
        parts.append(f"<g><title>{html.escape(shown)}, {share}</title><rect x='{x:.1f}' y='{y}' "
                     f"width='{max(width - 0.4, 0.3):.1f}' height='{ROW - 1}' "
                     f"fill='{colour(name)}'/>")
        room = int(width / LETTER) - 1
        if room >= 3:
            words = shown if len(shown) <= room else shown[:room - 1] + "…"
            parts.append(f"<text x='{x + 3:.1f}' y='{y + 11}' {font}>{html.escape(words)}</text>")
        parts.append("</g>")
        for child_name, child in sorted(node.children.items()):
            place(child, child_name, x, level + 1)
            x += child.count / root.count * WIDTH

    at = 0.0
    for name, child in sorted(root.children.items()):
        place(child, name, at, 0)
        at += child.count / root.count * WIDTH
    return "\n".join([*parts, "</svg>"]) + "\n"
