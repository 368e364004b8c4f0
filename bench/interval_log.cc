#include "interval_log.h"

#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <utility>

#include "clock.h"

namespace virtproxy::bench {

IntervalLog::IntervalLog(double interval, std::vector<pid_t> pids, bool trees)
    : interval_ns_(static_cast<int64_t>(interval * kSecond)),
      pids_(std::move(pids)),
      trees_(trees) {}

void IntervalLog::start(int64_t now_ns) {
  if (!enabled()) return;
  started_ = true;
  start_ = last_ = now_ns;
  next_ = now_ns + interval_ns_;
  for (const pid_t pid : pids_) before_.push_back(sample_process(pid, trees_));
}

double IntervalLog::length(int64_t now_ns) const {
  return static_cast<double>(now_ns - last_) / kSecond;
}

double IntervalLog::begin() const { return static_cast<double>(last_ - start_) / kSecond; }

void IntervalLog::write(int64_t now_ns, const nlohmann::ordered_json& fields) {
  nlohmann::ordered_json line = {
      {"interval", number_++}, {"start", begin()}, {"seconds", length(now_ns)}};
  line.update(fields);
  auto processes = nlohmann::ordered_json::array();
  for (size_t i = 0; i < pids_.size(); ++i) {
    const ProcessSample sample = sample_process(pids_[i], trees_);
    processes.push_back({{"pid", pids_[i]},
                         {"alive", sample.alive},
                         {"cpu_seconds", sample.alive ? sample.cpu - before_[i].cpu : 0.0},
                         {"rss", sample.rss}});
    before_[i] = sample;
  }
  if (!processes.empty()) line["processes"] = std::move(processes);
  fmt::print("{}\n", line.dump());
  std::fflush(stdout);
  last_ = now_ns;
  // An interval that was missed is not made up for.
  while (next_ <= now_ns) next_ += interval_ns_;
}

}  // namespace virtproxy::bench
