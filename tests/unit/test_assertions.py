"""Every assertion of the daemon has a row in tests/ASSERTIONS.md, and every row has an assertion."""

import collections
import pathlib
import re

TREE = pathlib.Path(__file__).resolve().parents[2]
TABLE = TREE / "tests/ASSERTIONS.md"
MACRO = "VP_ASSERT("


def expressions(text):
    """The expressions asserted in C++ source, with single spaces."""
    for begin in re.finditer(r"\bVP_ASSERT\(", text):
        line = text[text.rfind("\n", 0, begin.start()) + 1 : begin.start()]
        if line.lstrip().startswith(("//", "#define")):
            continue
        depth, at = 1, begin.end()
        while depth > 0:
            depth += {"(": 1, ")": -1}.get(text[at], 0)
            at += 1
        yield " ".join(text[begin.end() : at - 1].split())


def asserted(tree):
    found = collections.Counter()
    for folder in ("core", "uring"):
        for file in sorted((tree / folder).rglob("*")):
            if file.suffix in (".cc", ".h"):
                name = str(file.relative_to(tree))
                found.update((name, e) for e in expressions(file.read_text()))
    return found


def rows(table):
    """(file, expression) of each row, as often as the row says the assertion stands there."""
    found = collections.Counter()
    for line in table.splitlines():
        row = re.match(r"\| `([\w/.]+)` \| `(.+?)`(?: ×(\d+))? \|", line)
        if row:
            file, expression, times = row.groups()
            assert (file, expression) not in found, f"two rows for {file}: {expression}"
            found[file, expression.replace("\\|", "|")] = int(times or 1)
    return found


def complaints(found, described):
    text = []
    for file, expression in sorted(found.keys() | described.keys()):
        here, said = found[file, expression], described[file, expression]
        if said == 0:
            text.append(
                f"{file}: VP_ASSERT({expression}) has no row in tests/ASSERTIONS.md: say there what from "
                "outside it depends on and why it cannot fail, or return an error instead"
            )
        elif here == 0:
            text.append(
                f"tests/ASSERTIONS.md: the row of {file}: {expression} has no assertion any more: remove it"
            )
        elif here != said:
            text.append(
                f"{file}: VP_ASSERT({expression}) stands there {here} times, its row in "
                f"tests/ASSERTIONS.md says {said} (write ×{here} behind the expression)"
            )
    return text


def test_every_assertion_has_a_row_and_every_row_an_assertion():
    found = asserted(TREE)
    assert len(found) > 50
    assert complaints(found, rows(TABLE.read_text())) == []


def test_what_is_missing_is_named():
    source = "void f() {\n  VP_ASSERT(a &&\n            b(c));\n  VP_ASSERT(d || e);\n  // VP_ASSERT(no)\n}\n"
    found = collections.Counter(("core/x.cc", e) for e in expressions(source))
    assert found == {("core/x.cc", "a && b(c)"): 1, ("core/x.cc", "d || e"): 1}
    described = rows("| `core/x.cc` | `d \\|\\| e` | peer |\n| `core/x.cc` | `gone` ×2 | peer |\n")
    text = complaints(found, described)
    assert len(text) == 2
    assert "VP_ASSERT(a && b(c)) has no row" in text[0]
    assert "the row of core/x.cc: gone has no assertion" in text[1]
    assert "stands there 1 times" in complaints(found, described + described)[1]
