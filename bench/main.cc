// virtproxy-bench: see README.md.
#include <fmt/format.h>

#include <cstdio>
#include <exception>

#include "failure.h"
#include "options.h"
#include "report.h"
#include "run.h"

namespace virtproxy::bench {
namespace {

Outcome execute(const Plan& plan) {
  const RunResult result = run_plan(plan);
  if (result.measured && !plan.quiet && plan.json != "-") {
    fmt::print("{}", format_table(plan, result));
    std::fflush(stdout);
  }
  if (!plan.json.empty()) write_json(plan, result, plan.json);
  if (result.outcome != Outcome::kOk) {
    fmt::print(stderr, "virtproxy-bench: {}\n", result.failure);
  }
  return result.outcome;
}

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
