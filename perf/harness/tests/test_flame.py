"""Reading, adding up and drawing samples."""

import xml.etree.ElementTree

import flame
import profiler

SCRIPT = """\
  100
	ffffffff81000010 _copy_to_iter+0x10 ([kernel.kallsyms])
	ffffffff81000020 do_syscall_64+0x20 ([kernel.kallsyms])
	    55550000 virtproxy::(anonymous namespace)::Loop::turn(std::span<int>) const+0x4 (/opt/bin/virtproxy)
	    55550010 main+0x4 (/opt/bin/virtproxy)

  200
	    7f000000 [unknown] (/usr/lib/liburing.so.2.3)
	    55550010 main+0x4 (/opt/bin/virtproxy)

  200
	    7f000000 [unknown] (/usr/lib/liburing.so.2.3)
	    55550010 main+0x4 (/opt/bin/virtproxy)
"""
NEAR = ("near", "main", "Loop::turn", "do_syscall_64_[k]", "_copy_to_iter_[k]")
FAR = ("far", "main", "[liburing.so.2.3]")


def folded():
    names = {100: "near", 200: "far"}
    return flame.fold(flame.read_samples(SCRIPT.splitlines(), names.__getitem__))


def test_samples_are_read_outermost_first_and_added_up():
    assert folded() == {NEAR: 1, FAR: 2}


def test_shares_are_of_all_samples():
    shares = dict(flame.self_shares(folded()))
    assert shares == {"[liburing.so.2.3]": 2 / 3, "_copy_to_iter_[k]": 1 / 3}
    assert flame.shares_of(folded(), lambda stack: stack[0]) == [("far", 2 / 3), ("near", 1 / 3)]


def test_the_folded_form_is_one_stack_a_line():
    assert flame.folded_text({FAR: 2}) == "far;main;[liburing.so.2.3] 2\n"


def test_names_lose_what_does_not_tell():
    assert flame.short_name("finish_task.isra.0+0x8", "[kernel.kallsyms]") == "finish_task"
    assert flame.short_name("void virtproxy::A<int>::b(char)+0x1", "/x") == "A::b"


def test_the_graph_is_as_wide_as_the_shares():
    root = xml.etree.ElementTree.fromstring(flame.draw(folded(), "all & everything"))
    widths = {}
    for group in root.iter("{http://www.w3.org/2000/svg}g"):
        title = group.find("{http://www.w3.org/2000/svg}title").text
        widths[title] = float(group.find("{http://www.w3.org/2000/svg}rect").get("width"))
    assert round(widths["far, 66.7%"]) == 800
    assert round(widths["near, 33.3%"]) == 400
    assert "_copy_to_iter, 33.3%" in widths


def test_activities():
    assert profiler.activity(NEAR) == "copying bytes"
    assert profiler.activity(FAR) == "other code in user space"
    assert profiler.activity(("near", "main", "Session::plan")) == "virtproxy: the core"
    assert profiler.activity(("near", "Loop::turn")) == "virtproxy: the driver"
    waking = ("near", "sys_[k]", "try_to_wake_up_[k]", "_raw_spin_unlock_irqrestore_[k]")
    assert profiler.activity(waking) == "waking and switching"


def test_the_summary_of_strace_is_read():
    text = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 99.00    0.100000           1       990           io_uring_enter
  1.00    0.001000           1        10        10 read
  0.00    0.000000           0         1           close
------ ----------- ----------- --------- --------- ----------------
100.00    0.101000           1      1001        10 total
"""
    assert profiler.parse_strace(text) == [["io_uring_enter", "99%"], ["read", "1%"]]
