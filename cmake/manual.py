#!/usr/bin/env python3
"""Writes what is generated from the programs' own --help and from PROTOCOL.md: manual pages, as scdoc reads
them, and completions. A page cannot be older than its program.

    manual.py page TEMPLATE PROGRAM            a page; the template says where options go
    manual.py protocol PROTOCOL.md             virtproxy-protocol(7)
    manual.py keys TEMPLATE OPERATING.md PROGRAM
                                               virtproxy.toml(5); @KEYS@ stands for the keys of the document,
                                               which a test compares with the option table
    manual.py completion SHELL PROGRAM         for bash, zsh or fish

In a template a line @OPTIONS@ stands for the groups of options, @COMMANDS@ for the subcommands with theirs,
and @SECTION Title@ for the text of --help under that title.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Option:
    names: list[str]
    value: str
    text: str


@dataclass
class Help:
    """What a program prints for --help."""

    about: str = ""
    groups: dict[str, list[Option]] = field(default_factory=dict)
    sections: dict[str, list[str]] = field(default_factory=dict)
    commands: dict[str, str] = field(default_factory=dict)

    def options(self) -> list[Option]:
        return [option for group in self.groups.values() for option in group]


_OPTION = re.compile(r"^  (-[^ ]+)((?: [^ ]+)*?)(?:  +(.*))?$")
_COMMAND = re.compile(r"^  ([a-z][a-z-]*)  +(.*)$")


_COMMANDS = ("Subcommands", "Commands to a running daemon")


def read_help(text: str) -> Help:
    """Options begin with two spaces and a dash; deeper lines go on with the one before."""
    help_ = Help()
    title = ""
    last: list[str] = []  # of a subcommand that is being read
    for line in text.splitlines():
        heading = re.match(r"^([A-Z][^:]*(?:\([^)]*\))?):$", line)
        option = _OPTION.match(line)
        command = _COMMAND.match(line)
        if heading:
            title = heading[1]
        elif not title:
            help_.about += "" if line.startswith("Usage:") else line
        elif option:
            value = re.sub(r"\s*(REQUIRED|Excludes:.*)", "", option[2]).strip()
            group = help_.groups.setdefault(title, [])
            group.append(Option(option[1].split(","), value, option[3] or ""))
        elif title in help_.groups and line.startswith("   "):
            entry = help_.groups[title][-1]
            entry.text = f"{entry.text} {line.strip()}".strip()
        elif title in _COMMANDS and command:
            help_.commands[command[1]] = command[2]
            last = [command[1]]
        elif title in _COMMANDS and last and line.startswith("   "):
            help_.commands[last[0]] += " " + line.strip()
        else:
            help_.sections.setdefault(title, []).append(line)
    return help_


def help_of(*command: str) -> Help:
    return read_help(subprocess.run([*command, "--help"], check=True, capture_output=True, text=True).stdout)


def escaped(text: str) -> str:
    return re.sub(r"([\\*_`<>#\[\]|~.'-])", r"\\\1", text)


def option_lines(options: list[Option]) -> list[str]:
    lines = []
    for option in options:
        names = ", ".join(f"*{escaped(name)}*" for name in option.names)
        value = f" _{escaped(option.value)}_" if option.value else ""
        lines += [names + value, "\t" + escaped(option.text), ""]
    return lines


def argument_lines(command: Help) -> list[str]:
    lines = []
    for line in command.sections.get("Positionals", []):
        argument = re.match(r"^  (\S+)(?: \S+)*?(?:  +(.*))?$", line)
        if argument:
            lines += [f"_{escaped(argument[1])}_", "\t" + escaped(argument[2] or ""), ""]
        elif line.strip():
            lines[-2] = f"\t{lines[-2].strip()} {escaped(line.strip())}".replace("\t ", "\t")
    return lines


def literal(lines: list[str]) -> list[str]:
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    return ["```", *lines, "```", ""]


def page(template: str, program: str) -> str:
    help_ = help_of(program)
    lines: list[str] = []
    for line in template.splitlines():
        section = re.fullmatch(r"@SECTION (.*)@", line)
        if line == "@OPTIONS@":
            for title, options in help_.groups.items():
                lines += [f"## {title}", "", *option_lines(options)]
        elif line == "@COMMANDS@":
            for name, text in help_.commands.items():
                lines += [f"## {name}", "", escaped(text) + ".", ""]
                command = help_of(program, name)
                lines += argument_lines(command)
                lines += option_lines([one for one in command.options() if "--help" not in one.names])
        elif section:
            lines += literal(help_.sections[section[1]])
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


# The tables in which a key may stand, as OPERATING.md names them.
_TABLES = {
    "process": "[process]",
    "channel": "[channel.NAME] and [defaults]",
    "listen": "[channel.NAME.listen.SERVICE]",
    "offer": "[channel.NAME.offer.SERVICE]",
    "ship": "[ship]",
    "collect": "[collect]",
}


def keys(template: str, document: str, program: str) -> str:
    texts = {name: option.text for option in help_of(program).options() for name in option.names}
    found = re.search(r"<!-- keys: [^>]*-->\n(.*?)<!-- end of keys -->", document, re.DOTALL)
    assert found
    lines: list[str] = []
    for row in [line for line in found[1].splitlines() if line.startswith("| `")]:
        key, places, value, default, option = (cell.strip().strip("`") for cell in row.strip("|").split("|"))
        tables = ", ".join(_TABLES[place] for place in places.split(", "))
        text = texts.get(option, "").rstrip(".")
        default = f"Default: {default}." if default and "(default" not in text else ""
        parts = [f"{text}." if text else "", f"In {tables}.", default, f"Command line: {option}." if option else ""]
        lines += [f"*{escaped(key)}* = _{escaped(value)}_", "\t" + escaped(" ".join(filter(None, parts))), ""]
    return template.replace("@KEYS@\n", "\n".join(lines) + "\n")


# --- PROTOCOL.md ----------------------------------------------------------------------------------


def inline(text: str) -> str:
    text = re.sub(r"\[([^]]*)\]\(([^)]*)\)", lambda link: link[1], text)
    result = []
    for piece in re.split(r"(`[^`]*`|\*\*[^*]*\*\*|\*[^*]*\*)", text):
        bare = piece.strip("`*")
        if bare and (piece.startswith("`") or piece.startswith("**")):
            result.append(f"*{escaped(bare)}*")
        elif bare and piece.startswith("*"):
            result.append(f"_{escaped(bare)}_")
        else:
            result.append(escaped(piece))
    return "".join(result)


def table(rows: list[str]) -> list[str]:
    """As text: a page is read at any width, and the cells are long."""
    cells = [[cell.strip() for cell in row.strip().strip("|").split("|")] for row in rows]
    cells = [row for row in cells if not all(re.fullmatch(r":?-+:?", cell) for cell in row)]
    plain = [[re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", cell) for cell in row] for row in cells]
    widths = [max(len(row[i]) for row in plain if i < len(row)) for i in range(max(map(len, plain)))]
    return literal(["  ".join(cell.ljust(widths[i]) for i, cell in enumerate(row)).rstrip() for row in plain])


def protocol(text: str) -> str:
    lines = ["virtproxy-protocol(7)", "", "# NAME", "", "virtproxy-protocol - what two ends of virtproxy write to each other", ""]
    source = text.splitlines()
    at = next(i for i, line in enumerate(source) if line.startswith("# ")) + 1
    lines += ["# DESCRIPTION", ""]
    fenced = False
    while at < len(source):
        line = source[at]
        at += 1
        if line.startswith("```"):
            fenced = not fenced
            lines.append("```")
            if not fenced:
                lines.append("")
        elif fenced:
            lines.append(line)
        elif line.startswith("|"):
            rows = [line]
            while at < len(source) and source[at].startswith("|"):
                rows.append(source[at])
                at += 1
            lines += table(rows)
        elif line.startswith("## "):
            lines += ["", "# " + inline(line[3:]).replace("\\.", ".").upper(), ""]
        elif line.startswith("### "):
            lines += ["", "## " + inline(line[4:]).replace("\\.", "."), ""]
        else:
            item = re.match(r"^(-|[1-9]\d*\.)\s+(.*)$", line)
            if item and re.fullmatch(r"\[.*\]\(#.*\)", item[2]):
                pass  # of the table of contents
            elif item:
                # A number stays, because rules are referred to by it.
                lines += ["", ("- " if item[1] == "-" else escaped(item[1]) + " ") + inline(item[2])]
            else:
                lines.append(inline(line.strip()))
    return _reflow(lines)


def _reflow(lines: list[str]) -> str:
    """One line a paragraph and a list item: scdoc wants no guesses about continuation."""
    result: list[str] = []
    fenced = False
    for line in lines:
        fence = line.startswith("```")
        before = result[-1] if result else ""
        if fenced or fence:
            if fence and not fenced and before:
                result.append("")
            result.append(line)
            fenced = fenced != fence
        elif not line or line.startswith("#"):
            if before or line:
                result.append(line)
        elif before and not before.startswith(("#", "```")):
            result[-1] += " " + line
        else:
            # Items of one list stand together.
            if line.startswith("- ") and len(result) > 1 and result[-2].startswith("- "):
                result.pop()
            result.append(line)
    return "\n".join(result) + "\n"


# --- completions ----------------------------------------------------------------------------------

_FILES = ("PATH", "FILE", "DEVICE")


def words(help_: Help) -> str:
    return " ".join(name for option in help_.options() for name in option.names if name.startswith("--"))


def takes_file(help_: Help) -> list[str]:
    return [name for option in help_.options() for name in option.names if option.value in _FILES]


def bash(name: str, main: Help, commands: dict[str, Help]) -> str:
    function = "_" + name.replace("-", "_")
    cases = "".join(
        f'    {command}) options="{words(help_)}" ;;\n' for command, help_ in commands.items()
    )
    files = sorted({one for help_ in [main, *commands.values()] for one in takes_file(help_)})
    file_case = f"    {'|'.join(files)}) COMPREPLY=($(compgen -f -- \"$current\")); return ;;\n" if files else ""
    values = sorted({n for h in [main, *commands.values()] for o in h.options() if o.value for n in o.names} - set(files))
    value_case = f"    {'|'.join(values)}) return ;;\n" if values else ""
    return (
        f"# bash completion for {name}, generated from its --help.\n{function}() {{\n"
        '  local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} options\n'
        f'  COMPREPLY=()\n  case "$before" in\n{file_case}{value_case}  esac\n'
        f'  options="{words(main)} {" ".join(commands)}"\n  case "${{COMP_WORDS[1]}}" in\n{cases}    *) ;;\n  esac\n'
        '  COMPREPLY=($(compgen -W "$options" -- "$current"))\n}\n'
        f"complete -F {function} {name}\n"
    )


def _zsh_spec(option: Option) -> list[str]:
    text = re.sub(r"([\[\]:\\])", r"\\\1", option.text).replace("'", "'\\''")
    action = ""
    if option.value:
        value = re.sub(r"[^A-Za-z0-9=, ]", "-", option.value)
        action = f":{value}:{'_files' if option.value in _FILES else ' '}"
    return [f"'*{name}[{text}]{action}'" for name in option.names]


def zsh(name: str, main: Help, commands: dict[str, Help]) -> str:
    def arguments(help_: Help) -> str:
        return " \\\n    ".join(["_arguments -s", *(spec for o in help_.options() for spec in _zsh_spec(o))])

    body = f"  {arguments(main)}\n"
    if commands:
        cases = "".join(f"  {command})\n  {arguments(help_)}\n  ;;\n" for command, help_ in commands.items())
        body = (
            f"  if (( CURRENT == 2 )); then\n    compadd -- {' '.join(commands)} {words(main)}\n    return\n  fi\n"
            f"  case $words[2] in\n{cases}  esac\n"
        )
    return f"#compdef {name}\n# Generated from the --help of {name}.\n_{name}() {{\n{body}}}\n_{name} \"$@\"\n"


def fish(name: str, main: Help, commands: dict[str, Help]) -> str:
    def quoted(text: str) -> str:
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

    def lines(help_: Help, condition: str) -> list[str]:
        result = []
        for option in help_.options():
            parts = [f"complete -c {name}", condition] if condition else [f"complete -c {name}"]
            for one in option.names:
                parts.append(f"-l {one[2:]}" if one.startswith("--") else f"-s {one[1:]}")
            if option.value:
                parts.append("-r -F" if option.value in _FILES else "-x")
            result.append(" ".join([*parts, "-d", quoted(option.text)]))
        return result

    all_lines = [f"# fish completion for {name}, generated from its --help.", f"complete -c {name} -f"]
    all_lines += lines(main, "-n __fish_use_subcommand" if commands else "")
    for command, text in main.commands.items():
        all_lines.append(f"complete -c {name} -n __fish_use_subcommand -a {command} -d {quoted(text)}")
        all_lines += lines(commands[command], f"-n '__fish_seen_subcommand_from {command}'")
    return "\n".join(all_lines) + "\n"


def completion(shell: str, program: str) -> str:
    main = help_of(program)
    commands = {name: help_of(program, name) for name in main.commands}
    return {"bash": bash, "zsh": zsh, "fish": fish}[shell](Path(program).name, main, commands)


def main(arguments: list[str]) -> None:
    match arguments:
        case ["page", template, program]:
            print(page(Path(template).read_text(encoding="utf-8"), program), end="")
        case ["keys", template, document, program]:
            texts = (Path(path).read_text(encoding="utf-8") for path in (template, document))
            print(keys(*texts, program), end="")
        case ["protocol", document]:
            print(protocol(Path(document).read_text(encoding="utf-8")), end="")
        case ["completion", ("bash" | "zsh" | "fish") as shell, program]:
            print(completion(shell, program), end="")
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
