// What --ship and --ship-spool say: where lines come from, and what happens when there are too
// many.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

#include "core/logs/buffer.h"
#include "core/logs/line_splitter.h"
#include "uring/net/address.h"
#include "uring/service/logs/spool_file.h"

namespace virtproxy::logs {

enum class SourceKind : uint8_t { kUnixDgram, kUnix, kUdp, kTcp, kStdin, kKmsg, kJournal };

struct SourceSpec {
  SourceKind kind = SourceKind::kStdin;
  std::string text;  // as it was given
  Address address;   // of sockets
  SourceConfig config;
  bool spools = false;  // full=spool: `config.full` is what follows once the spool is full
  uint64_t rate = 0;    // lines a second; 0: no limit
  mode_t mode = 0666;   // of a unix socket: everybody may log
  Framing framing = Framing::kAuto;
  bool remote = false;  // may listen where other machines can send
  std::string cursor;   // kJournal, kKmsg: the file that tells how far it is shipped

  friend bool operator==(const SourceSpec& one, const SourceSpec& other) {
    return one.text == other.text;
  }
};

// KIND[:ADDRESS][,KEY=VALUE…]. An error names what is wrong and what would be right, with ": "
// between them.
tl::expected<SourceSpec, std::string> parse_source(std::string_view text);

struct SpoolSpec {
  std::string path;
  uint64_t size = 0;  // bytes
  SyncPolicy sync;

  friend bool operator==(const SpoolSpec&, const SpoolSpec&) = default;
};

// PATH:SIZE[,sync=never|batch|TIME]
tl::expected<SpoolSpec, std::string> parse_spool(std::string_view text, uint64_t least);
std::string show(const SpoolSpec& spool);

}  // namespace virtproxy::logs
