// The daemons' log goes into the trace.
#include <fmt/format.h>

#include "tests/sim/process.h"
#include "tests/sim/world.h"
#include "uring/base/log.h"

extern "C" void
__wrap__ZN9virtproxy12log_internal5writeENS_8LogLevelEN3fmt2v917basic_string_viewIcEENS3_17basic_format_argsINS3_20basic_format_contextINS3_8appenderEcEEEE(  // NOLINT
    virtproxy::LogLevel, fmt::string_view format, fmt::format_args arguments) {
  using virtproxy::sim::Process;
  auto& world = virtproxy::sim::World::current();
  const Process* process = Process::current();
  const int number = process == nullptr ? -1 : static_cast<int>(process->number());
  world.trace("log", number);
  if (world.printing()) {
    world.print(fmt::format("  {}: {}", number, fmt::vformat(format, arguments)));
  }
}
