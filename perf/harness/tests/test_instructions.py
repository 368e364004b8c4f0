"""The verdict of bench/instructions.py, without measuring anything."""

import importlib.util
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[3] / "bench/instructions.py"
SPEC = importlib.util.spec_from_file_location("instructions", SOURCE)
instructions = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(instructions)


def cases(**counts):
    return {name: {"unit": "frame", "instructions": count} for name, count in counts.items()}


def test_growth_within_the_bound_passes():
    lines, good = instructions.judge(cases(a=100), cases(a=104.9), 0.05)
    assert good and "GREW" not in lines[0]


def test_growth_beyond_it_fails():
    lines, good = instructions.judge(cases(a=100, b=50), cases(a=106, b=50), 0.05)
    assert not good and "GREW" in lines[0] and "GREW" not in lines[1]


def test_fewer_passes_and_is_told():
    lines, good = instructions.judge(cases(a=100), cases(a=80), 0.05)
    assert good and "fewer" in lines[0]


def test_a_case_that_is_new_or_gone_fails():
    assert not instructions.judge(cases(a=1), cases(a=1, b=1), 0.05)[1]
    assert not instructions.judge(cases(a=1, b=1), cases(a=1), 0.05)[1]
