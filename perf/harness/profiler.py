"""Where the time of a pair goes: sampled call stacks under load. See perf/README.md.

Called by perf/profile, which installs and builds first. Where the processor counts cycles, samples
are taken by them; elsewhere, as in most virtual machines, by a clock.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

import flame
import report
from compare import PLACEMENTS, RESULTS, chosen, machine, say
from figures import FIGURES, figures_of
from loads import WARM_UP, Load, every_load
from peers import Peer, every_peer, own
from processes import Failed, Stage, await_that, cpu_seconds, descendants, find_program

FREQUENCY = 2999  # samples a second; odd, so as not to keep step with anything
TOP_FUNCTIONS = 25
BUSY = 0.05  # seconds of CPU by which a load has begun
DEFAULT_LOADS = ("bulk-1", "bulk-16", "ping-pong-1", "ping-pong-64", "one-way", "churn")

# What a function at the top of a stack is doing; the first that matches it.
ACTIVITIES = [
    ("copying bytes",
     r"^(_?copy_(to|from)|copy_page|copyin|copyout|rep_movs|__memcpy|memcpy|memmove|__memmove"
     r"|_copy_|copy_user|copy_to_iter|skb_copy_datagram|simple_copy)"),
    ("memory for packets",
     r"(alloc|kfree|kmem|slab|skb_release|skb_free|free_unref|__free_page|get_page|put_page"
     r"|page_frag|memset|clear_page|mod_.*state|charge|obj_cgroup|folio|consume_skb|sock_wfree"
     r"|rmqueue|zone|rcu_all_qs)"),
    ("waking and switching",
     r"(wake|sock_def_readable|write_space|schedule|switch|sched|enqueue|dequeue|select_task"
     r"|pick_next|update_curr|update_load|cfs|eevdf|finish_task|resched|idle|hrtimer|cpuacct"
     r"|__futex|prepare_to_wait|finish_wait|psi_|ttwu|task_rq)"),
    ("entering the kernel",
     r"(entry_|syscall|exit_to_user|sysret|swapgs|irqentry|asm_|__cfi|io_uring_enter|fdget|fput"
     r"|fget|__io_uring_register|clock_gettime|ktime_get|read_tsc)"),
    ("io_uring", r"^(_*io_|__se_sys_io|ctx_flush|req_|tctx_|llist_)"),
    ("locks", r"(spin_(un)?lock|mutex|raw_spin|queued_spin|lock_sock|release_sock|rcu_read)"),
    ("unix and TCP sockets",
     r"(unix_|sock_|skb_|tcp_|ip_|inet|__sys_|____sys|recv|send|sk_|net_|import_iovec|scm_"
     r"|security_|aa_|apparmor|netif|loopback|nf_|wait_for)"),
    ("pipes and splice", r"(splice|pipe_|_pipe)"),
    ("poll and epoll", r"(poll|ep_)"),
]
OWN_CORE = re.compile(
    r"^(Session|Scheduler|Greeting|Budget|Flight|Slab|StreamNumbers|IndexList|Batch|encode_header"
    r"|decode_header|frame_trailer|XXH)")


def activity(stack: flame.Stack) -> str:
    name = stack[-1]
    if not name.endswith("_[k]"):
        if OWN_CORE.match(name):
            return "virtproxy: the core"
        if re.match(r"^(__)?(mem(cpy|move|set))", name):
            return "copying bytes"
        if re.search(r"::|^(main|run)$", name):
            return "virtproxy: the driver"
        return "other code in user space"
    in_kernel = [frame for frame in stack if frame.endswith("_[k]")]
    return kernel_activity([frame.removesuffix("_[k]") for frame in in_kernel])


def kernel_activity(frames: Sequence[str]) -> str:
    # The clock's tick waits for interrupts to be allowed: what a function that allows them again
    # is charged with was done by its caller.
    own_frames = [frame for frame in frames if not re.search(r"unlock_irq", frame)] or frames
    for title, pattern in ACTIVITIES:
        if re.search(pattern, own_frames[-1]):
            return title
    return "the rest of the kernel"


def sampling_event(perf: str) -> str:
    counted = subprocess.run([perf, "stat", "-x,", "-e", "cycles", "true"], text=True,
                             stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE, check=False)
    countable = counted.returncode == 0 and counted.stderr.split(",", 1)[0].strip().isdigit()
    return "cycles" if countable else "cpu-clock"


def record(stage: Stage, load: Load, ends: Sequence[str], seconds: float,
           ) -> tuple[flame.Folded, Mapping]:
    """Samples under load, and the load generator's report of the same time."""
    perf = find_program("perf")
    out = stage.path("report.json")
    command = [own("virtproxy-bench"), "run", *load.arguments, *ends, "--duration",
               f"{seconds + 1:g}", "--warmup", f"{WARM_UP:g}", "--wait", "5", "--quiet", "--tree",
               "--json", out]
    for pid in stage.pids():
        command += ["--pid", str(pid)]
    if stage.cpus is not None:
        command += ["--pin", str(min(stage.cpus))]
    bench = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    idle = cpu_seconds(stage.pids())
    # Samples of the start are no part of it.
    await_that("the load begins", lambda: bench.poll() is not None
               or cpu_seconds(stage.pids()) > idle + BUSY)
    time.sleep(WARM_UP)
    data = stage.path("perf.data")
    # Of whole CPUs: a clock of the processes' own would be set anew at every switch between them,
    # which costs more than the switch does.
    cpus = [] if stage.cpus is None else ["-C", ",".join(map(str, sorted(stage.cpus)))]
    sampled = subprocess.run(
        [perf, "record", "-q", "-a", *cpus, "-e", sampling_event(perf), "-F", str(FREQUENCY),
         "--call-graph", "dwarf,8192", "-o", data, "--", "sleep", f"{seconds:g}"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    said = bench.communicate(timeout=seconds + 60)[1].decode(errors="replace").strip()
    if bench.returncode != 0:
        raise Failed(said.splitlines()[-1] if said else "the load generator failed")
    if sampled.returncode != 0:
        raise Failed(f"perf record: {sampled.stdout.decode(errors='replace').strip()}")
    names = {pid: process.name for process in stage.measured for pid in descendants(process.pid)}
    script = subprocess.run([perf, "script", "-i", data, "--no-inline", "--pid",
                             ",".join(map(str, names)), "-F", "pid,ip,sym,dso"],
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL, text=True, errors="replace", check=False)
    folded = flame.fold(flame.read_samples(script.stdout.splitlines(),
                                           lambda pid: names.get(pid, "other")))
    if not folded:
        raise Failed("perf took no samples")
    with open(out, encoding="utf-8") as file:
        return folded, json.load(file)


def system_calls(stage: Stage, load: Load, ends: Sequence[str]) -> list[list[str]]:
    """Which system calls and in what proportion, counted by strace in a run of its own."""
    if shutil.which("strace") is None:
        return []
    bench = subprocess.Popen([own("virtproxy-bench"), "run", *load.arguments, *ends, "--duration",
                              "60", "--warmup", "0", "--quiet", "--wait", "5"],
                             stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    rows = []
    try:
        time.sleep(0.5)
        tracers = []
        for process in stage.measured:
            at = stage.path(f"strace-{process.pid}")
            tracers.append((process, at, subprocess.Popen(
                ["strace", "-f", "-c", "-qq", "-o", at, "-p", str(process.pid)],
                stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)))
        time.sleep(1)
        for process, at, tracer in tracers:
            tracer.send_signal(signal.SIGINT)
            tracer.wait(10)
            with open(at, encoding="utf-8") as file:
                rows += [[process.name, *counted] for counted in parse_strace(file.read())]
    finally:
        bench.kill()
        bench.wait()
    return rows


def parse_strace(text: str) -> list[list[str]]:
    """[call, share of all calls] of a summary by strace -c, most first, the rare ones left out."""
    found = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 5 and fields[3].isdigit() and fields[-1] != "total":
            found[fields[-1]] = int(fields[3])
    total = sum(found.values())
    return [[name, f"{count / total:.0%}"]
            for name, count in sorted(found.items(), key=lambda item: -item[1])
            if count / total >= 0.005]


def describe(load: Load, peer: Peer, placement: str, folded: flame.Folded, measured: Mapping,
             calls: Sequence[Sequence[str]]) -> str:
    """Tables of one load."""
    figures = figures_of(measured)
    bulk = "cpu_per_gb" in figures
    cost = figures["cpu_per_gb"] if bulk else figures.get("cpu_us_per_message", 0.0)
    unit = "CPU-s per GB" if bulk else "us CPU a message"
    digits = 3 if bulk else 2

    def rows(shares: Sequence[tuple[str, float]], most: int) -> list[list[str]]:
        return [[name.replace("_[k]", " (kernel)"), f"{share:.1%}", f"{cost * share:.{digits}f}"]
                for name, share in shares[:most]]

    said = ", ".join(f"{report.number(figures[name], FIGURES[name].digits)} {FIGURES[name].title}"
                     for name in load.figures if name in figures)
    parts = [f"## {load.title}: {peer.title}, {placement}\n", f"{said} while sampled; "
             f"{sum(folded.values()):,} samples.\n",
             report.table(["doing", "share", unit],
                          rows(flame.shares_of(folded, activity), 20)),
             report.table(["process", "share", unit],
                          rows(flame.shares_of(folded, lambda stack: stack[0]), 9)),
             report.table(["function", "share", unit],
                          rows(flame.self_shares(folded), TOP_FUNCTIONS))]
    if calls:
        parts.append(report.table(["process", "system call", "of all its calls"], calls, right=2))
    return "\n".join(parts)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="perf/profile", description="Shows where the time of a pair of processes goes.")
    parser.add_argument("--load", action="append", metavar="NAME", default=[],
                        help=f"may be repeated ({', '.join(DEFAULT_LOADS)})")
    parser.add_argument("--peer", metavar="NAME", default="virtproxy", help="whose (virtproxy)")
    parser.add_argument("--seconds", type=float, default=3, help="of each sampling (3)")
    parser.add_argument("--free", action="store_true", help="not everything on one CPU")
    parser.add_argument("--save", action="store_true",
                        help="write tables and flame graphs to perf/results")
    parser.add_argument("--folded", metavar="FILE", help="write the stacks of the last load there")
    options = parser.parse_args(arguments)
    loads = chosen("load", every_load(), options.load or DEFAULT_LOADS)
    peer = chosen("peer", every_peer(), [options.peer])[0]
    placement = "free" if options.free else "pinned"
    about = machine()
    prefix = "profile" if peer.name == "virtproxy" else f"profile-of-{peer.name}"
    parts = [f"# Where the time goes: {peer.title}, {placement}\n",
             f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}, "
             f"{about['cpus']} CPUs ({about['cpu']}), Linux {about['kernel']}. Samples by "
             f"{sampling_event(find_program('perf'))}, {FREQUENCY} a second of CPU, of both "
             "processes.\n"]
    for load in loads:
        say(f"== {load.title}")
        try:
            with Stage(PLACEMENTS[placement]) as stage:
                ends = load.prepare(stage, peer)
                folded, measured = record(stage, load, ends, options.seconds)
            with Stage(PLACEMENTS[placement]) as stage:
                calls = system_calls(stage, load, load.prepare(stage, peer))
        except (Failed, subprocess.SubprocessError) as failure:
            say(f"   FAILED: {failure}")
            return 1
        tables = describe(load, peer, placement, folded, measured, calls)
        print(tables)
        if options.folded:
            with open(options.folded, "w", encoding="utf-8") as file:
                file.write(flame.folded_text(folded))
        if options.save:
            RESULTS.mkdir(exist_ok=True)
            name = f"{prefix}-{load.name}.svg"
            heading = f"{peer.title}, {load.title}, {placement}"
            (RESULTS / name).write_text(flame.draw(folded, heading))
            tables += f"\n![flame graph]({name})\n"
        parts.append(tables)
    if options.save:
        (RESULTS / f"{prefix}.md").write_text("\n".join(parts))
        say(f"written: perf/results/{prefix}.md and a flame graph for each load")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
