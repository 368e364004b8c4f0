// What a run shall do: the command line, checked and with its defaults filled in.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "address.h"
#include "wire.h"

namespace virtproxy::bench {

enum class Mode { kBulk, kPingPong, kOneWay, kMixed, kChurn, kIdle };

const char* mode_name(Mode mode);
const char* direction_name(Role role);

struct Plan {
  Mode mode = Mode::kBulk;
  std::vector<Address> connect;   // at least one; connections take turns among them
  std::optional<Address> listen;  // none: the sink runs elsewhere
  SocketOptions sockets;

  size_t connections = 1;
  size_t ping_connections = 1;  // mixed only
  uint64_t size = 64;           // of a ping-pong or one-way message
  uint64_t chunk = 65536;       // of a bulk write
  Role direction = Role::kStreamUp;
  uint64_t bytes = 0;  // per connection and direction; 0: by duration
  double duration = 5;
  double warmup = 0.5;
  double rate = 0;  // messages per second over all connections; 0: closed loop
  bool verify = false;
  bool half_close = true;
  bool http_connect = false;
  uint64_t seed = 1;

  std::vector<pid_t> pids;
  bool process_trees = false;
  std::vector<int> cpus;
  double stall_limit = 10;
  double wait = 0;
  bool progress = false;
  bool quiet = false;
  std::string json;
  double interval = 0;  // seconds; 0: none
  std::string histogram_log;

  size_t stream_count() const {
    return mode == Mode::kBulk || mode == Mode::kOneWay || mode == Mode::kMixed ? connections : 0;
  }
  size_t exchange_count() const {
    return mode == Mode::kMixed ? ping_connections : connections - stream_count();
  }
  bool has_latency() const { return exchange_count() > 0 && mode != Mode::kIdle; }
  bool counts_messages() const { return mode != Mode::kBulk && mode != Mode::kIdle; }
  // The size of the writes on a stream.
  uint64_t stream_unit() const { return mode == Mode::kOneWay ? size : chunk; }
};

}  // namespace virtproxy::bench
