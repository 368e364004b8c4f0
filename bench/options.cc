#include "options.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <initializer_list>
#include <map>
#include <random>

#include "lines/options.h"
#include "option_checks.h"
#include "uring/base/option_hint.h"

namespace virtproxy::bench {
namespace {

const std::map<std::string, Mode>& modes() {
  static const std::map<std::string, Mode> kModes = {
      {"bulk", Mode::kBulk},   {"ping-pong", Mode::kPingPong}, {"one-way", Mode::kOneWay},
      {"mixed", Mode::kMixed}, {"churn", Mode::kChurn},        {"idle", Mode::kIdle}};
  return kModes;
}

const std::map<std::string, Role>& directions() {
  static const std::map<std::string, Role> kDirections = {
      {"up", Role::kStreamUp}, {"down", Role::kStreamDown}, {"both", Role::kStreamBoth}};
  return kDirections;
}

template <typename Enum>
Enum lookup(const std::map<std::string, Enum>& names, const std::string& name, const char* what) {
  const auto found = names.find(name);
  if (found != names.end()) return found->second;
  reject(fmt::format("unknown {} '{}' (one of {})", what, name, names_of(names)));
}

// What CLI11 fills in before it is checked and translated.
struct Raw {
  std::string mode;
  std::string direction = "up";
  std::vector<std::string> connect;
  std::vector<std::string> listen;
  bool no_sink = false;
  bool no_half_close = false;
  bool http_connect = false;
  uint64_t send_buffer = 0;
  uint64_t receive_buffer = 0;
  double serve_duration = 0;
  std::vector<int> serve_cpus;
  Plan plan;
};

void add_sockets(CLI::App& app, Raw& raw) {
  app.add_flag("--http-connect", raw.http_connect,
               "for HTTP proxies: connections begin with CONNECT, which the sink answers");
  app.add_option("--sndbuf", raw.send_buffer, "SO_SNDBUF of every socket (default: the kernel's)")
      ->transform(as_size());
  app.add_option("--rcvbuf", raw.receive_buffer, "SO_RCVBUF of every socket")->transform(as_size());
}

void add_run(CLI::App& run, Raw& raw) {
  Plan& plan = raw.plan;
  run.add_option("mode", raw.mode, "bulk, ping-pong, one-way, mixed, churn or idle");
  run.add_option("--connect", raw.connect,
                 "where client ends connect to; given several times, they take turns")
      ->expected(1)
      ->take_all();
  run.add_option("--listen", raw.listen, "where sinks listen; the same address: the baseline");
  run.add_flag("--no-sink", raw.no_sink, "the sink runs elsewhere (virtproxy-bench serve)");
  run.add_option("-n,--connections", plan.connections, "connections; churn: at a time (1)");
  run.add_option("--ping-connections", plan.ping_connections, "mixed: ping-pong connections (1)");
  run.add_option("--size", plan.size, "message size of ping-pong, one-way, mixed and churn (64)")
      ->transform(as_size());
  run.add_option("--chunk", plan.chunk, "size of a bulk write (64K)")->transform(as_size());
  run.add_option("--direction", raw.direction, "of bulk streams: up, down or both (up)");
  run.add_option("--duration", plan.duration, "seconds to measure (5)")->transform(as_seconds());
  run.add_option("--bytes", plan.bytes, "instead: bytes per connection and direction")
      ->transform(as_size());
  run.add_option("--warmup", plan.warmup, "seconds before that, not measured (0.5)")
      ->transform(as_seconds());
  run.add_option("--rate", plan.rate,
                 "open loop: messages (bulk: writes; churn: connections) a second over all "
                 "connections; "
                 "latency counts from when each was due");
  run.add_flag("--verify", plan.verify, "check every byte on both sides");
  run.add_flag("--no-half-close", raw.no_half_close,
               "for proxies that end a connection when one side does");
  run.add_option("--pid", plan.pids, "process under test (may be repeated)");
  run.add_flag("--tree", plan.process_trees, "count the descendants of each --pid too");
  run.add_option("--pin", plan.cpus, "CPU of our threads; with two: CPU of client, of sink")
      ->delimiter(',');
  run.add_option("--stall-limit", plan.stall_limit,
                 "seconds without progress that end the run (10)")
      ->transform(as_seconds());
  run.add_option("--wait", plan.wait, "seconds to wait for the first connection to succeed (0)")
      ->transform(as_seconds());
  run.add_option("--json", plan.json, "write the figures to FILE, - for standard output")
      ->type_name("FILE");
  run.add_flag("--progress", plan.progress, "progress on stderr even if it is not a terminal");
  run.add_flag("-q,--quiet", plan.quiet, "no table");
  run.add_option("--interval", plan.interval,
                 "one JSON object a line on standard output each so often, instead of the table")
      ->transform(as_seconds());
  run.add_option("--histogram-log", plan.histogram_log,
                 "write the latencies to FILE in the log format of HdrHistogram")
      ->type_name("FILE");
  add_sockets(run, raw);
}

void add_serve(CLI::App& app, Raw& raw) {
  app.add_option("--listen", raw.listen, "where to listen (may be repeated)")->required();
  app.add_option("--duration", raw.serve_duration, "end after so many seconds")
      ->transform(as_seconds());
  app.add_option("--pin", raw.serve_cpus, "CPU to run on")->delimiter(',');
  add_sockets(app, raw);
}

void add_compare(CLI::App& app, CompareOptions& options) {
  app.add_option("BEFORE", options.before,
                 "report of the first run, as --json wrote it, or several")
      ->required();
  app.add_option("AFTER", options.after, "report of the second run")->required();
  app.add_option("--threshold", options.threshold,
                 "a figure that is worse by more ends with status 1 (5%)")
      ->transform(as_share());
  app.add_option("--figure", options.figures, "only this figure decides (may be repeated)")
      ->expected(1)
      ->take_all();
  app.add_flag("--json", options.json, "for machines");
}

SocketOptions socket_options(const Raw& raw) {
  constexpr uint64_t kLimit = 1 << 30;
  require(raw.send_buffer <= kLimit && raw.receive_buffer <= kLimit,
          "--sndbuf and --rcvbuf must not exceed 1 GiB");
  return {static_cast<int>(raw.send_buffer), static_cast<int>(raw.receive_buffer)};
}

Plan make_plan(Raw& raw, const CLI::App& run) {
  Plan& plan = raw.plan;
  require(!raw.mode.empty(), "give a mode: " + names_of(modes()));
  plan.mode = lookup(modes(), raw.mode, "mode");
  plan.direction = lookup(directions(), raw.direction, "direction");
  if (plan.mode == Mode::kOneWay) plan.direction = Role::kStreamUp;
  if (plan.mode == Mode::kIdle) plan.size = 1;
  plan.half_close = !raw.no_half_close;
  plan.http_connect = raw.http_connect;
  plan.sockets = socket_options(raw);
  require(!raw.connect.empty(), "give --connect ADDRESS: where client ends connect to");
  const bool timed = run.count("--duration") > 0;
  const bool warmed = run.count("--warmup") > 0;
  require(plan.bytes == 0 || !timed, "give --duration or --bytes, not both");
  require(plan.bytes == 0 || !warmed || plan.warmup == 0, "--bytes leaves no room for a --warmup");
  if (plan.bytes != 0) plan.warmup = 0;
  require(raw.no_sink != !raw.listen.empty(), "give either --listen ADDRESS or --no-sink");
  require(raw.listen.size() <= 1, "run takes one --listen");
  require(plan.connections >= 1 && plan.connections <= 1'000'000 && plan.ping_connections >= 1 &&
              plan.ping_connections <= 1'000'000,
          "the number of connections must be 1 to 1000000");
  constexpr uint64_t kLargest = uint64_t{1} << 30;
  require(plan.size >= 1 && plan.size <= kLargest && plan.chunk >= 1 && plan.chunk <= kLargest,
          "--size and --chunk must be 1 byte to 1 GiB");
  const auto only_of = [&](const char* option, std::initializer_list<Mode> modes,
                           const char* advice) {
    const bool means_something = std::find(modes.begin(), modes.end(), plan.mode) != modes.end();
    require(means_something || run.count(option) == 0,
            fmt::format("{} means nothing to {}{}", option, raw.mode, advice));
  };
  only_of("--size", {Mode::kPingPong, Mode::kOneWay, Mode::kMixed, Mode::kChurn},
          plan.mode == Mode::kBulk ? ": give the size of its writes by --chunk" : "");
  only_of("--chunk", {Mode::kBulk, Mode::kMixed}, "");
  only_of("--direction", {Mode::kBulk, Mode::kMixed}, "");
  only_of("--ping-connections", {Mode::kMixed}, "");
  require(plan.duration > 0 && plan.duration <= 1e6, "--duration must be positive");
  require(plan.warmup >= 0 && plan.warmup <= 1e6, "--warmup must not be negative");
  require(plan.rate >= 0 && plan.rate <= 1e9, "--rate must be 0 to 1e9");
  require(plan.stall_limit > 0 && plan.stall_limit <= 1e6, "--stall-limit must be positive");
  require(plan.wait >= 0 && plan.wait <= 1e6, "--wait must not be negative");
  require(plan.rate == 0 || plan.mode != Mode::kIdle, "--rate means nothing to idle connections");
  require(plan.rate == 0 || plan.mode != Mode::kBulk || plan.direction == Role::kStreamUp,
          "--rate paces bulk streams up only");
  require(plan.bytes == 0 || plan.rate == 0, "give --bytes or --rate, not both");
  require(plan.bytes == 0 ||
              (plan.mode != Mode::kChurn && plan.mode != Mode::kIdle && plan.mode != Mode::kMixed),
          "--bytes applies to bulk, one-way and ping-pong");
  require(plan.bytes % plan.size == 0 || plan.mode == Mode::kBulk,
          "--bytes must be a multiple of --size");
  require(run.count("--interval") == 0 || (plan.interval >= 0.001 && plan.interval <= 1e6),
          "--interval must be at least 1ms");
  require(plan.histogram_log.empty() || plan.has_latency(),
          "--histogram-log: this mode measures no latency");
  check_cpus(plan.cpus);
  for (const std::string& text : raw.connect) plan.connect.push_back(parse_address(text));
  if (!raw.listen.empty()) plan.listen = parse_address(raw.listen.front());
  plan.progress = plan.progress || ::isatty(STDERR_FILENO) == 1;
  plan.seed = std::random_device{}() | (uint64_t{std::random_device{}()} << 32);
  return std::move(plan);
}

ServeOptions make_serve(const Raw& raw) {
  ServeOptions options;
  options.sockets = socket_options(raw);
  options.http_connect = raw.http_connect;
  options.duration = raw.serve_duration;
  options.cpus = raw.serve_cpus;
  check_cpus(options.cpus);
  require(options.duration >= 0 && options.duration <= 1e6, "--duration must not be negative");
  for (const std::string& text : raw.listen) options.listen.push_back(parse_address(text));
  return options;
}

}  // namespace

const char* mode_name(Mode mode) {
  for (const auto& [name, value] : modes()) {
    if (value == mode) return name.c_str();
  }
  return "";
}

const char* direction_name(Role role) {
  for (const auto& [name, value] : directions()) {
    if (value == role) return name.c_str();
  }
  return "";
}

Options parse_options(int argc, char** argv) {
  Raw raw;
  lines::RawLines raw_lines;
  CompareOptions compare;
  CLI::App app{"Measures any proxy from outside: load on one side, sinks on the other.",
               "virtproxy-bench"};
  app.set_version_flag("--version", std::string("virtproxy-bench ") + VIRTPROXY_VERSION,
                       "print the version");
  app.require_subcommand(1);
  CLI::App* run = app.add_subcommand("run", "apply a load and report");
  CLI::App* lines = app.add_subcommand("lines", "write numbered log lines and audit what arrives");
  CLI::App* serve = app.add_subcommand("serve", "the sink of `run` alone");
  CLI::App* comparison = app.add_subcommand("compare", "ratios of the figures of two reports");
  add_run(*run, raw);
  lines::add_lines_options(*lines, raw_lines);
  add_serve(*serve, raw);
  add_compare(*comparison, compare);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    for (const CLI::App* asked : {run, lines, serve, comparison}) {
      if (asked->parsed()) return HelpText{asked->help()};
    }
    return HelpText{app.help()};
  } catch (const CLI::CallForVersion& version) {
    return HelpText{std::string(version.what()) + "\n"};
  } catch (const CLI::ExtrasError&) {
    reject(extras_fault(app) + " (--help tells more)");
  } catch (const CLI::ParseError& error) {
    reject(fmt::format("{} (--help tells more)", error.what()));
  }
  if (serve->parsed()) return make_serve(raw);
  if (lines->parsed()) return lines::make_lines_plan(raw_lines, *lines);
  if (comparison->parsed()) return compare;
  return make_plan(raw, *run);
}

}  // namespace virtproxy::bench
