// virtproxy-bench: see README.md.
#include <fmt/format.h>

#include <cstdio>
#include <exception>
#include <nlohmann/json.hpp>

#include "compare.h"
#include "failure.h"
#include "lines/run_lines.h"
#include "options.h"
#include "report.h"
#include "report_parts.h"
#include "run.h"

namespace virtproxy::bench {
namespace {

// Lines of --interval take the place of the table, and a report behind them is a line as well.
template <typename AnyPlan>
void write_results(const AnyPlan& plan, const std::string& table,
                   const nlohmann::ordered_json& report, FILE* out = stdout) {
  if (!table.empty() && !plan.quiet && plan.json != "-" && plan.interval == 0) {
    fmt::print(out, "{}", table);
    std::fflush(out);
  }
  if (!plan.json.empty()) write_report(report, plan.json, plan.interval > 0 && plan.json == "-");
}

Outcome conclude(Outcome outcome, const std::string& failure) {
  if (outcome != Outcome::kOk) fmt::print(stderr, "virtproxy-bench: {}\n", failure);
  return outcome;
}

Outcome execute(const Plan& plan) {
  check_writable(plan.json);
  const RunResult result = run_plan(plan);
  write_results(plan, result.measured ? format_table(plan, result) : "", make_json(plan, result));
  return conclude(result.outcome, result.failure);
}

Outcome execute(const lines::LinesPlan& plan) {
  check_writable(plan.json);
  const lines::LinesResult result = lines::run_lines(plan);
  // Standard output carries the lines then. A table behind them would be read as lines.
  const bool writes_lines = plan.source && plan.source->text == "pipe:-";
  write_results(plan, result.measured ? lines::format_lines_table(plan, result) : "",
                lines::make_lines_json(plan, result), writes_lines ? stderr : stdout);
  return conclude(result.outcome, result.failure);
}

Outcome execute(const CompareOptions& options) { return compare(options); }

Outcome execute(const ServeOptions& options) {
  return serve(options.listen, options.sockets, options.http_connect, options.duration,
               options.cpus);
}

Outcome execute(const HelpText& help) {
  fmt::print("{}", help.text);
  return Outcome::kOk;
}

}  // namespace
}  // namespace virtproxy::bench

int main(int argc, char** argv) {
  using virtproxy::bench::Outcome;
  try {
    const auto parsed = virtproxy::bench::parse_options(argc, argv);
    const Outcome outcome =
        std::visit([](const auto& what) { return virtproxy::bench::execute(what); }, parsed);
    return static_cast<int>(outcome);
  } catch (const virtproxy::bench::Failure& failure) {
    fmt::print(stderr, "virtproxy-bench: {}\n", failure.what());
    return static_cast<int>(failure.outcome());
  } catch (const std::exception& error) {
    fmt::print(stderr, "virtproxy-bench: {}\n", error.what());
    return static_cast<int>(Outcome::kConnectFailed);
  }
}
