// A regular file on a disk. It outlives the processes that have it open. What was written is seen
// by every reader at once, and is on the disk when it was synced, or by chance.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "tests/sim/file.h"

namespace virtproxy::sim {

class Disk {
 public:
  explicit Disk(size_t size) : seen_(size), durable_(size), promised_(size) {}

  // These return bytes or a negative errno, as pread(2), pwrite(2) and fdatasync(2) do.
  int64_t read(std::span<std::byte> to, uint64_t offset) const;
  int64_t write(std::span<const std::byte> from, uint64_t offset);
  int64_t sync();
  // The machine ends: of what is not synced, each sector is on the disk or not.
  void lose_power(Random& random);

  std::span<const std::byte> seen() const { return seen_; }
  // What a sync has promised to keep.
  std::span<const std::byte> promised() const { return promised_; }
  // Whether a call has ever failed.
  bool failed() const { return failed_; }

 private:
  static constexpr size_t kSector = 512;
  struct Range {
    size_t offset;
    size_t size;
  };
  bool fails();

  std::vector<std::byte> seen_;
  std::vector<std::byte> durable_;
  std::vector<std::byte> promised_;
  std::vector<Range> unsynced_;
  bool failed_ = false;
};

// It, opened.
class DiskFile final : public File {
 public:
  explicit DiskFile(Disk& disk) : disk_(disk) { spared = true; }

  Disk& disk() const { return disk_; }
  uint32_t poll() const override { return 0; }  // nobody asks

 private:
  Disk& disk_;
};

}  // namespace virtproxy::sim
