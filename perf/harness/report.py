"""Tables in Markdown, and the verdict on each goal, from what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from figures import FIGURES, Run, Runs, Spread
from loads import Goal, Load

PLOTS_HERE = "<!-- plots -->\n"


def number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"


def spread_text(spread: Spread | None, digits: int) -> str:
    if spread is None:
        return ""
    text = number(spread.median, digits)
    if spread.count > 1:
        text += f" ({number(spread.least, digits)}–{number(spread.most, digits)})"
    return text


def brief(load: Load, run: Run) -> str:
    """A run in one line, for whoever watches."""
    if run.failure is not None:
        return f"FAILED: {run.failure}"
    parts = [f"{number(run.figures[name], FIGURES[name].digits)} {FIGURES[name].title}"
             for name in load.figures if name in run.figures]
    noise = f"  [noisy: {'; '.join(run.noise)}]" if run.noise else ""
    return ", ".join(parts) + noise


def of(runs: Sequence[Run], load: Load, placement: str) -> Runs:
    return Runs(run for run in runs if run.load == load.name and run.placement == placement)


def summary(loads: Sequence[Load], placements: Sequence[str], runs: Sequence[Run]) -> list[dict]:
    """Each contestant's figures, and the ratio of the load's subject to it."""
    rows = []
    for load in loads:
        for placement in placements:
            taken = of(runs, load, placement)
            for name in taken.contestants():
                row = {"load": load.name, "placement": placement, "contestant": name,
                       "failure": taken.failure(name), "runs": taken.count(name),
                       "noisy": taken.noisy(name), "figures": {}, "ratios": {}}
                for figure in load.figures:
                    if (spread := taken.spread(name, figure)) is not None:
                        row["figures"][figure] = spread.to_json()
                    ratio = taken.ratio(load.subject, name, figure)
                    if name != load.subject and ratio is not None:
                        row["ratios"][figure] = ratio.to_json()
                rows.append(row)
    return rows


def judge(goal: Goal, load: Load, runs: Runs) -> dict | None:
    """A goal's verdict; None when what it needs was not measured."""
    if goal.references:
        reference = runs.best(goal.references, goal.figure)
        value = runs.ratio(load.subject, reference, goal.figure) if reference else None
    else:
        reference, value = None, runs.spread(load.subject, goal.figure)
    if value is None:
        return None
    return {"load": load.name, "figure": goal.figure, "reference": reference,
            "at_most": goal.at_most, "bound": goal.bound, "value": value.to_json(),
            "met": goal.met(value.median)}


def goals(loads: Sequence[Load], placements: Sequence[str], runs: Sequence[Run]) -> list[dict]:
    found = []
    for load in loads:
        for placement in placements:
            for goal in load.goals:
                verdict = judge(goal, load, of(runs, load, placement))
                if verdict is not None:
                    found.append({"placement": placement, **verdict})
    return found


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: int = 1) -> str:
    """A Markdown table; columns from `right` on are set to the right."""
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    rule = "|" + "|".join("---:" if at >= right else "---" for at in range(len(heads))) + "|"
    return "\n".join([line(heads), rule, *map(line, rows)]) + "\n"


def load_table(load: Load, rows: Sequence[Mapping], titles: Mapping[str, str]) -> str:
    main = load.figures[0]
    heads = ["", *(FIGURES[name].title for name in load.figures),
             f"{titles.get(load.subject, load.subject)} to it, {FIGURES[main].title}"]
    cells = []
    for row in rows:
        mark = " ~" if row["noisy"] * 2 > row["runs"] else ""
        title = titles.get(row["contestant"], row["contestant"]) + mark
        if row["failure"] and not row["figures"]:
            cells.append([title, f"failed: {row['failure']}"] + [""] * len(load.figures))
            continue
        line = [f"**{title}**" if row["contestant"] == load.subject else title]
        for name in load.figures:
            spread = row["figures"].get(name)
            line.append(spread_text(Spread.from_json(spread), FIGURES[name].digits)
                        if spread else "")
        ratio = row["ratios"].get(main)
        line.append(spread_text(Spread.from_json(ratio), 2) if ratio else "")
        cells.append(line)
    return table(heads, cells)


def goal_table(verdicts: Sequence[Mapping], loads: Mapping[str, Load],
               titles: Mapping[str, str]) -> str:
    rows = []
    for verdict in verdicts:
        figure = FIGURES[verdict["figure"]]
        reference = verdict["reference"]
        digits = 2 if reference else figure.digits
        what = figure.title if not reference else f"{figure.title}, of {titles[reference]}"
        sign = "≤" if verdict["at_most"] else "≥"
        rows.append([loads[verdict["load"]].title, what,
                     f"{sign} {number(verdict['bound'], digits)}", verdict["placement"],
                     spread_text(Spread.from_json(verdict["value"]), digits),
                     "yes" if verdict["met"] else "no"])
    return table(["load", "figure", "goal", "", "measured", "met"], rows, right=99)


def noise_text(runs: Sequence[Mapping]) -> list[str]:
    noisy = sum(bool(run["noise"]) for run in runs)
    if noisy == 0:
        return []
    loud = "**Do not believe these figures**: " if noisy * 2 > len(runs) else ""
    return [f"{loud}{noisy} of {len(runs)} runs were noisy. ~ marks rows of which most were.\n"]


def markdown(results: Mapping, loads: Sequence[Load]) -> str:
    machine = results["machine"]
    titles = {peer["name"]: peer["title"] for peer in results["peers"]}
    for load in loads:
        titles.update(load.titles())
    kind = "a virtual machine" if machine["virtual"] else "a machine"
    parts = [
        "# virtproxy beside what people would use instead\n",
        f"{results['date']}, {kind} with {machine['cpus']} CPUs ({machine['cpu']}), "
        f"{machine['memory_gib']} GiB, Linux {machine['kernel']}. "
        f"{results['rounds']} rounds of {results['seconds']:g} s, everybody in turn; medians, with "
        "the least and the most. CPU is that of both processes of a pair. A ratio is taken round "
        "by round.\n",
        "*pinned*: load, pair and sinks on one CPU; the pinned figures decide. *free*: nothing is "
        "pinned.\n",
    ]
    parts += noise_text(results["runs"])
    parts.append(PLOTS_HERE)
    verdicts = results["goals"]
    if verdicts:
        parts += ["## Goals\n", goal_table(verdicts, {load.name: load for load in loads}, titles)]
    for load in loads:
        for placement in ("pinned", "free"):
            rows = [row for row in results["summary"]
                    if row["load"] == load.name and row["placement"] == placement]
            if rows:
                parts += [f"## {load.title}, {placement}\n", load_table(load, rows, titles)]
    peers = [[peer["title"], peer["version"] or "–",
              "one channel for all" if peer["kind"] == "multiplexer" else "a connection a stream",
              peer["failure"] or ""] for peer in results["peers"]]
    parts += ["## Who took part\n", table(["", "version", "carries", "left out because"], peers,
                                          right=99)]
    return "\n".join(parts)


def guest_markdown(results: Mapping, loads: Sequence[Load]) -> str:
    """One table for all that went through the port: a row a load."""
    machine = results["machine"]
    rows = []
    for load in loads:
        figure = FIGURES[load.figures[0]]
        mine = {row["contestant"]: row for row in results["summary"] if row["load"] == load.name}
        noisy = [row for row in mine.values() if row["noisy"] * 2 > row["runs"]]
        cells = [load.title + (" ~" if noisy else ""), figure.title]
        for peer in results["peers"]:
            row = mine.get(peer["name"], {"figures": {}, "failure": "not measured"})
            spread = row["figures"].get(figure.name)
            cells.append(spread_text(Spread.from_json(spread), 0 if spread["median"] > 1000 else 1)
                         if spread else f"failed: {row['failure']}")
        verdict = next((each for each in results["goals"] if each["load"] == load.name), None)
        cells.append(spread_text(Spread.from_json(verdict["value"]), 2) if verdict else "")
        cells.append(("yes" if verdict["met"] else "no") if verdict else "")
        rows.append(cells)
    heads = ["", "", *(peer["title"] for peer in results["peers"]), "ratio", "≥ 0.9"]
    return "\n".join([
        "# virtproxy through a real guest, beside the bare port\n",
        f"{results['date']}, a virtio-serial port of a QEMU guest with one emulated processor "
        f"(TCG), on {'a virtual machine' if machine['virtual'] else 'a machine'} with "
        f"{machine['cpus']} CPUs ({machine['cpu']}), Linux {machine['kernel']}. "
        f"{results['rounds']} rounds of {results['seconds']:g} s in turn; medians, with the least "
        "and the most.\n",
        *noise_text(results["runs"]),
        PLOTS_HERE,
        table(heads, rows, right=2),
    ])
