"""Tables, verdicts and plots."""

import xml.etree.ElementTree

import compare
import plot
import report
from figures import Run, Runs, Spread
from loads import Goal, PeerLoad, balance

LOAD = PeerLoad("bulk-1", "bulk, 1 stream", ["bulk"], ["cpu_per_gb", "gb_per_s"],
                [Goal("cpu_per_gb", 1.0, True, ("near", "far")), Goal("gb_per_s", 2, False)])


def runs():
    return [Run("bulk-1", "pinned", name, number, {"cpu_per_gb": cpu, "gb_per_s": 1.5}, noise)
            for name, cpu, noise in (("virtproxy", 0.3, []), ("near", 0.4, ["steal 9 %"]),
                                     ("far", 0.2, []))
            for number in range(2)] + [
        Run("bulk-1", "pinned", "dead", 0, {}, [], "stalled")]


def results():
    taken = runs()
    return {
        "date": "2026-01-02", "rounds": 2, "seconds": 1.0,
        "machine": {"cpu": "some", "cpus": 2, "memory_gib": 4, "kernel": "6.1", "virtual": True},
        "peers": [{"name": name, "title": f"<{name}>", "kind": "relay", "floor": name == "near",
                   "version": "1.0", "failure": None}
                  for name in ("virtproxy", "near", "far", "dead")]
        + [{"name": "absent", "title": "absent", "kind": "relay", "floor": False, "version": "",
            "failure": "is not installed"}],
        "runs": [run.to_json() for run in taken],
        "summary": report.summary([LOAD], ["pinned"], taken),
        "goals": report.goals([LOAD], ["pinned"], taken),
    }


def test_a_goal_is_judged_against_the_best_of_its_references():
    verdict, other = report.goals([LOAD], ["pinned"], runs())
    assert verdict["reference"] == "far"
    assert round(verdict["value"]["median"], 6) == 1.5
    assert not verdict["met"]
    assert other["reference"] is None and other["value"]["median"] == 1.5 and not other["met"]


def test_a_goal_whose_reference_was_not_measured_has_no_verdict():
    goal = Goal("cpu_per_gb", 1.0, True, ("nobody",))
    assert report.judge(goal, LOAD, Runs(runs())) is None


def test_bounds_hold_from_both_sides():
    assert Goal("p99_us", 300, True).met(300) and not Goal("p99_us", 300, True).met(301)
    assert Goal("gb_per_s", 1, False).met(1) and not Goal("gb_per_s", 1, False).met(0.99)


def test_the_tables_hold_every_contestant_with_its_ratio_and_its_noise():
    text = report.markdown(results(), [LOAD])
    near = next(line for line in text.splitlines() if line.startswith("| <near> ~"))
    assert "0.400 (0.400–0.400)" in near and "0.75 (0.75–0.75)" in near
    assert "| **<virtproxy>** |" in text
    assert "failed: stalled" in text
    assert "is not installed" in text
    assert "2 of 7 runs were noisy" in text


def test_every_row_of_a_table_has_as_many_cells_as_its_head():
    for block in report.markdown(results(), [LOAD]).split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1, block


def test_the_plot_is_xml_with_a_bar_for_each_that_was_measured():
    root = xml.etree.ElementTree.fromstring(plot.compare(results(), [LOAD], "pinned"))
    words = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert {"virtproxy", "near", "far", "bulk, 1 stream"} <= set(words)
    assert "dead" not in words


def test_a_bar_far_off_does_not_hide_the_others():
    bars = [(name, Spread(median, median, median, 1), colour)
            for name, median, colour in (("ours", 2, plot.OURS), ("a", 1, ""), ("far", 100, ""))]
    assert plot.axis(bars) == plot.CAP * 2
    assert plot.axis(bars[:2]) == 2


def test_short_numbers_keep_three_digits():
    assert [plot.short(value) for value in (123456, 12.345, 0.12345, 0)] == [
        "123,456", "12.3", "0.123", "0"]


def test_the_balance_of_threads_is_of_those_that_work():
    assert balance([0.0, 2.0, 1.0], 2) == 0.5
    assert balance([2.0], 2) == 0
    assert balance([0.0, 0.0], 2) == 0


def test_a_failure_names_no_directory_of_ours():
    assert compare.told(OSError("nobody at unix:/tmp/vp-perf-ab_1/in yet")) == "nobody at in yet"
