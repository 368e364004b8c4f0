// The metrics: what they are made of, and how they are served.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <optional>
#include <utility>

#include "uring/base/clock.h"
#include "uring/daemon/control.h"

namespace virtproxy {
namespace {

constexpr StatInfo kBuildInfo{"build_info", "Always 1; the label has the version", StatKind::kGauge,
                              StatUnit::kNone};
constexpr StatInfo kUptime{"uptime", "Time since the start of the process", StatKind::kGauge,
                           StatUnit::kSeconds};
constexpr StatInfo kDescriptors{"descriptors", "Open descriptors", StatKind::kGauge,
                                StatUnit::kNone};
constexpr StatInfo kLinesDropped{"log_lines_dropped",
                                 "Lines of the daemon's own log that standard error did not take",
                                 StatKind::kCounter, StatUnit::kNone};
constexpr StatInfo kLinesSuppressed{
    "log_lines_suppressed",
    "Lines of the daemon's own log that were held back because there were many", StatKind::kCounter,
    StatUnit::kNone};
constexpr StatInfo kTurns{"turn", "How long the turns of a worker took, sleep left out",
                          StatKind::kHistogram, StatUnit::kSeconds};

std::string http_answer(std::string_view status, std::string_view type, std::string_view body) {
  return fmt::format(
      "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
      status, type, body.size(), body);
}

// OpenMetrics where a client accepts it and does not like the other format more: a client that
// takes both names the one that it likes more first, or gives it the larger q.
MetricsFormat accepted_format(std::string_view head) {
  std::string lower(head);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  const size_t accept = lower.find("\r\naccept:");
  if (accept == std::string::npos) return MetricsFormat::kPrometheus;
  const std::string line = lower.substr(accept + 2, lower.find("\r\n", accept + 2) - accept - 2);
  const auto weight = [&line](std::string_view type) {
    const size_t at = line.find(type);
    if (at == std::string::npos) return 0.0;
    const std::string range = line.substr(at, line.find(',', at) - at);
    const size_t q = range.find(";q=");
    return q == std::string::npos ? 1.0 : std::strtod(range.c_str() + q + 3, nullptr);
  };
  const double open = weight("application/openmetrics-text");
  if (open <= 0) return MetricsFormat::kPrometheus;
  return open >= weight("text/plain") ? MetricsFormat::kOpenMetrics : MetricsFormat::kPrometheus;
}

}  // namespace

void Control::handle_http(const Asker& asker, std::string_view head) {
  const std::vector<std::string_view> words = split_words(head.substr(0, head.find("\r\n")));
  constexpr std::string_view kPlain = "text/plain; charset=utf-8";
  if (words.size() != 3 || !words[2].starts_with("HTTP/1.")) {
    return reply(asker, http_answer("400 Bad Request", kPlain, "what is this?\n"));
  }
  if (words[0] != "GET") {
    return reply(asker, http_answer("405 Method Not Allowed", kPlain, "only GET\n"));
  }
  if (words[1] != "/metrics" && !words[1].starts_with("/metrics?")) {
    return reply(asker, http_answer("404 Not Found", kPlain, "try /metrics\n"));
  }
  const MetricsFormat format = accepted_format(head);
  collect_metrics(format, [asker, format](const std::string& text) {
    reply(asker, http_answer("200 OK",
                             format == MetricsFormat::kOpenMetrics
                                 ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
                                 : "text/plain; version=0.0.4; charset=utf-8",
                             text));
  });
}

// The samples of a worker are rendered here, so that those of a family of all workers stand
// together.
void Control::collect_metrics(MetricsFormat format, std::function<void(std::string)> finish) {
  struct Sample {
    StatInfo info;
    uint64_t value;
    std::vector<std::pair<std::string, std::string>> labels;
    std::optional<DurationHistogram> histogram;
  };
  struct Samples final : StatVisitor {
    void visit(const StatInfo& info, const StatSample& sample) override {
      auto& copy = all.emplace_back(Sample{info, sample.value, {}, {}});
      for (const StatLabel& label : sample.labels)
        copy.labels.emplace_back(label.name, label.value);
      if (sample.histogram != nullptr) copy.histogram = *sample.histogram;
    }
    std::vector<Sample> all;
  };
  using ChannelSamples = std::vector<std::pair<std::string, std::vector<Sample>>>;
  const auto render = [this, format](const std::vector<ChannelSamples>& parts,
                                     const std::vector<DurationHistogram>& turns) {
    PrometheusText text(format);
    const ProcessFacts facts = actions_.facts();
    const StatLabel version{"version", VIRTPROXY_VERSION};
    text.visit(kBuildInfo, {1, {}, {&version, 1}});
    text.visit(kUptime, {static_cast<uint64_t>((monotonic_now() - started_).count())});
    text.visit(kDescriptors, {facts.descriptors});
    text.visit(kLinesDropped, {facts.log_lines_dropped});
    text.visit(kLinesSuppressed, {facts.log_lines_suppressed});
    actions_.visit_stats(text);
    for (size_t i = 0; i < turns.size(); ++i) {
      const std::string number = std::to_string(i);
      const StatLabel worker{"worker", number};
      text.visit(kTurns, {0, {}, {&worker, 1}, &turns[i]});
    }
    for (const ChannelSamples& part : parts) {
      for (const auto& [name, samples] : part) {
        text.set_common_label("channel", name);
        for (const Sample& sample : samples) {
          std::vector<StatLabel> labels;
          for (const auto& [label, shown] : sample.labels) labels.push_back({label, shown});
          text.visit(sample.info,
                     {sample.value, {}, labels, sample.histogram ? &*sample.histogram : nullptr});
        }
      }
    }
    return text.text();
  };
  const auto collect = [](Worker::Channels channels, Instant) {
    ChannelSamples all;
    for (const auto& channel : channels) {
      Samples samples;
      channel->visit_stats(samples);
      all.emplace_back(channel->label(), std::move(samples.all));
    }
    return all;
  };
  collect_turns([this, collect, render,
                 finish = std::move(finish)](const std::vector<DurationHistogram>& turns) {
    ask_workers<ChannelSamples>(collect,
                                [render, turns, finish](const std::vector<ChannelSamples>& parts) {
                                  finish(render(parts, turns));
                                });
  });
}

void Control::collect_turns(std::function<void(std::vector<DurationHistogram>)> finish) {
  gather<DurationHistogram>(
      mailbox_, workers_.size(),
      [this](size_t i, std::shared_ptr<Answer<DurationHistogram>> answer) {
        workers_[i]->ask_loop(
            [answer = std::move(answer)](const Loop& loop) { answer->give(loop.turns()); });
      },
      std::move(finish));
}

}  // namespace virtproxy
