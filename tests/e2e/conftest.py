"""Fixtures of the end-to-end tests; a failed test shows the logs of all its processes."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from harness import BIN, Scene

# A shell starts what runs in the background with SIGINT ignored, and the programs under test would inherit
# that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true",
                     help="of each test the first case only, and none that is marked as long")
    parser.addoption("--each-value", action="store_true",
                     help="of each test the fewest cases in which every value of every parameter occurs")


def first_cases(items: list[pytest.Item]) -> list[pytest.Item]:
    """Of each test its first case, unless the test is marked as long."""
    seen: set[tuple[str, str]] = set()
    kept: list[pytest.Item] = []
    for item in items:
        test = (str(item.path), getattr(item, "originalname", item.name))
        if test not in seen and not item.get_closest_marker("long"):
            seen.add(test)
            kept.append(item)
    return kept


def cases_of_each_value(items: list[pytest.Item]) -> list[pytest.Item]:
    """Of each test cases that together have every value of every parameter.

    Greedy: the next case is the one with the most values that none before it has, the first of such. A
    parameter of a fixture is a parameter of the tests that use it. Without parameters a test is one case.
    """
    tests: dict[tuple[str, str], list[tuple[pytest.Item, set]]] = {}
    for item in items:
        call = getattr(item, "callspec", None)
        values = {(name, repr(value)) for name, value in call.params.items()} if call else {("", "")}
        test = (str(item.path), getattr(item, "originalname", item.name))
        tests.setdefault(test, []).append((item, values))
    kept: set[pytest.Item] = set()
    for cases in tests.values():
        missing = set().union(*(values for _, values in cases))
        while missing:
            item, values = max(cases, key=lambda case: len(case[1] & missing))
            kept.add(item)
            missing -= values
    return [item for item in items if item in kept]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept = list(items)
    if config.getoption("--quick"):
        kept = first_cases(kept)
    if config.getoption("--each-value"):
        kept = cases_of_each_value(kept)
    if len(kept) < len(items):
        chosen = set(kept)
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = kept


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: left out by --quick")
    for program in ("virtproxy", "virtproxy-traffic", "virtproxy-oldpeer"):
        if not (BIN / program).exists():
            missing = f"{BIN / program} is missing: build first, or set VIRTPROXY_BIN"
            raise pytest.UsageError(missing)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    outcome = yield
    report = outcome.get_result()
    scene = (getattr(item, "funcargs", None) or {}).get("scene")
    if report.when == "call":
        item.stash[_FAILED] = report.failed
    if report.failed and isinstance(scene, Scene):
        for name, text in scene.logs():
            report.sections.append((name, text[-8000:]))


_FAILED = pytest.StashKey[bool]()


@pytest.fixture
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    """A stage for daemons and traffic, cleared away at the end."""
    scene = Scene()
    yield scene
    scene.close(graceful=not request.node.stash.get(_FAILED, True))


@pytest.fixture(params=["unix", "tcp"])
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of channel, for promises that hold on every one."""
    return request.param
