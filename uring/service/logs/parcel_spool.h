// The spool of a collecting daemon: parcels in a spool file (core/logs/SPOOL.md), from their
// arrival until all sinks have them.
//
//   put() ─▶ batches ─▶ file ─▶ take_stored()     safe here: the guest is acknowledged
//                         └───▶ next() … release() to the sinks, and everything before is free
//
// A parcel is cut into pieces, each of which is one line of the spool's only source. Beside the
// spool there is a file of accounts, PATH.state: how far each log is stored, and how far the spool
// is delivered. It is written behind the spool. So what the spool has beyond it is found at the
// start and belongs to the accounts, and a guest sends none of it again.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "core/logs/spool_reader.h"
#include "uring/service/logs/account_file.h"
#include "uring/service/logs/parcel_codec.h"
#include "uring/service/logs/source_spec.h"
#include "uring/service/logs/spool_file.h"

namespace virtproxy {

class ParcelSpool final : private Timer::Owner {
 public:
  // The largest parcel has room in it, wherever it begins.
  static constexpr uint64_t kLeastSize = uint64_t{8} << 20;

  // For statistics in any thread.
  struct Counters {
    std::atomic<uint64_t> used{0};        // bytes that are not delivered
    std::atomic<uint64_t> unwritten{0};   // … and not written yet
    std::atomic<uint64_t> failures{0};    // writes and syncs
    std::atomic<uint64_t> lost{0};        // pieces that could not be read again
    std::atomic<uint64_t> lost_lines{0};  // … as far as later ones tell
  };

  // Before the sandbox. An error is one line.
  static tl::expected<std::unique_ptr<ParcelSpool>, std::string> open(const logs::SpoolSpec& spec,
                                                                      MadeFiles& made);

  // Of everything that is stored, by VM.
  const std::map<std::string, std::vector<logs::LogAccount>>& accounts() const {
    return accounts_->accounts();
  }
  uint64_t file_size() const { return file_.geometry.file_size(); }
  const Counters& counters() const { return counters_; }

  // What all sinks had of a VM at the start: lines between that and what next() gives are lost.
  void expect_after(const std::string& vm, std::vector<logs::LogAccount> delivered) {
    seen_[vm] = std::move(delivered);
  }

  // Everything else in the thread of the loop. `moved` is called, not from within a call of this,
  // when something may have become possible.
  void start(Loop& loop, std::function<void()> moved);
  // A parcel may be put. False also where the spool is full.
  bool has_room() const { return pieces_.empty(); }
  void put(std::shared_ptr<Parcel> parcel, std::string_view vm);
  // Begins what is to be done; to be called after put() and release(), and in `moved`.
  void work();
  // Parcels that are stored now, with their accounts, in order.
  std::vector<std::shared_ptr<Parcel>> take_stored();
  // The next parcel for the sinks; nothing where there is none yet.
  std::optional<DecodedParcel> next();
  // All sinks have the oldest one that next() gave and that was not released.
  void release();

  // Everything is to be written, and synced unless that is never to be.
  void finish();
  bool finished() const { return writer_->settled(); }
  // Nothing is begun any more; end() once idle().
  void stop();
  void end();
  bool idle() const { return !writer_ || (writer_->idle() && fetcher_->idle()); }

 private:
  struct Stored {
    std::shared_ptr<Parcel> parcel;
    std::string vm;
    uint64_t end = 0;  // its position
  };
  // Puts the pieces of a parcel together again.
  struct Assembly {
    std::string bytes;
    uint64_t begin = 0;  // its position
    bool begun = false;
  };

  explicit ParcelSpool(const logs::SpoolSpec& spec) : spec_(spec) {}
  bool recover();
  void expired(Timer&) override { moved_(); }
  bool commit(const std::vector<AccountFile::Change>& changes);
  void free();
  std::optional<DecodedParcel> take_batch();
  void note_segment();
  void explain_gaps(DecodedParcel& decoded);
  void note_lost(uint64_t pieces);
  uint64_t segment_position(uint64_t index) const { return index * file_.geometry.segment_size; }

  const logs::SpoolSpec spec_;
  logs::SpoolFile file_;
  std::unique_ptr<AccountFile> accounts_;
  SinkNote note_;
  std::optional<logs::Spool> spool_;
  std::optional<logs::SpoolReader> reader_;
  Counters counters_;

  std::optional<logs::SpoolWriter> writer_;
  std::optional<logs::SpoolFetcher> fetcher_;
  std::function<void()> moved_;
  Loop* loop_ = nullptr;
  std::unique_ptr<Timer> retry_;  // of the accounts
  bool commit_failed_ = false;

  // Writing.
  std::optional<logs::BatchBuilder> builder_;
  std::deque<logs::PendingBatch> pieces_;  // of one parcel, which are not in the spool yet
  Stored putting_;                         // that parcel
  std::deque<Stored> waiting_;             // for their write, or sync

  // Reading.
  std::optional<logs::LogId> log_;  // that the reader is in
  uint64_t next_piece_ = 0;         // of that log
  Assembly assembly_;
  std::deque<uint64_t> given_;  // ends of the parcels that are not released
  uint64_t released_ = 0;       // the end of the last one that is
  bool damage_told_ = false;    // of the part that the reader is in
  // The accounts of the logs that were read last, as far as they were read.
  std::map<std::string, std::vector<logs::LogAccount>> seen_;
};

}  // namespace virtproxy
