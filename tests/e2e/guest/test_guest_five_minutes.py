"""README's way to a channel in five minutes, run from its text: a host and a guest that have nothing of virtproxy."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import PATIENCE
from systemd_machine import needs_machine

from .debian import why_not
from .site import Site, debian_site

README = Path(__file__).resolve().parents[3] / "README.md"
PROMPT = re.compile(r"^(host|guest)# ")
# What the text says of these: the answer shows that it worked.
ANSWERS = {
    "curl ": r"Welcome to nginx!",
    "ssh ": r"^debian$",
    "virtproxyctl channels": r"^vm1 +up ",
}

pytestmark = [needs_machine, pytest.mark.skipif(bool(why_not()), reason=why_not() or "-")]


def commands() -> list[tuple[str, str]]:
    """(where, command) of the section's code; lines without a prompt belong to the command before."""
    text = README.read_text(encoding="utf-8")
    section = text[text.index("\n## In five minutes\n") :]
    code = section[section.index("```sh\n") + 6 : section.index("\n```\n")]
    found: list[tuple[str, str]] = []
    for line in code.splitlines():
        if prompt := PROMPT.match(line):
            found.append((prompt.group(1), line[prompt.end() :]))
        elif line:
            where, command = found[-1]
            found[-1] = where, f"{command}\n{line}"
    return found


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    # The ports are the text's.
    with debian_site("--net") as site:
        yield site


def test_the_way_of_the_readme(site: Site) -> None:
    run = {"host": site.host.run, "guest": site.guest.run}
    steps = commands()
    assert len(steps) > 10 and {where for where, _ in steps} == set(run)
    begin = time.monotonic()
    unseen = dict(ANSWERS)
    for where, command in steps:
        status, output = run[where](f"cd /root && {command}", 120 * PATIENCE)
        print(f"{where}# {command}\n{output}")
        assert status == 0, f"{where}# {command}\n{output}\n{site.host.journal()}"
        for start, answer in ANSWERS.items():
            if command.startswith(start):
                assert re.search(answer, output, re.MULTILINE), output
                unseen.pop(start, None)
    assert unseen == {}
    print(f"{len(steps)} commands in {time.monotonic() - begin:.0f} s")
