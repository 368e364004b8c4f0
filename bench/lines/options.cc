#include "lines/options.h"

#include <fmt/format.h>

#include <map>
#include <random>

#include "option_checks.h"

namespace virtproxy::bench::lines {
namespace {

constexpr uint64_t kLargestUdp = 65507;
// Of unix datagrams: what the kernel lets a send buffer hold, whatever is asked for, less its
// overhead.
constexpr uint64_t kRoomForHeader = 64;
constexpr uint64_t kMostLines = uint64_t{1} << 32;  // a bit each is kept: 512 MiB

template <typename Enum>
Enum lookup(const std::map<std::string, Enum>& names, const std::string& name, const char* option) {
  const auto found = names.find(name);
  if (found != names.end()) return found->second;
  reject(fmt::format("{} must be one of {}, not '{}'", option, names_of(names), name));
}

const std::map<std::string, Framing>& framings() {
  static const std::map<std::string, Framing> kFramings = {
      {"auto", Framing::kAuto}, {"lf", Framing::kLf}, {"octet", Framing::kOctet}};
  return kFramings;
}

void check_ways(const LinesPlan& plan) {
  require(plan.source.has_value() || plan.sink.has_value(), "give --connect, --sink or both");
  require(plan.source || (plan.count > 0 && plan.shape.run != 0),
          "without --connect the writers run elsewhere: give their --run and --count");
  require(!plan.source || plan.source->kind != EndpointKind::kUdp ||
              plan.shape.size + kRoomForHeader <= kLargestUdp,
          fmt::format("a UDP datagram holds at most {} B: give a smaller --size",
                      kLargestUdp - kRoomForHeader));
  require(plan.shape.content != Content::kAll || !plan.source || plan.source->datagram() ||
              plan.write_framing == Framing::kOctet,
          "--content all has line feeds in the lines: write to a datagram socket or give --framing "
          "octet");
  require(plan.write_framing != Framing::kAuto, "--framing must be lf or octet");
  require(plan.shape.named() || plan.header == Header::kNone || !plan.sink,
          fmt::format("lines below {} B are found only without --header", kNamedSize));
}

}  // namespace

void add_lines_options(CLI::App& app, RawLines& raw) {
  LinesPlan& plan = raw.plan;
  app.add_option(
      "--connect", raw.connect,
      "where lines are written: unix-dgram:/path, unix:/path, udp:host:port, tcp:host:port, "
      "pipe:/path, pipe:- (standard output); none: the writers run elsewhere");
  app.add_option(
      "--sink", raw.sink,
      "where they are read: file:/path (followed), unix:/path, tcp:host:port, "
      "unix-dgram:/path, udp:host:port (listened on), pipe:/path, pipe:-; none: only written");
  app.add_option("-n,--writers", raw.writers, "writers, a thread and a socket each (1)");
  app.add_option("--size", raw.size,
                 "bytes of a line, 1 to 1M (200); below 48 without time and run")
      ->transform(as_size());
  app.add_option(
      "--content", raw.content,
      "filler: text, bytes (all but LF: NUL, control characters, no UTF-8) or all (text)");
  app.add_option("--header", raw.header, "in front of a line: none, 3164 or 5424 (none)");
  app.add_option("--framing", raw.framing, "on streams: lf or octet, octet-counted (lf)");
  app.add_option(
      "--sink-framing", raw.sink_framing,
      "of the sink: lf, octet or auto, by the first bytes of each message (auto; files: lf)");
  app.add_option("--batch", plan.batch, "lines in one write, or datagrams in one sendmmsg (1)");
  app.add_option("--rate", plan.rate,
                 "lines a second over all writers; the age counts from when each was due");
  app.add_option("--duration", plan.duration, "seconds to write (5)")->transform(as_seconds());
  app.add_option("--count", plan.count, "instead: lines of each writer");
  app.add_option("--settle", plan.settle,
                 "seconds without an arrival after which what is missing is lost (2)")
      ->transform(as_seconds());
  app.add_option("--wait", plan.wait, "seconds to wait for the first connection (0)")
      ->transform(as_seconds());
  app.add_flag("--reconnect", plan.reconnect,
               "writers whose connection breaks connect again and repeat the line that was cut");
  app.add_flag("--tolerate", raw.tolerate,
               "lost, doubled, reordered and corrupted lines are reported and are no failure");
  app.add_option("--run", raw.run, "number of the run, 1 to 1073741823 (drawn)");
  app.add_option("--pid", plan.pids, "process under test (may be repeated)");
  app.add_flag("--tree", plan.process_trees, "count the descendants of each --pid too");
  app.add_option("--pin", plan.cpus, "CPU of our threads; with two: CPU of writers, of the audit")
      ->delimiter(',');
  app.add_option("--interval", plan.interval,
                 "one JSON object a line on standard output each so often")
      ->transform(as_seconds());
  app.add_option("--histogram-log", plan.histogram_log,
                 "write the ages to FILE in the log format of HdrHistogram, a line an interval")
      ->type_name("FILE");
  app.add_option("--json", plan.json, "write the figures to FILE, - for standard output")
      ->type_name("FILE");
  app.add_flag("-q,--quiet", plan.quiet, "no table");
}

LinesPlan make_lines_plan(RawLines& raw, const CLI::App& app) {
  LinesPlan& plan = raw.plan;
  plan.shape.size = raw.size;
  plan.shape.writers = raw.writers;
  plan.shape.content = lookup<Content>(
      {{"text", Content::kText}, {"bytes", Content::kBytes}, {"all", Content::kAll}}, raw.content,
      "--content");
  plan.header = lookup<Header>(
      {{"none", Header::kNone}, {"3164", Header::kRfc3164}, {"5424", Header::kRfc5424}}, raw.header,
      "--header");
  plan.write_framing = lookup(framings(), raw.framing, "--framing");
  if (!raw.connect.empty()) plan.source = parse_source(raw.connect);
  if (!raw.sink.empty()) plan.sink = parse_sink(raw.sink);
  if (!raw.sink_framing.empty()) {
    plan.sink_framing = lookup(framings(), raw.sink_framing, "--sink-framing");
  } else if (plan.sink && plan.sink->kind == EndpointKind::kFile) {
    plan.sink_framing = Framing::kLf;
  }
  plan.tolerance = raw.tolerate ? Tolerance::kAll : Tolerance::kNothing;
  constexpr uint64_t kRuns = uint64_t{1} << 30;
  require(raw.run < kRuns, "--run must be 1 to 1073741823");
  plan.shape.run = static_cast<uint32_t>(raw.run);
  if (const std::string why = why_unusable(plan.shape); !why.empty()) reject(why);
  check_ways(plan);
  if (plan.shape.run == 0) {
    plan.shape.run = static_cast<uint32_t>(std::random_device{}() % (kRuns - 1) + 1);
  }
  require(!plan.source || !plan.source->datagram() || app.count("--framing") == 0,
          "--framing is for streams: a datagram is a line");
  require(!plan.sink || !plan.sink->datagram() || app.count("--sink-framing") == 0,
          "--sink-framing is for streams and files: a datagram is a line");
  require(!plan.source || plan.source->text != "pipe:-" || (plan.json != "-" && plan.interval == 0),
          "--connect pipe:- takes standard output for the lines: write --json to a file and leave "
          "out --interval");
  require(plan.count == 0 || app.count("--duration") == 0, "give --duration or --count, not both");
  require(plan.count <= kMostLines / plan.shape.writers,
          fmt::format("--count over all writers must be at most {}", kMostLines));
  require(plan.batch >= 1 && plan.batch <= 1024, "--batch must be 1 to 1024");
  require(plan.batch * plan.shape.size <= uint64_t{64} << 20,
          "--batch times --size must be at most 64M");
  require(plan.duration > 0 && plan.duration <= 1e6, "--duration must be positive");
  require(plan.rate >= 0 && plan.rate <= 1e9, "--rate must be 0 to 1e9");
  require(plan.settle > 0 && plan.settle <= 1e6, "--settle must be positive");
  require(plan.wait >= 0 && plan.wait <= 1e6, "--wait must not be negative");
  require(app.count("--interval") == 0 || (plan.interval >= 0.001 && plan.interval <= 1e6),
          "--interval must be at least 1ms");
  check_cpus(plan.cpus);
  return std::move(plan);
}

}  // namespace virtproxy::bench::lines
