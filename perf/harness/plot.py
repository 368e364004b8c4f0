"""Bars with their spread, as SVG of our own: one small panel for each load."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

from figures import FIGURES, Spread
from loads import Load

WIDTH = 1080
COLUMNS = 2
GAP = 28
LABELS = 150  # width of the names
ROW = 17
HEAD = 44
CAP = 2.5  # times the middle bar, or ours: what is longer is cut
FONT = "font-family='DejaVu Sans, Verdana, sans-serif'"
OURS, MULTIPLEXER, RELAY, FLOOR = "#c8452d", "#6b7fa3", "#9aa7b8", "#c9ced6"


def text(x: float, y: float, words: str, size: int = 11, anchor: str = "start",
         colour: str = "#222", weight: str = "normal") -> str:
    return (f"<text x='{x:.1f}' y='{y:.1f}' font-size='{size}' text-anchor='{anchor}' "
            f"fill='{colour}' font-weight='{weight}' {FONT}>{html.escape(words)}</text>")


def rectangle(x: float, y: float, width: float, height: float, colour: str) -> str:
    return (f"<rect x='{x:.1f}' y='{y:.1f}' width='{max(width, 0):.1f}' height='{height:.1f}' "
            f"fill='{colour}'/>")


def line(x1: float, y1: float, x2: float, y2: float) -> str:
    return (f"<line x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}' stroke='#222' "
            "stroke-width='1'/>")


def short(value: float) -> str:
    """Three digits that matter."""
    if value >= 1000:
        return f"{value:,.0f}"
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:.{min(digits, 4)}f}"


def axis(bars: Sequence[tuple[str, Spread, str]]) -> float:
    """The longest bar that is drawn whole: a few that are far off must not hide the others."""
    medians = sorted(spread.median for _, spread, _ in bars)
    ours = max((spread.median for _, spread, colour in bars if colour == OURS), default=0)
    return min(medians[-1], CAP * max(ours, medians[len(medians) // 2])) or 1


def panel(x: float, y: float, width: float, heading: str, note: str,
          bars: Sequence[tuple[str, Spread, str]]) -> str:
    parts = [text(x, y + 14, heading, 13, weight="bold"), text(x, y + 30, note, 10, colour="#666")]
    room = width - LABELS - 64
    most = axis(bars)
    scale = room / most
    for at, (name, spread, colour) in enumerate(bars):
        top = y + HEAD + at * ROW
        middle = top + (ROW - 4) / 2
        parts.append(text(x + LABELS - 6, top + 10, name, 11, "end",
                          weight="bold" if colour == OURS else "normal"))
        shown, end = min(spread.median, most), min(spread.most, most * 1.04)
        parts.append(rectangle(x + LABELS, top, shown * scale, ROW - 4, colour))
        if spread.median > most:  # does not fit: a gap says so
            parts.append(rectangle(x + LABELS + room * 0.9, top, 4, ROW - 4, "white"))
        else:
            parts.append(line(x + LABELS + spread.least * scale, middle, x + LABELS + end * scale,
                              middle))
        parts.append(text(x + LABELS + max(shown, end) * scale + 5, top + 10,
                          short(spread.median), 10, colour="#444"))
    return "".join(parts)


def document(height: float, parts: Sequence[str]) -> str:
    return (f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height:.0f}' "
            f"width='{WIDTH}' height='{height:.0f}'>"
            f"<rect width='{WIDTH}' height='{height:.0f}' fill='white'/>"
            + "\n".join(parts) + "</svg>\n")


def colour_of(name: str, subject: str, kinds: Mapping[str, str], floor: Sequence[str]) -> str:
    if name == subject:
        return OURS
    if name in floor:
        return FLOOR
    return MULTIPLEXER if kinds.get(name) == "multiplexer" else RELAY


def compare(results: Mapping, loads: Sequence[Load], placement: str) -> str:
    """One placement's main figures."""
    kinds = {peer["name"]: peer["kind"] for peer in results["peers"]}
    floor = [peer["name"] for peer in results["peers"] if peer.get("floor")]
    width = (WIDTH - GAP * (COLUMNS + 1)) / COLUMNS
    bottoms = [72.0] * COLUMNS
    parts = [
        text(GAP, 28, f"virtproxy beside the others, {placement}", 17, weight="bold"),
        text(GAP, 48, f"{results['date']}, {results['machine']['cpus']} CPUs, Linux "
             f"{results['machine']['kernel']}; medians of {results['rounds']} rounds, lines from "
             "the least to the most", 11, colour="#666"),
    ]
    for at, (words, colour) in enumerate((("virtproxy", OURS), ("other multiplexers", MULTIPLEXER),
                                          ("relays", RELAY), ("minimal relays", FLOOR))):
        left = WIDTH - GAP - 540 + at * 145
        parts += [rectangle(left, 20, 10, 10, colour), text(left + 15, 29, words, 11)]
    for load in loads:
        figure = FIGURES[load.figures[0]]
        rows = [row for row in results["summary"] if row["load"] == load.name
                and row["placement"] == placement and figure.name in row["figures"]]
        bars = [(row["contestant"], Spread.from_json(row["figures"][figure.name]),
                 colour_of(row["contestant"], load.subject, kinds, floor)) for row in rows]
        if not bars:
            continue
        bars.sort(key=lambda bar: bar[1].median, reverse=not figure.lower_is_better)
        column = bottoms.index(min(bottoms))
        better = "less is better" if figure.lower_is_better else "more is better"
        parts.append(panel(GAP + column * (width + GAP), bottoms[column], width, load.title,
                           f"{figure.title}; {better}", bars))
        bottoms[column] += HEAD + len(bars) * ROW + 22
    return document(max(bottoms), parts)
