"""Fixtures of the end-to-end tests; a failed test shows the logs of all its processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness import BIN, Scene


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true",
                     help="of each test the first case only, and none that is marked as long")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--quick"):
        return
    seen: set[tuple[str, str]] = set()
    kept: list[pytest.Item] = []
    for item in items:
        test = (str(item.path), getattr(item, "originalname", item.name))
        if test not in seen and not item.get_closest_marker("long"):
            seen.add(test)
            kept.append(item)
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
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
