// What log shipping opens at the start: its sources and its spool, while there are privileges for
// it and before the sandbox. Nothing is opened later.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "core/logs/account.h"
#include "uring/base/unique_fd.h"
#include "uring/net/sockets.h"
#include "uring/service/logs/child_keeper.h"
#include "uring/service/logs/input.h"
#include "uring/service/logs/owned_file.h"
#include "uring/service/logs/source_spec.h"

namespace virtproxy::logs {

// What becomes of the socket of a source when it ends.
enum class SocketEnd : uint8_t {
  kClosed,  // a datagram that comes later is refused
  kLeft     // the service manager keeps it open for the next process, which reads what comes later
};

struct ShipConfig {
  std::vector<SourceSpec> sources;
  size_t memory = 0;  // bytes
  std::optional<SpoolSpec> spool;
  Duration flush_timeout{};
  SocketEnd sockets = SocketEnd::kClosed;
  // Of the spool, of files of cursors and of unix sockets, where the process gives its privileges
  // up afterwards: a later start by that user can use them.
  std::optional<FileOwner> owner{};
};

struct OpenedSource {
  SourceSpec spec;
  SocketEnd end = SocketEnd::kClosed;
  Listening listening;  // of sockets: kUnix, kTcp, and the path of kUnixDgram
  UniqueFd fd;          // of the others: a datagram socket, a stream, /dev/kmsg
  UniqueFd journal;     // with kJournal: connected to the journal's own socket, where there is one
  std::optional<ChildKeeper> journalctl;  // with kJournal: what `fd` reads from, and runs it again
  UniqueFd cursor;                        // the file of the cursor
  std::string position;                   // what it said
  std::string boot;                       // with kKmsg: the boot that its numbers are of
};

struct ShipStart {
  ShipConfig config;
  std::vector<OpenedSource> sources;
  std::optional<SpoolFile> spool;
  LogId log;   // drawn now
  LogId boot;  // of this machine
};

// `kept`: of each source the sockets that an earlier process left; may be empty. An error is one
// line that names the source or the spool. Files that are made stay if `made` is told to keep them.
tl::expected<ShipStart, std::string> start_shipping(const ShipConfig& config,
                                                    std::vector<Listening> kept, MadeFiles& made);
// The sockets of all sources.
std::vector<int> sockets_of(const ShipStart& start);

// The source over what was opened, as number `index` of the log.
std::unique_ptr<LogSource> make_source(Loop& loop, LineTarget& target, uint16_t index,
                                       OpenedSource opened);

}  // namespace virtproxy::logs
