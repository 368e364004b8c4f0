"""Medians, spreads and ratios."""

from figures import Run, Runs, Spread, figures_of
from processes import parse_cpu_line


def run(contestant, number, failure=None, noise=(), **figures):
    return Run("load", "pinned", contestant, number, figures, list(noise), failure)


def test_a_spread_is_median_least_and_most():
    assert Spread.of([3, 1, 10]) == Spread(3, 1, 10, 3)
    assert Spread.of([1, 2]) == Spread(1.5, 1, 2, 2)
    assert Spread.of([]) is None


def test_a_ratio_is_taken_round_by_round():
    runs = Runs([run("a", 0, cpu_per_gb=1), run("b", 0, cpu_per_gb=2),
                 run("a", 1, cpu_per_gb=3), run("b", 1, cpu_per_gb=12),
                 run("b", 2, cpu_per_gb=8), run("a", 2, cpu_per_gb=8)])
    assert runs.ratio("a", "b", "cpu_per_gb") == Spread(0.5, 0.25, 1, 3)


def test_a_round_that_one_of_them_lacks_is_left_out():
    runs = Runs([run("a", 0, cpu_per_gb=1), run("a", 1, cpu_per_gb=9),
                 run("b", 0, cpu_per_gb=4), run("b", 1, failure="stalled")])
    assert runs.ratio("a", "b", "cpu_per_gb") == Spread(0.25, 0.25, 0.25, 1)
    assert runs.ratio("a", "nobody", "cpu_per_gb") is None
    assert runs.failure("b") == "stalled"
    assert runs.failure("a") is None


def test_the_best_is_the_least_or_the_most():
    runs = Runs([run("a", 0, cpu_per_gb=1, gb_per_s=1), run("b", 0, cpu_per_gb=2, gb_per_s=2)])
    assert runs.best(["a", "b"], "cpu_per_gb") == "a"
    assert runs.best(["a", "b"], "gb_per_s") == "b"
    assert runs.best(["c"], "gb_per_s") is None


def test_noise_is_counted_by_run():
    runs = Runs([run("a", 0, noise=["steal", "spread"]), run("a", 1), run("b", 0)])
    assert runs.noisy("a") == 1
    assert runs.noisy() == 1
    assert runs.count("a") == 2


def test_figures_come_from_the_load_generators_report():
    bulk = {"mode": "bulk", "bytes": {"total": 5}, "bytes_per_second": 2e9,
            "processes_total": {"cpu_seconds_per_gb": 0.25}}
    assert figures_of(bulk) == {"gb_per_s": 2, "cpu_per_gb": 0.25}
    exchange = {"mode": "ping-pong", "bytes": {"total": 0}, "bytes_per_second": 0,
                "messages_per_second": 100, "processes_total": {"cpu_us_per_message": 7},
                "latency_ns": {"p50": 50_000, "p99": 90_000}}
    assert figures_of(exchange) == {"messages_per_s": 100, "cpu_us_per_message": 7, "p50_us": 50,
                                    "p99_us": 90}


def test_busy_time_leaves_out_idling_and_waiting_and_theft():
    ticks = "cpu  100 200 300 4000 5000 10 20 700 0 0\ncpu0 1 2 3\n"
    assert parse_cpu_line(ticks) == (6.3, 7.0)
