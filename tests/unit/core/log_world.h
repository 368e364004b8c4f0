// A guest that ships logs to a host, in one process on virtual time: sources, Shipper, a disk, a
// wire and a sink, each of which can fail at any moment; and the oracle that knows every line.
//
// The oracle: every line that was taken is at the sink once, as it was, in the order of its source,
// or is covered by one drop record there, whose lines and bytes are those that it covers. What is
// neither must be reported as unaccounted, and only a crash of the guest may lead to that.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "core/logs/receiver.h"
#include "core/logs/shipper.h"
#include "tests/sim/random.h"

namespace virtproxy::logs::test {

using Bytes = std::vector<std::byte>;

// A file whose writes reach the disk when it is synced, or by chance.
class Disk {
 public:
  explicit Disk(uint64_t size) : seen_(size), durable_(size) {}

  void write(uint64_t offset, std::span<const std::byte> bytes) {
    std::copy(bytes.begin(), bytes.end(), seen_.begin() + static_cast<ptrdiff_t>(offset));
    unsynced_.push_back({offset, {bytes.begin(), bytes.end()}});
  }
  std::span<const std::byte> read(uint64_t offset, size_t size) const {
    if (offset >= seen_.size()) return {};
    return std::span(seen_).subspan(offset, std::min<size_t>(size, seen_.size() - offset));
  }
  void sync() {
    durable_ = seen_;
    unsynced_.clear();
  }
  // Of what is not synced, each sector is there or not.
  void lose_power(sim::Random& random) {
    seen_ = durable_;
    const double kept = random.chance(0.3) ? 0 : 0.8;
    for (const Write& one : unsynced_) {
      for (size_t at = 0; at < one.bytes.size();) {
        const uint64_t place = one.offset + at;
        const size_t size = std::min<size_t>(kSector - place % kSector, one.bytes.size() - at);
        if (random.chance(kept)) {
          std::copy_n(one.bytes.begin() + static_cast<ptrdiff_t>(at), size,
                      seen_.begin() + static_cast<ptrdiff_t>(place));
        }
        at += size;
      }
    }
    durable_ = seen_;
    unsynced_.clear();
  }
  void flip(uint64_t offset, unsigned bit) {
    seen_[offset] ^= static_cast<std::byte>(1u << bit);
    durable_[offset] = seen_[offset];
  }

 private:
  static constexpr size_t kSector = 512;
  struct Write {
    uint64_t offset;
    Bytes bytes;
  };
  Bytes seen_;
  Bytes durable_;
  std::vector<Write> unsynced_;
};

// A defect made on purpose, which the oracle must find.
enum class Canary {
  kNone,
  kForgetDropRecord,  // a batch with drop records is not sent
  kCountTwice,        // a line that is sent is also counted as dropped
  kAckBeforeDurable,  // the host acknowledges what its sink may still lose
  kReuseNumbers,      // after a crash the guest goes on under the log's old id
  kKeepSinkTail,      // after a crash the host keeps lines that its account does not know of
  kForgetLine,        // a line is encoded and its bytes are not counted
  kReorder            // two batches change places
};

struct WorldOptions {
  bool spool = false;
  bool guest_crashes = false;
  bool power_loss = false;
  bool host_crashes = true;
  bool rot = false;
  Policy full = Policy::kDropNewest;
  SpoolConfig::Full spool_full = SpoolConfig::Full::kRefuse;
  Canary canary = Canary::kNone;
};

class World {
 public:
  World(uint64_t seed, const WorldOptions& options);

  // Runs with faults, heals, and judges. Empty if everything held, else what did not.
  std::string run(int steps);

  // True if the canary did its harm.
  bool spoilt() const { return spoilt_; }

  // What happened, to show that the world was not idle.
  struct Facts {
    uint64_t lines = 0, delivered = 0, dropped = 0, unaccounted = 0, duplicates = 0, cuts = 0,
             guest_crashes = 0, host_crashes = 0, logs = 0;
    std::array<uint64_t, kDropReasons> reasons{};
  } facts;

 private:
  struct Written {
    std::string content;  // of a line that was lost before it was offered: empty
    uint64_t size = 0;
    bool line = false;
  };
  struct Log {
    std::vector<std::vector<Written>> sources;  // by source, by number
    bool crashed = false;
    // By source: how many numbers the spool must give back after the crash.
    std::vector<uint64_t> safe;
    std::vector<uint64_t> durable;  // … and after a loss of power
  };
  struct Entry {  // at the sink
    Received::Kind kind;
    LogId log;
    uint16_t source;
    uint64_t seq;
    uint64_t count;
    uint64_t bytes;
    DropReason reason;
    std::string content;
  };
  struct Host {
    std::vector<LogAccount> accounts;
    size_t sink = 0;  // entries that are durable
  };

  void start_guest();
  void crash_guest(bool power);
  void offer();
  void move_to_host();
  void move_to_guest();
  void disk_step(bool cut);
  void note_safe(std::vector<uint64_t>& safe) const;
  void checkpoint();
  void crash_host();
  void cut_wire();
  void connect();
  void act();
  void heal();
  std::string judge();
  std::string judge_log(const LogId& id, const Log& log, const LogAccount* account);
  void spoil(Bytes& bytes);
  void fault(StreamFault fault, const char* who);

  sim::Random random_;
  WorldOptions options_;
  Instant now_{1};
  UnixTime wall_ = 1'700'000'000'000'000'000;
  SpoolGeometry geometry_;
  Disk disk_;
  std::unique_ptr<Shipper> shipper_;
  LogId log_;
  std::map<std::pair<uint64_t, uint64_t>, Log> logs_;
  std::vector<std::pair<uint64_t, uint64_t>> order_;
  uint64_t counter_ = 0;

  std::vector<uint64_t> written_;  // by source, of the current log
  std::vector<uint64_t> synced_;
  bool connected_ = false;
  Bytes to_host_;
  Bytes to_guest_;
  std::unique_ptr<Receiver> receiver_;
  std::vector<Entry> sink_;
  Host saved_;
  bool final_ = false;
  bool spoilt_ = false;
  bool healing_ = false;
  std::string failure_;
};

}  // namespace virtproxy::logs::test
