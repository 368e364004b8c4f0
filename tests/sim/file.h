// Open files of the simulated kernel: what a descriptor, a request of a ring or an application
// refers to. A file is released when the last of them lets go.
#pragma once

#include <poll.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "tests/sim/world.h"

namespace virtproxy::sim {

class File {
 public:
  class Waiter {
   public:
    // poll() may answer differently now. Only a note is wanted: nothing may be done to the file.
    virtual void file_changed() = 0;
    // The same, where the kernel wakes those who wait for one of these events.
    virtual void woken(uint32_t) { file_changed(); }

   protected:
    ~Waiter() = default;
  };

  virtual ~File() = default;

  // What the system calls return on a file that does not block; a negative errno.
  virtual int64_t read(std::span<std::byte>) { return -EINVAL; }
  virtual int64_t write(std::span<const std::byte>) { return -EINVAL; }
  virtual uint32_t poll() const = 0;

  void add_waiter(Waiter* waiter) { waiters_.push_back(waiter); }
  void remove_waiter(Waiter* waiter) { std::erase(waiters_, waiter); }
  // What the kernel wakes somebody for: all events, where it does not say which.
  static constexpr uint32_t kAllEvents = UINT32_MAX;
  void changed(uint32_t events = kAllEvents) {
    for (size_t i = 0; i < waiters_.size(); ++i) waiters_[i]->woken(events);
  }

  // Of a ring's requests on it, which keep their order: when the last one is there, and how many
  // are on their way.
  Instant last_completion{};
  const std::shared_ptr<unsigned> completions_due = std::make_shared<unsigned>();
  unsigned carries_channel = 0;  // its id
  unsigned number = 0;           // for the trace
  uint64_t reads = 0;            // those that found something
  bool nonblocking = false;      // O_NONBLOCK; only listeners are asked
  bool of_driver = false;        // a killed process still waits with it
  bool spared = false;           // no call on it is made to fail
  bool read_waits = false;       // a ring's read of it waits until there is something

 private:
  std::vector<Waiter*> waiters_;
};

using FileRef = std::shared_ptr<File>;

// The standard error, which a daemon's spare descriptors refer to.
class StandardError final : public File {
 public:
  uint32_t poll() const override { return 0; }
};

// An eventfd.
class EventCounter final : public File {
 public:
  EventCounter() { spared = read_waits = true; }

  int64_t read(std::span<std::byte> to) override {
    if (to.size() < sizeof count_) return -EINVAL;
    if (count_ == 0) return -EAGAIN;
    std::memcpy(to.data(), &count_, sizeof count_);
    count_ = 0;
    return sizeof count_;
  }
  int64_t write(std::span<const std::byte> from) override {
    uint64_t more = 0;
    if (from.size() < sizeof more) return -EINVAL;
    std::memcpy(&more, from.data(), sizeof more);
    count_ += more;
    changed(POLLIN);
    return sizeof more;
  }
  uint32_t poll() const override { return POLLOUT | (count_ > 0 ? POLLIN : 0u); }

 private:
  uint64_t count_ = 0;
};

// First in, first out.
class Fifo {
 public:
  size_t size() const { return bytes_.size() - begin_; }
  void append(std::span<const std::byte> bytes) {
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  }
  std::span<std::byte> contents() { return std::span(bytes_).subspan(begin_); }
  void consume(size_t count) {
    begin_ += count;
    if (begin_ == bytes_.size()) {
      bytes_.clear();
      begin_ = 0;
    } else if (begin_ > 65536 && begin_ > bytes_.size() / 2) {
      bytes_.erase(bytes_.begin(), bytes_.begin() + static_cast<std::ptrdiff_t>(begin_));
      begin_ = 0;
    }
  }
  // Forgets all but the first `count` bytes.
  void truncate(size_t count) { bytes_.resize(begin_ + count); }
  void erase(size_t at) { bytes_.erase(bytes_.begin() + static_cast<std::ptrdiff_t>(begin_ + at)); }
  void insert(size_t at, std::byte value) {
    bytes_.insert(bytes_.begin() + static_cast<std::ptrdiff_t>(begin_ + at), value);
  }

 private:
  std::vector<std::byte> bytes_;
  size_t begin_ = 0;
};

}  // namespace virtproxy::sim
