// What a run of numbered lines shall do: the command line, checked and with its defaults filled in.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lines/endpoint.h"
#include "lines/line.h"
#include "lines/message.h"

namespace virtproxy::bench::lines {

// What stands in front of a line.
enum class Header { kNone, kRfc3164, kRfc5424 };

// What the audit may find without the run being a failure.
enum class Tolerance { kNothing, kAll };

struct LinesPlan {
  std::optional<Endpoint> source;  // none: the writers run elsewhere
  std::optional<Endpoint> sink;    // none: the sink is elsewhere
  LineShape shape;
  Header header = Header::kNone;
  Framing write_framing = Framing::kLf;  // of streams; kLf or kOctet
  Framing sink_framing = Framing::kAuto;
  uint64_t batch = 1;  // lines a write, or datagrams a sendmmsg
  double duration = 5;
  uint64_t count = 0;  // lines of each writer, instead of a duration
  double rate = 0;     // lines a second over all writers; 0: as fast as they are taken
  double settle = 2;   // seconds without an arrival that end the wait for the rest
  double wait = 0;     // for the first connection
  bool reconnect = false;
  Tolerance tolerance = Tolerance::kNothing;

  std::vector<pid_t> pids;
  bool process_trees = false;
  std::vector<int> cpus;
  bool quiet = false;
  std::string json;
  std::string histogram_log;
  double interval = 0;  // seconds; 0: none
};

}  // namespace virtproxy::bench::lines
