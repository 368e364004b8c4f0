// A spool file (core/logs/SPOOL.md) on the disk: made, locked and recovered at the start, and from
// then on read, written and synced through the driver. What the batches in it are for is none of
// its business.
//
//   open_spool_file()   before the sandbox: opens, allocates, locks, recovers. Waits for the disk.
//   SpoolWriter         afterwards: carries out the operations that a Spool yields
//   SpoolFetcher        … and those of a SpoolReader
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "core/logs/spool.h"
#include "uring/base/unique_fd.h"
#include "uring/io/loop.h"
#include "uring/service/logs/owned_file.h"

namespace virtproxy::logs {

// Between lines of the log about losses, and about a file that cannot be written.
inline constexpr Duration kReportInterval = std::chrono::minutes(1);

// When what was written is forced to the disk, so that it survives the end of the machine.
struct SyncPolicy {
  enum class When : uint8_t {
    kNever,     // when the system does so by itself
    kBatch,     // after every write
    kInterval,  // at most so long after it
  };
  When when = When::kInterval;
  Duration interval = std::chrono::seconds(1);

  friend bool operator==(const SyncPolicy&, const SyncPolicy&) = default;
};

struct SpoolFile {
  UniqueFd fd;
  SpoolGeometry geometry;
  Superblock recovered;  // for the Spool that goes on
  bool fresh = false;    // the file was made now
};

// The geometry of a spool that may take up to `size` bytes; segments are larger in a large one.
// Nothing if `size` is below kLeastSpoolSize.
inline constexpr uint64_t kLeastSpoolSize = 1u << 20;
std::optional<SpoolGeometry> spool_geometry_for(uint64_t size);

// Opens the spool, or makes it where there is none: a regular file of up to `size` bytes, all of it
// allocated, or a block device. An error is one line: another process has it, it cannot be
// allocated, or it is a spool of another size, or no spool, which is left as it is.
tl::expected<SpoolFile, std::string> open_spool_file(const std::string& path, uint64_t size,
                                                     const std::optional<FileOwner>& owner,
                                                     MadeFiles& made);

// As many of the bytes as can be read. Waits for the disk: before the sandbox, or on a thread that
// may wait.
std::vector<std::byte> read_now(int fd, const SpoolRead& wanted);

// What cannot be written is tried again every second, and said once a minute.
class SpoolWriter final : private Completion, private Timer::Owner {
 public:
  // `moved` is called when an operation has completed, not from within work(). The descriptor and
  // the spool outlive this.
  SpoolWriter(Loop& loop, int fd, Spool& spool, const SyncPolicy& policy, std::string path,
              std::function<void()> moved);

  // Begins what is to be done: to be called when something was appended, and in `moved`.
  void work();
  // Everything that was appended is to be forced to the disk, whatever the policy.
  void sync_now();
  // Everything that was appended is written, and what was asked to be synced is.
  bool settled() const;
  // Nothing is begun any more.
  void stop();
  bool idle() const { return !op_.pending; }
  uint64_t failures() const { return failures_; }
  uint64_t syncs() const { return syncs_; }

 private:
  void complete(Op& op, Outcome outcome) override;
  void expired(Timer& timer) override;
  void request_sync();
  void report(int error, bool sync);

  Loop& loop_;
  const File file_;
  Spool& spool_;
  const SyncPolicy policy_;
  const std::string path_;
  const std::function<void()> moved_;
  Op op_;
  Timer retry_;
  Timer sync_due_;
  uint64_t sync_requested_;  // the position that the last sync asked for covers
  bool sync_wanted_ = false;
  bool syncing_ = false;
  bool stopped_ = false;
  uint64_t failures_ = 0;
  uint64_t syncs_ = 0;
  std::optional<Instant> reported_;
};

class SpoolFetcher final : private Completion {
 public:
  // `got` is called with what was read: fewer bytes, or none, where they cannot be read.
  SpoolFetcher(Loop& loop, int fd, std::function<void(std::span<const std::byte>)> got)
      : loop_(loop), file_{fd, -1}, got_(std::move(got)), op_(this) {}

  void read(const SpoolRead& wanted);
  bool idle() const { return !op_.pending; }

 private:
  void complete(Op& op, Outcome outcome) override;

  Loop& loop_;
  const File file_;
  const std::function<void(std::span<const std::byte>)> got_;
  Op op_;
  std::vector<std::byte> bytes_;
};

}  // namespace virtproxy::logs
