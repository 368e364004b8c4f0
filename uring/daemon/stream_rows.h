// Streams in the list that a control command asks for, and how an operator names one.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "uring/mux/stream_account.h"

namespace virtproxy {

// How an operator names a stream: CHANNEL/SLOT.GENERATION.
struct StreamName {
  std::string channel;
  StreamKey key;
};
std::string to_string(const StreamName& name);
std::optional<StreamName> parse_stream_name(std::string_view text);

struct StreamRow {
  StreamName name;
  std::optional<uint32_t> number;  // of both ends, see Session::number()
  std::string service;
  StreamRole role;
  std::string client;  // of a stream that was opened here; else empty
  // Who is at the local socket: the client, or the service where it does not read; else empty.
  std::string application;
  StreamBytes bytes;
  Duration age;
  std::optional<StallReason> waits_for;
  Duration waits;
  StallTimes waited;
};

// Listeners of one forward that cannot accept their clients.
struct ListenerRow {
  std::string channel;
  std::string service;
  StallReason reason;
  Duration waits;
  Duration waited;  // with those before
};

enum class StreamOrder : uint8_t { kAge, kSent, kReceived, kWaiting };
std::optional<StreamOrder> parse_stream_order(std::string_view name);

struct StreamQuery {
  static constexpr size_t kUsualLimit = 1000;

  std::string channel;           // of this channel; empty: of all
  std::optional<StreamKey> key;  // this stream of it
  bool only_waiting = false;
  StreamOrder order = StreamOrder::kAge;  // the largest first
  size_t limit = 0;                       // rows, at most
};

struct StreamRows {
  std::vector<StreamRow> rows;
  size_t matching = 0;                 // before the limit
  std::vector<ListenerRow> listeners;  // of a query for what waits, unless it is for one stream
};

}  // namespace virtproxy
