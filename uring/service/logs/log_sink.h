// Where lines go. The hub gives each sink the same parcels in the same order, and the sink tells
// how many of them are safe; a guest is acknowledged what is safe in all of them.
//
// All calls are made in the hub's thread.
#pragma once

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "core/time.h"
#include "uring/base/made_files.h"
#include "uring/io/loop.h"
#include "uring/net/resolver_driver.h"
#include "uring/service/logs/account_file.h"
#include "uring/service/logs/parcel.h"
#include "uring/service/logs/sink_spec.h"

namespace virtproxy {

// Before a sink that has failed is tried again: doubled from one to the other.
inline constexpr Duration kLeastSinkBackoff = std::chrono::milliseconds(100);
inline constexpr Duration kMostSinkBackoff = std::chrono::seconds(10);
inline Duration next_sink_backoff(Duration last) {
  return std::clamp(last * 2, kLeastSinkBackoff, kMostSinkBackoff);
}
// The kernel has no memory for a send, which the socket's readiness says nothing about.
inline bool is_out_of_memory(int error) { return error == ENOBUFS || error == ENOMEM; }
// No kernel tells when the reader of a socket has read: what is left is looked at again.
inline constexpr Duration kUnreadCheck = std::chrono::milliseconds(5);

// What a sink has done, for statistics in any thread.
struct SinkCounters {
  std::atomic<uint64_t> lines{0};     // records that are safe, without refused ones
  std::atomic<uint64_t> bytes{0};     // of their text, with that of refused ones
  std::atomic<uint64_t> written{0};   // bytes that were written
  std::atomic<uint64_t> failures{0};  // connections lost, writes that failed
  std::atomic<bool> up{false};        // takes lines at the moment
  // Lines that it refused for good, each counted before its parcel is safe.
  std::atomic<uint64_t> rejected{0};
};

// A parcel as a sink sees it: without the records that it has had before a restart.
struct ParcelView {
  std::string_view vm;
  const Parcel& parcel;
  const logs::LogAccount* had = nullptr;

  bool wants(const ParcelRecord& record) const {
    if (had == nullptr) return true;
    if (record.kind == ParcelRecord::Kind::kForgotten) {
      return had->position < parcel.account.position;
    }
    return record.source >= had->sources.size() ||
           record.end_seq() > had->sources[record.source].next.seq;
  }
};

// A line that a sink refuses for good, of a parcel counted from the first one that it took.
struct RefusedLine {
  uint64_t parcel = 0;
  uint16_t source = 0;
  uint64_t seq = 0;
  uint64_t bytes = 0;
};

class LogSink {
 public:
  class Client {
   public:
    // More may be taken, or more is safe than before. Leads to calls of the sink later, not now.
    virtual void sink_progressed() = 0;

   protected:
    ~Client() = default;
  };

  virtual ~LogSink() = default;

  // Once, in the hub's thread. Nothing is read or written before.
  virtual void start(Loop& loop, ResolverDriver& resolver, Client* client) = 0;
  // True if another parcel may be given now.
  virtual bool has_room() const = 0;
  virtual void take(const ParcelView& view) = 0;
  // After the parcels of a turn: passes them on.
  virtual void flush() = 0;
  // How many of the parcels that were taken are safe, from the first one on.
  virtual uint64_t safe() const = 0;
  // Lines that were refused since the last call; their parcels become safe no earlier than now.
  virtual std::vector<RefusedLine> take_refused() { return {}; }
  // What belongs to them in the account file.
  virtual SinkNote note() const { return {}; }
  // Cancels what is under way; idle() when the kernel refers to nothing of it any more.
  virtual void stop() = 0;
  virtual bool idle() const = 0;

  SinkCounters& counters() { return *counters_; }
  // They outlive the sink, for threads that read them.
  std::shared_ptr<const SinkCounters> shared_counters() const { return counters_; }

 private:
  std::shared_ptr<SinkCounters> counters_ = std::make_shared<SinkCounters>();
};

// Opens what has to be open before privileges and the file system are given up. `accounts` is null
// for a sink without a state file, outlives the sink, and may be written to here.
tl::expected<std::unique_ptr<LogSink>, std::string> open_sink(const SinkSpec& spec,
                                                              AccountFile* accounts,
                                                              MadeFiles& made);

}  // namespace virtproxy
