// What the oracle of log shipping knows of the channel that ships: each line that a program of the
// guest has written to a life of its daemon, and what has become of it at the host.
//
// A life of the guest's daemon is a log. A source has one connection at a time, so the n-th line
// that is written to it has number n, counted from 0. At the host every number is a line or covered
// by one drop record, in the order of its source; and the guest is told that a line is safe only
// when it is, together with the account of the log.
//
// With a spool, what a life has left on the disk when it ends comes to the host later.
//
// The host's sink and its file of accounts, and the guest's disk, are here as well, since they
// outlive the daemons.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/logs/buffer.h"
#include "tests/sim/disk.h"
#include "tests/sim/world.h"
#include "uring/service/logs/parcel.h"
#include "uring/service/logs/spool_file.h"

namespace virtproxy::sim {

// What the host has of a log when its daemon has ended, by COLLECTING.md.
enum class SinkKind : uint8_t {
  kExact,    // as `file:`, lines and accounts are committed together: each line is there once
  kRepeats,  // with `state=`: what was not committed comes again
  kForgets   // without: what was not acknowledged comes again
};

// Where the daemon listens for programs that write to a source.
std::string log_path(size_t source);

// How a world ships logs.
struct LogPlan {
  unsigned channel = 0;  // its id
  // Of the guest's daemon.
  size_t memory = 0;  // bytes
  Duration flush_timeout{};
  std::vector<logs::SourceConfig> sources;
  std::optional<uint64_t> spool;  // bytes
  logs::SyncPolicy sync;
  // Of the host's.
  SinkKind sink = SinkKind::kExact;
  logs::AckLevel level = logs::AckLevel::kSink;
  size_t budget = 0;  // bytes of the VM that are not safe
  Duration longest_write{};
  double refusals = 0;  // of lines, by the sink, for good
};

class LogLedger {
 public:
  LogLedger(const LogPlan& plan, uint64_t seed);

  const LogPlan& plan() const { return plan_; }
  // Chance of its own: worlds without logs are what they were before there were any.
  Random& random() { return random_; }

  // --- the guest

  // A life of the guest's daemon begins. No program can reach an earlier one any more.
  logs::LogId begin_log();
  // Counts lives, from 1.
  size_t lives() const { return logs_.size(); }
  // A program has begun to write its next line to that life. `size`: what it takes up at most.
  void begin_line(size_t life, uint16_t source, std::string text);
  // All of its last line is written.
  void complete_line(size_t life, uint16_t source);
  // Whether the daemon has numbered all that was written in that life.
  bool has_numbered_all(size_t life, uint16_t source) const;

  // What the guest's daemon says of a source, after each of its turns.
  struct Progress {
    uint64_t numbered = 0;
    uint64_t acknowledged = 0;
  };
  void check_progress(size_t life, uint16_t source, const Progress& progress);
  // How many lines, of all sources and logs, that daemon was told are refused.
  void check_refused(uint64_t told);
  // The life has ended as it was told to. `late`: after its time to flush.
  void end_log(size_t life, bool late);
  // It was killed, alone or with its machine.
  void kill_log(size_t life);
  // The file of the spool, null where there is none.
  Disk* disk() { return disk_.get(); }
  // Whether the last life has numbered all lines, and all of them are acknowledged.
  bool settled() const;
  void check_settled() const;
  // The guest's daemon has been told to end. From now on lines may be dropped for that.
  void begin_end(size_t life) { logs_[life - 1].ending = true; }

  // --- the host

  std::vector<logs::LogAccount> restored() const;
  // The sink has the records of a parcel now.
  void store(const Parcel& parcel);
  // The sink refuses a line of a parcel that it has, for good.
  void refuse(const Parcel& parcel, const ParcelRecord& line);
  // The account of a parcel that it has is saved.
  void commit(const Parcel& parcel);
  // The host's daemon is gone.
  void end_host();

  struct Counts {
    uint64_t worlds = 0;
    uint64_t written = 0;    // lines
    uint64_t delivered = 0;  // … at the sink
    uint64_t dropped = 0;    // … covered by drop records there
    uint64_t again = 0;      // … that came twice, where that may happen
    uint64_t refused = 0;    // … that the sink refused
    uint64_t told = 0;       // … of which the guest was told
    uint64_t lost = 0;       // … with the memory of a daemon that has ended
    uint64_t streams = 0;    // of logs
    uint64_t resumed = 0;    // … that went on behind what the host had
    uint64_t blocked = 0;    // checks that found a source blocked
    uint64_t spooled = 0;    // lines and drop records of a life that had ended

    void add(const Counts& other);
  };
  void note_stream(size_t life);
  void note_blocked() { ++counts_.blocked; }
  Counts counts() const;
  std::string describe() const;

 private:
  struct Line {
    std::string text;
    bool complete = false;
  };
  struct Source {
    std::vector<Line> lines;                // by number
    std::vector<uint64_t> bytes_before{0};  // by number
    Progress progress;
    uint64_t due = 0;     // numbers that the end of its life has left on the disk, from 0 on
    uint64_t stored = 0;  // numbers that the sink has or that records there cover, from 0 on
    uint64_t safe = 0;    // … for good
    std::map<uint64_t, uint64_t> refused;  // numbers that the sink refused, and their bytes
    // In this life of the host's daemon: what its receiver goes on with.
    std::optional<uint64_t> next;
  };
  struct Log {
    logs::LogId id;
    std::vector<Source> sources;
    uint64_t cost = 0;  // of its lines in the guest's memory, at most
    bool ending = false;
    enum class End : uint8_t { kNone, kStopped, kKilled } end = End::kNone;
    bool power_lost = false;  // then, or later
    // As the last parcel in this life of the host's daemon has it.
    std::optional<logs::LogAccount> account;
  };

  Log& log_of(const logs::LogId& id);
  void begin_account(Log& log, const Parcel& parcel);
  void judge(Log& log, Source& source, const Parcel& parcel, const ParcelRecord& record);
  void judge_text(const Source& source, const Parcel& parcel, const ParcelRecord& record) const;
  void judge_drop(const Log& log, const Source& source, const ParcelRecord& record) const;
  // How far each source is numbered by batches of the log in such a file.
  std::vector<uint64_t> numbered_in(std::span<const std::byte> file, const Log& log) const;
  void judge_account(Log& log, const Parcel& parcel);
  void judge_refusals(const Log& log, const logs::LogAccount& account) const;
  std::string name(const Log& log, const Source& source) const;
  bool may_be_short(const Log& log) const;

  const LogPlan plan_;
  Random random_;
  std::unique_ptr<Disk> disk_;
  std::vector<Log> logs_;
  std::vector<logs::LogAccount> accounts_;  // the file's; the log used last is the last
  uint64_t told_ = 0;                       // to the guest's daemon of this life: refused lines
  Counts counts_;
};

}  // namespace virtproxy::sim
