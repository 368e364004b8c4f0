"""Figures, their medians and spreads, and ratios of runs that were taken side by side."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    name: str
    title: str
    lower_is_better: bool
    digits: int  # after the point in tables


FIGURES = {
    figure.name: figure
    for figure in (
        Figure("gb_per_s", "GB/s", False, 2),
        Figure("cpu_per_gb", "CPU-s per GB", True, 3),
        Figure("messages_per_s", "per second", False, 0),
        Figure("cpu_us_per_message", "us CPU each", True, 2),
        Figure("p50_us", "p50 us", True, 0),
        Figure("p99_us", "p99 us", True, 0),
        Figure("bulk_share", "bulk, of its solo rate", False, 2),
        Figure("thread_balance", "least / most busy thread", False, 2),
        Figure("lines_per_s", "lines per second", False, 0),
        Figure("mb_per_s", "MB/s", False, 1),
        Figure("cpu_us_per_line", "us CPU a line", True, 2),
        Figure("lost_lines", "lost", True, 0),
        Figure("age_p50_us", "age p50 us", True, 0),
        Figure("age_p99_us", "age p99 us", True, 0),
        Figure("peak_rss_mb", "MB resident at most", True, 1),
    )
}


def figures_of(report: Mapping) -> dict[str, float]:
    """What a report of virtproxy-bench says, under our names."""
    found = {"gb_per_s": report["bytes_per_second"] / 1e9} if report["bytes"]["total"] else {}
    total = report.get("processes_total", {})
    if report["mode"] in ("bulk", "mixed") and "cpu_seconds_per_gb" in total:
        found["cpu_per_gb"] = total["cpu_seconds_per_gb"]
    if report["mode"] in ("ping-pong", "one-way", "churn"):
        found["messages_per_s"] = report["messages_per_second"]
        found["cpu_us_per_message"] = total.get("cpu_us_per_message", 0.0)
    if "latency_ns" in report:
        found["p50_us"] = report["latency_ns"]["p50"] / 1e3
        found["p99_us"] = report["latency_ns"]["p99"] / 1e3
    return found


@dataclass(frozen=True)
class Spread:
    median: float
    least: float
    most: float
    count: int

    @staticmethod
    def of(values: Iterable[float]) -> Spread | None:
        taken = list(values)
        if not taken:
            return None
        return Spread(statistics.median(taken), min(taken), max(taken), len(taken))

    def to_json(self) -> dict:
        return {"median": self.median, "min": self.least, "max": self.most, "count": self.count}

    @staticmethod
    def from_json(json: Mapping) -> Spread:
        return Spread(json["median"], json["min"], json["max"], json["count"])


@dataclass
class Run:
    """One measurement."""

    load: str
    placement: str
    contestant: str
    round: int
    figures: dict[str, float]
    noise: list[str]  # why not to believe it; empty: quiet
    failure: str | None = None

    def to_json(self) -> dict:
        return dict(self.__dict__)


class Runs:
    """All measurements of one load in one placement."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self._runs = list(runs)

    def contestants(self) -> list[str]:
        return list(dict.fromkeys(run.contestant for run in self._runs))

    def failure(self, contestant: str) -> str | None:
        return next((run.failure for run in self._of(contestant) if run.failure), None)

    def noisy(self, contestant: str | None = None) -> int:
        return sum(bool(run.noise) for run in self._of(contestant))

    def count(self, contestant: str | None = None) -> int:
        return len(self._of(contestant))

    def spread(self, contestant: str, figure: str) -> Spread | None:
        return Spread.of(self._values(contestant, figure).values())

    def ratio(self, subject: str, reference: str, figure: str) -> Spread | None:
        """Of the subject to the reference, round by round."""
        ours, theirs = self._values(subject, figure), self._values(reference, figure)
        return Spread.of(ours[at] / theirs[at] for at in ours if theirs.get(at))

    def best(self, contestants: Iterable[str], figure: str) -> str | None:
        """The one with the best median."""
        medians = {name: spread.median for name in contestants
                   if (spread := self.spread(name, figure)) is not None}
        if not medians:
            return None
        choose = min if FIGURES[figure].lower_is_better else max
        return choose(medians, key=lambda name: medians[name])

    def _of(self, contestant: str | None) -> list[Run]:
        return [run for run in self._runs if contestant in (None, run.contestant)]

    def _values(self, contestant: str, figure: str) -> dict[int, float]:
        return {run.round: run.figures[figure] for run in self._of(contestant)
                if run.failure is None and figure in run.figures}
