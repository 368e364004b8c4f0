"""Every include of core/ and uring/ points down the list of layers, and no file is too long.

The layers are those of the folders. A file may include what is in its own folder and what is in a layer
below; folders of one layer do not know each other. Where an include still points upward, EXCEPTIONS names
it with the interface that will remove it; one that is not needed any more fails.
"""

import pathlib
import re

TREE = pathlib.Path(__file__).resolve().parents[2]
LONGEST = 600  # lines

# From the top to the bottom. A name is a folder, or a file without its suffix; the longest one that fits
# counts.
LAYERS = (
    ("uring/daemon", "uring/ctl", "uring/agent"),
    ("uring/service",),
    ("uring/mux",),
    ("uring/transport",),
    ("uring/net",),
    ("uring/buffers",),
    ("uring/io",),
    ("uring/base",),
    ("core/protocol_selector",),
    ("core/v1", "core/v2", "core/agent", "core/logs"),
    ("core/session", "core/peer_identity", "core/peer_backoff"),
    ("core/flow",),
    ("core/wire",),
    ("core",),
)

# Of core/: what makes a system call, reads a clock, or starts or meets a thread.
NOT_OF_CORE = re.compile(
    r"<(sys/|linux/|net|arpa/|liburing|unistd\.h|fcntl\.h|poll\.h|time\.h|ctime|signal|csignal|thread|mutex|"
    r"atomic|future|condition_variable|functional|spdlog|fmt)"
)

EXCEPTIONS: dict[tuple[str, str], str] = {}


def place(file):
    """The layer of a file and its name in there, or nothing."""
    stem = file.rsplit(".", 1)[0]
    found = [
        (len(name), depth, name)
        for depth, layer in enumerate(LAYERS)
        for name in layer
        if stem == name or file.startswith(name + "/")
    ]
    if not found:
        return None
    _, depth, name = max(found)
    # A file of core/ that is in no folder is of the lowest layer; a folder that is not listed is of none.
    if name == "core" and file.count("/") > 1:
        return None
    return depth, name


def sources(tree):
    for folder in ("core", "uring"):
        for file in sorted((tree / folder).rglob("*")):
            if file.suffix in (".cc", ".h"):
                yield str(file.relative_to(tree)), file.read_text()


# Kinds of channels are rows of this table. Outside of its folder a kind is asked for a property; the multiplexer
# does not even know what a kind is.
KINDS = "uring/transport/transport_table.cc"
KIND_NAMES = re.compile(r'\{"([a-z-]+)", "([a-z-]*)", Way::')
# What one folder may know of kinds, and which files do not run channels: virtagent and virtproxyctl have ports of
# their own.
OF_THE_TABLE = re.compile(r"\b(TransportKind|\w+Source|transport_traits)\b(?<!TransportSource)(?<!StatSource)")
PROGRAMS_OF_THEIR_OWN = ("uring/agent/", "uring/ctl/")
# Texts for people that name a kind. One that does not any more fails.
TEXTS = {
    "uring/daemon/help_text.cc": "examples",
    "uring/daemon/option_table.cc": "what --integrity is for",
    "uring/daemon/options_check.cc": "which channels a list guards",
}


def names_of_kinds(tree):
    table = tree / KINDS
    if not table.exists():
        return set()
    return {name for row in KIND_NAMES.findall(table.read_text()) for name in row if name}


def complaints_about_kinds(file, source, kinds, texts):
    """What `file` says of kinds of channels. Adds it to `texts` if that is allowed."""
    if file.startswith(("uring/transport/", *PROGRAMS_OF_THEIR_OWN)) or not kinds:
        return []
    found = []
    literals = " ".join(re.findall(r'"(?:[^"\\\n]|\\.)*"', code(source)))
    named = sorted(kind for kind in kinds if re.search(rf"(?<![\w-]){kind}(?![\w-])", literals))
    if named and file in TEXTS:
        texts.add(file)
    elif named:
        found.append(f"{file} names {named[0]}: ask for a property of TransportKind, or of TransportTraits")
    if file.startswith("uring/mux/") and (name := OF_THE_TABLE.search(code(source))):
        found.append(f"{file} names {name.group()}: ask for a property of TransportTraits")
    return found


# Only the driver over io_uring and what opens it know it: above, a driver is a Driver.
OF_IO_URING = re.compile(r"\b(liburing|io_uring\w*|IoUring\w*|IORING_\w+|IOSQE_\w+|sqes?|cqes?)\b", re.IGNORECASE)
KNOWS_IO_URING = ("uring/io/", "uring/daemon/")


def code(source):
    return re.sub(r"//[^\n]*", "", source)


def complaints(tree, exceptions):
    text, needed, texts = [], set(), set()
    kinds = names_of_kinds(tree)
    for file, source in sources(tree):
        lines = source.count("\n")
        if lines > LONGEST:
            text.append(f"{file} has {lines} lines, more than {LONGEST}: split it")
        here = place(file)
        if here is None:
            text.append(f"{file} is in no folder of a layer: move it, or give its folder one in LAYERS")
            continue
        text += complaints_about_kinds(file, source, kinds, texts)
        if not file.startswith(KNOWS_IO_URING) and (name := OF_IO_URING.search(code(source))):
            text.append(f"{file} names {name.group()}: ask the Driver, or give it what is missing")
        for line in source.splitlines():
            if file.startswith("core/") and NOT_OF_CORE.search(line) and line.startswith("#include"):
                text.append(f"{file}: {line}: core/ makes no system call and knows no thread and no clock")
            found = re.match(r'#include "((?:core|uring)/[^"]+)"', line)
            if not found:
                continue
            there = place(found.group(1))
            if there is None:
                text.append(f"{file} includes {found.group(1)}, which is in no folder of a layer")
            elif there[0] < here[0] or (there[0] == here[0] and there[1] != here[1]):
                if (file, found.group(1)) in exceptions:
                    needed.add((file, found.group(1)))
                else:
                    text.append(
                        f"{file} includes {found.group(1)}: {there[1]} is "
                        f"{'above' if there[0] < here[0] else 'beside'} {here[1]}"
                    )
    for file, included in sorted(exceptions.keys() - needed):
        text.append(f"{file} does not include {included} any more: remove that from EXCEPTIONS")
    if kinds:
        present = {file for file in TEXTS if (tree / file).exists()}
        text += [f"{file} names no kind any more: remove it from TEXTS" for file in sorted(present - texts)]
    return text


def test_includes_point_down_and_no_file_is_too_long():
    assert len(list(sources(TREE))) > 100
    assert complaints(TREE, EXCEPTIONS) == []


def make(tree, files):
    for name, source in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(source)


DOWN = {
    "uring/daemon/main.cc": '#include <sys/stat.h>\n#include "uring/mux/channel.h"\n#include "uring/daemon/a.h"\n',
    "uring/daemon/a.h": '#include "core/session.h"\n',
    "uring/mux/channel.h": '#include "core/protocol_selector.h"\n#include "uring/base/log.h"\n',
    "uring/base/log.h": '#include "core/time.h"\n',
    "core/protocol_selector.h": '#include "core/v1/session.h"\n#include "core/v2/session.h"\n',
    "core/v1/session.h": '#include "core/session.h"\n',
    "core/v2/session.h": '#include "core/session.h"\n',
    "core/session.h": '#include "core/wire/frame.h"\n',
    "core/wire/frame.h": '#include "core/time.h"\n',
    "core/time.h": "#include <chrono>\n",
    "uring/transport/transport_table.cc": '    {"a-listen", "", Way::kListens},\n    {"b-open", "old-b", Way::kOpens},\n',
    "uring/agent/port.cc": 'constexpr auto kMethod = "a-listen";\n',
    "uring/daemon/option_table.cc": 'help("checksum on b-open"); use("b-opened", "non-a-listen"); // a-listen\n',
}


def test_what_points_down_is_accepted(tmp_path):
    make(tmp_path, DOWN)
    assert complaints(tmp_path, {}) == []


def test_what_points_up_or_aside_is_named(tmp_path):
    broken = {
        "uring/base/log.h": ('#include "uring/mux/channel.h"\n', "uring/mux is above uring/base"),
        "core/time.h": ('#include "uring/base/log.h"\n', "uring/base is above core"),
        "core/wire/frame.h": ('#include "core/session.h"\n', "core/session is above core/wire"),
        "core/v1/session.h": ('#include "core/v2/session.h"\n', "core/v2 is beside core/v1"),
        "core/session.h": ('#include "core/protocol_selector.h"\n', "core/protocol_selector is above core/session"),
        "core/v2/session.h": ("#include <sys/socket.h>\n", "core/ makes no system call"),
        "uring/daemon/a.h": ("\n" * (LONGEST + 1), "601 lines"),
        "uring/mux/x.cc": ("if (kind == TransportKind::kTty)\n", "ask for a property of TransportTraits"),
        "uring/mux/y.cc": ('if (name == "a-listen")\n', "names a-listen"),
        "uring/mux/z.cc": ("DeviceSource source;\n", "names DeviceSource"),
        "uring/mux/traits.cc": ("if (&traits == &transport_traits::kTty)\n", "names transport_traits"),
        "uring/daemon/x.cc": ('find_transport("old-b")\n', "names old-b"),
        "uring/service/y.cc": ('const char* usage = "write -c a-listen:PATH:-";\n', "names a-listen"),
        "uring/daemon/option_table.cc": ('help("no kind");\n', "remove it from TEXTS"),
        "uring/buffers/x.h": ("#include <liburing.h>\n", "names liburing: ask the Driver"),
        "uring/service/x.cc": ("if ((flags & IORING_CQE_F_BUFFER) != 0)\n", "names IORING_CQE_F_BUFFER"),
        "uring/net/x.cc": ("io_uring_sqe* entry = next();\n", "names io_uring_sqe"),
        "uring/transport/x.cc": ("auto driver = IoUringDriver::open(1, {});\n", "names IoUringDriver"),
        "uring/stray.h": ("", "is in no folder of a layer"),
        "core/other/x.h": ("", "is in no folder of a layer"),
    }
    for name, (source, expected) in broken.items():
        tree = tmp_path / name.replace("/", "-")
        make(tree, DOWN | {name: source})
        found = complaints(tree, {})
        assert len(found) == 1 and expected in found[0] and name in found[0], (name, found)


def test_an_exception_is_accepted_until_it_is_stale(tmp_path):
    exception = {("uring/base/log.h", "uring/mux/channel.h"): "a seam"}
    make(tmp_path / "up", DOWN | {"uring/base/log.h": '#include "uring/mux/channel.h"\n'})
    assert complaints(tmp_path / "up", exception) == []
    make(tmp_path / "down", DOWN)
    found = complaints(tmp_path / "down", exception)
    assert len(found) == 1 and "remove that from EXCEPTIONS" in found[0]
