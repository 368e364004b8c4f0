// A sink as --collect names it: KIND:TARGET[,KEY=VALUE…].
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "core/time.h"
#include "uring/net/address.h"

namespace virtproxy {

enum class SinkKind : uint8_t {
  kFile,
  kStdout,
  kRelp,
  kSyslogTcp,
  kSyslogUnix,
  kUnixDatagram,
  kForward,
  kOtlp,
  kExec
};
enum class LineFormat : uint8_t { kRfc5424, kJson, kText };

struct SinkSpec {
  SinkKind kind = SinkKind::kStdout;
  std::string text;    // as it was given
  std::string target;  // behind the kind: a path or an address, and for kStdout nothing
  Address address;     // of those that are connected to
  LineFormat format = LineFormat::kRfc5424;
  // Where the accounts are kept over a restart; empty: nowhere.
  std::string state;
  // kExec: behind the program's path.
  std::vector<std::string> arguments;
  // kFile: when the file is full (bytes), or old enough; how many older ones are kept; and whether
  // what is acknowledged is on the disk.
  std::optional<uint64_t> rotate_size;
  std::optional<Duration> rotate_after;
  unsigned keep = kDefaultKeep;
  bool sync = false;

  static constexpr unsigned kDefaultKeep = 7;
  static constexpr unsigned kMaxKeep = 1000;
  static constexpr uint64_t kMinRotateSize = uint64_t{64} << 10;

  bool rotates() const { return rotate_size || rotate_after; }
  bool connects() const {
    return kind != SinkKind::kFile && kind != SinkKind::kStdout && kind != SinkKind::kExec;
  }
  // Names it in logs and statistics: without its options.
  std::string label() const;

  friend bool operator==(const SinkSpec&, const SinkSpec&) = default;
};

// What is wrong, and what would be right.
struct SinkFault {
  std::string what;
  std::string right;
};

tl::expected<SinkSpec, SinkFault> parse_sink(std::string_view text);

}  // namespace virtproxy
