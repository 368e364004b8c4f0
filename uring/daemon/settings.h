// What the rows of the option table set: values of the process, and of channels and forwards.
//
// A forward begins with the values of its channel and a channel with those of [defaults], so one
// struct serves all three.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/flow/limits.h"
#include "core/flow/priority.h"
#include "core/protocol_selector.h"
#include "uring/base/log.h"
#include "uring/daemon/user_db.h"
#include "uring/io/open_driver.h"
#include "uring/net/address.h"
#include "uring/net/when_down.h"
#include "uring/service/logs/sink_spec.h"
#include "uring/service/logs/source_spec.h"
#include "uring/transport/channel_spec.h"

namespace virtproxy {

// Every default and limit. Sizes in bytes, times in seconds.
namespace option_ranges {
inline constexpr unsigned kDefaultThreads = 1;
inline constexpr unsigned kMinThreads = 1;
inline constexpr unsigned kMaxThreads = 256;

inline constexpr uint32_t kDefaultStreams = 16384;
inline constexpr uint32_t kMinStreams = 1;
inline constexpr uint32_t kMaxStreams = 1048576;

inline constexpr uint64_t kDefaultMemory = uint64_t{256} << 20;
inline constexpr uint64_t kMinMemory = uint64_t{8} << 20;
inline constexpr uint64_t kMinChannelMemory = uint64_t{64} << 10;
inline constexpr uint64_t kMaxMemory = uint64_t{1} << 40;

inline constexpr uint64_t kDefaultWindow = uint64_t{1} << 20;
inline constexpr uint64_t kMinWindow = uint64_t{4} << 10;
inline constexpr uint64_t kMaxWindow = uint64_t{1} << 30;

inline constexpr double kDefaultConnectTimeout = 10.0;
inline constexpr double kMinConnectTimeout = 0.1;
inline constexpr double kMaxConnectTimeout = 3600.0;

inline constexpr double kDefaultDrainTimeout = 5.0;
inline constexpr double kMinDrainTimeout = 0.0;
inline constexpr double kMaxDrainTimeout = 3600.0;

// Of a TCP channel; 0 is never.
inline constexpr double kDefaultPeerTimeout = ChannelSpec::kDefaultPeerTimeout;
inline constexpr double kMinPeerTimeout = 3.0;
inline constexpr double kMaxPeerTimeout = 86400.0;

// Of a client, while the channel is down.
inline constexpr double kMinClientHold = 0.01;
inline constexpr double kMaxClientHold = 3600.0;

inline constexpr uint64_t kDefaultHold = uint64_t{1} << 30;  // the memory is what bounds it
inline constexpr uint64_t kMinHold = uint64_t{64} << 10;
inline constexpr uint64_t kMaxHold = uint64_t{1} << 30;

inline constexpr double kDefaultStallTimeout = 20.0;
inline constexpr double kMinStallTimeout = 0.01;
inline constexpr double kMaxStallTimeout = 3600.0;

inline constexpr double kDefaultAckTimeout = 15.0;
inline constexpr double kMinAckTimeout = 0.1;
inline constexpr double kMaxAckTimeout = 3600.0;

// Of log shipping: what lines may take up that are not acknowledged, or with a spool not written.
inline constexpr uint64_t kDefaultShipMemory = uint64_t{8} << 20;
inline constexpr uint64_t kMinShipMemory = uint64_t{256} << 10;
inline constexpr uint64_t kMaxShipMemory = uint64_t{4} << 30;

inline constexpr double kDefaultFlushTimeout = 5.0;
inline constexpr double kMinFlushTimeout = 0.0;
inline constexpr double kMaxFlushTimeout = 3600.0;

// Protocol 1 carries no more.
inline constexpr size_t kMaxServiceName = protocol_limits::kMaxService;
inline constexpr size_t kMaxChannels = 1024;
inline constexpr size_t kMaxForwards = 16384;  // -o and -i each
inline constexpr size_t kMaxSinks = 16;
}  // namespace option_ranges

// Where a line has to be for the guest to be told that it is safe.
enum class CollectAck : uint8_t { kSink, kSpool };

struct ProcessSettings {
  unsigned threads = option_ranges::kDefaultThreads;
  // Bytes, for all channels together. Absent: the default, and what channels have of their own.
  std::optional<uint64_t> memory;
  double drain_timeout = option_ranges::kDefaultDrainTimeout;  // seconds
  std::optional<Account> user;                                 // to run as
  bool sandbox = true;  // filter system calls; as root without `user`, drop capabilities
  LogLevel log_level = LogLevel::kInfo;
  LogFormat log_format = LogFormat::kText;
  DriverChoice driver = DriverChoice::kAuto;
  std::vector<std::string> disabled;  // lists of ring features to do without, or landlock
  std::optional<Address> control;     // a unix socket
  std::optional<Address> metrics;     // loopback TCP or a unix socket
  // Log shipping, which is on where there is a source.
  std::vector<logs::SourceSpec> ship_sources;
  uint64_t ship_memory = option_ranges::kDefaultShipMemory;  // bytes
  std::optional<logs::SpoolSpec> ship_spool;
  double ship_flush_timeout = option_ranges::kDefaultFlushTimeout;  // seconds
  std::string ship_channel;                                         // empty: the first one
  // Where the logs of the other ends go; empty: they are not collected.
  std::vector<SinkSpec> collect;
  std::optional<logs::SpoolSpec> collect_spool;
  std::optional<CollectAck> collect_ack;  // absent: kSpool where there is a spool

  friend bool operator==(const ProcessSettings&, const ProcessSettings&) = default;
};

// The owner of a unix socket; what is absent is left as it is.
struct SocketOwner {
  std::optional<uid_t> user;
  std::optional<gid_t> group;

  friend bool operator==(const SocketOwner&, const SocketOwner&) = default;
};

struct ChannelSettings {
  std::optional<uint64_t> memory;       // bytes; absent: an equal part of what the process has left
  std::optional<uint32_t> max_streams;  // absent: as many as the memory has room for
  uint64_t window = option_ranges::kDefaultWindow;  // bytes a stream may have in flight at most
  Integrity integrity = Integrity::kAuto;
  ProtocolMode protocol = ProtocolMode::kAuto;
  bool share_stats = false;  // the other end may ask for statistics of the channel
  double peer_timeout = option_ranges::kDefaultPeerTimeout;  // seconds; of a TCP channel
  // Of protocol 1.
  uint64_t hold = option_ranges::kDefaultHold;                 // bytes
  double stall_timeout = option_ranges::kDefaultStallTimeout;  // seconds
  double ack_timeout = option_ranges::kDefaultAckTimeout;      // seconds
  // Who may be the other end of a channel that listens.
  std::vector<uid_t> peer_uids;
  std::vector<gid_t> peer_gids;
  std::vector<uint32_t> peer_cids;
  // Of listeners: of the channel itself, and of its forwards.
  std::optional<mode_t> mode;
  SocketOwner owner;
  bool allow_remote = false;
  // Of forwards.
  std::vector<uid_t> client_uids;
  std::vector<gid_t> client_gids;
  Priority priority = Priority::kNormal;
  WhenDown when_down;
  double connect_timeout = option_ranges::kDefaultConnectTimeout;  // seconds

  friend bool operator==(const ChannelSettings&, const ChannelSettings&) = default;
};

}  // namespace virtproxy
