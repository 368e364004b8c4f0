// What the daemons say of themselves: the log goes into the trace, and what a session ended of to
// the oracle that judges it.
#include <fmt/format.h>

#include "core/fault.h"
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
  if (std::string_view(format.data(), format.size()).find("held the channel back") !=
      std::string_view::npos) {
    const auto id = fmt::vformat("{}", arguments);
    world.count(virtproxy::sim::Mishap::kStreamStalls);
    world.channel(static_cast<unsigned>(std::stoul(id))).note_stall(world.now());
  }
  if (world.printing()) {
    world.print(fmt::format("  {}: {}", number, fmt::vformat(format, arguments)));
  }
}

// virtproxy::fault_row(), of which everybody asks for a fault's name who reports it
extern "C" const virtproxy::FaultRow& __real__ZN9virtproxy9fault_rowENS_5FaultE(virtproxy::Fault);
extern "C" const virtproxy::FaultRow& __wrap__ZN9virtproxy9fault_rowENS_5FaultE(
    virtproxy::Fault fault) {
  const virtproxy::FaultRow& row = __real__ZN9virtproxy9fault_rowENS_5FaultE(fault);
  const auto* process = virtproxy::sim::Process::current();
  if (process != nullptr && row.scope == virtproxy::FaultScope::kSession) {
    virtproxy::sim::World::current().note_fault(process->number(), fault);
  }
  return row;
}
