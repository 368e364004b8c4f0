#include "noise.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "clock.h"

namespace virtproxy::bench {
namespace {

constexpr size_t kIntervals = 8;
constexpr int64_t kShortestInterval = 100 * kMillisecond;

std::vector<double> rates(const std::vector<Tick>& ticks) {
  std::vector<double> found;
  if (ticks.size() < 2) return found;
  const int64_t span = ticks.back().time - ticks.front().time;
  const size_t count =
      std::min(kIntervals, static_cast<size_t>(std::max<int64_t>(span / kShortestInterval, 1)));
  const Tick* start = &ticks.front();
  for (const Tick& tick : ticks) {
    const int64_t due = ticks.front().time +
                        span * static_cast<int64_t>(found.size() + 1) / static_cast<int64_t>(count);
    if (tick.time < due || tick.time == start->time) continue;
    found.push_back(static_cast<double>(tick.moved - start->moved) /
                    (static_cast<double>(tick.time - start->time) / kSecond));
    start = &tick;
  }
  return found;
}

}  // namespace

std::string NoiseResult::criterion() {
  return fmt::format(
      "noisy: steal > {:.0f} %, others' CPU > {:.0f} % of the machine (known "
      "with --pid or no proxy), else own involuntary switches > {:.0f}/s, or (max-min)/mean of {}-{} "
      "intervals > {:.0f} %",
      kMaxSteal * 100, kMaxForeign * 100, kMaxInvoluntary, kMinIntervals,
      kIntervals, kMaxSpread * 100);
}

void judge_noise(const std::vector<Tick>& ticks, bool judge_switches, NoiseResult& noise) {
  noise.intervals = rates(ticks);
  if (noise.judged()) {
    const auto [least, most] = std::minmax_element(noise.intervals.begin(), noise.intervals.end());
    const double mean = std::accumulate(noise.intervals.begin(), noise.intervals.end(), 0.0) /
                        static_cast<double>(noise.intervals.size());
    if (mean > 0) noise.spread = (*most - *least) / mean;
  }
  const auto complain = [&noise](bool exceeded, std::string text) {
    if (exceeded) noise.reasons.push_back(std::move(text));
  };
  complain(noise.steal > NoiseResult::kMaxSteal, fmt::format("steal {:.1f} %", noise.steal * 100));
  complain(noise.foreign_known && noise.foreign > NoiseResult::kMaxForeign,
           fmt::format("other processes used {:.1f} % of the machine", noise.foreign * 100));
  complain(judge_switches && noise.involuntary > NoiseResult::kMaxInvoluntary,
           fmt::format("{:.0f} involuntary switches a second", noise.involuntary));
  complain(noise.spread > NoiseResult::kMaxSpread,
           fmt::format("intervals differ by {:.0f} %", noise.spread * 100));
}

}  // namespace virtproxy::bench
