// The driver over io_uring: requests are queued in the submission queue of one ring, and one system
// call a turn submits them and waits.
//
// Where the submission queue is full and the kernel takes nothing out of it for a second, a request
// throws std::system_error: the ring is of no use any more.
//
// Fixed buffers (READ_FIXED) are not used: sockets and character devices copy from and to user
// memory either way, so that nothing is gained beyond what a provided buffer gains already.
#pragma once

#include <liburing.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "uring/io/busy_poll.h"
#include "uring/io/driver.h"

namespace virtproxy {

class IoUringDriver final : public Driver {
 public:
  // Must be called on the thread that will use it. `in_flight` bounds the operations in flight. An
  // error says what to do about it.
  static tl::expected<std::unique_ptr<IoUringDriver>, std::string> open(
      unsigned in_flight, const DriverFeatures& wanted);
  ~IoUringDriver() override;

  // What was wanted and refused by the kernel, for the log.
  const std::string& refused() const { return refused_; }
  // Whether memory sufficed only for a smaller ring.
  bool reduced() const { return reduced_; }

  void recv(Op& op, File file, void* to, size_t size, bool poll_first) override;
  void recv_provided(Op& op, File file, uint16_t group, size_t size, bool poll_first) override;
  void read(Op& op, File file, void* to, size_t size) override;
  void write(Op& op, File file, const void* from, size_t size) override;
  void read_at(Op& op, File file, void* to, size_t size, uint64_t offset) override;
  void write_at(Op& op, File file, const void* from, size_t size, uint64_t offset) override;
  void sync_data(Op& op, File file) override;
  void send(Op& op, File file, const void* from, size_t size, SendMode mode) override;
  void sendmsg(Op& op, File file, const msghdr* message, SendMode mode) override;
  void skip_success(Op& op) override;
  void poll(Op& op, File file, uint32_t events) override;
  void poll_hangup(Op& op, File file) override;
  void accept(Op& op, File file) override;
  void cancel(Op& op) override;

  // Registers the descriptor of a socket channel.
  File add_file(int fd, FileUse use) override;
  void remove_file(File& file) override;

  bool open_group(uint16_t group, uint32_t entries) override;
  void close_group(uint16_t group) override;
  void offer(uint16_t group, std::span<const OfferedBuffer> buffers) override;

  // While the kernel takes no request and completes none, for lack of memory, each call waits a
  // moment; after kMostRefusals of them it returns the error.
  int wait(std::optional<Instant> deadline) override;
  // Calls in a row, about a millisecond each, in which a kernel without memory may take nothing.
  static constexpr unsigned kMostRefusals = 1000;
  bool submitted() override { return io_uring_sq_ready(&ring_) == 0; }
  bool dispatch(unsigned most = kAll) override;

  io_uring* raw() { return &ring_; }

 private:
  struct BufferGroup {
    io_uring_buf_ring* ring = nullptr;
    uint32_t entries = 0;
  };

  IoUringDriver() = default;
  bool restrict_operations();
  int submit_and_wait();
  bool endures(int error);
  bool still_queued(const Op& op) const;
  bool passed_one_message_on() const;
  bool spin();
  void report_skipped();
  Op* op_of(const io_uring_cqe& entry) const;
  io_uring_sqe* next();
  io_uring_sqe* next_after_submitting();
  io_uring_sqe* prepare(Op& op, File file);
  void set_alarm(Instant at);

  io_uring ring_{};
  bool open_ = false;
  std::string refused_;
  bool reduced_ = false;
  unsigned refusals_ = 0;  // in a row, see endures()
  std::vector<int> free_files_;
  std::vector<BufferGroup> groups_;  // by their number
  struct Skipped {
    Op* op;
    uint32_t bytes;
  };
  std::vector<Skipped> skipped_;  // queued, or sent and not reported
  std::vector<Skipped> reporting_;
  BusyPoll busy_poll_;

  // One request wakes wait() at its deadline, or before. A time-out given to each wait would have
  // the kernel set its timer for every single one, which on a virtual machine costs more than the
  // rest of a turn; this one is moved only when something is due earlier than ever before.
  std::optional<Instant> alarm_at_;
  __kernel_timespec alarm_time_{};
};

}  // namespace virtproxy
