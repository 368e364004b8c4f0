// One io_uring: the door to the kernel for everything one thread does.
//
// An owner embeds an Op for each operation it may have in flight and is told of the result through
// its Completion. An Op is `pending` from submission to its last completion; the kernel may touch
// the memory it names for as long. An owner must outlive its pending Ops: cancel(), then wait for
// the completion. Requests are only queued here; wait() submits what was queued and sleeps. Where
// the submission queue is full and the kernel takes nothing out of it for a second, queuing one
// more throws std::system_error: the ring is of no use any more.
//
// Which kernel features are used and why (each can be switched off by name, and is dropped with a
// message where the kernel refuses it):
//   single-issuer, coop-taskrun, defer-taskrun   completions run when this thread asks for them, in
//                     batches, instead of interrupting it
//   registered-ring   the ring's own descriptor is looked up without reference counting
//   registered-files  the same for channel descriptors, which see one or two operations every turn;
//                     client descriptors come and go, and registering each costs more than it saves
//   provided-buffers  the kernel picks a buffer when bytes are there: ten thousand idle clients pin
//                     no buffer. The buffer ring is registered memory shared with the kernel.
//   poll-first        a receive that expects to wait does not try in vain first
//   multishot-accept  one request accepts any number of clients
//   skip-success      the success of a small send that nothing follows from ends no wait; it is
//                     noted when something else does. Saves half the turns of a message.
//   busy-poll         while one conversation goes back and forth, wait() spins for a moment before
//                     it sleeps (busy_poll.h); it needs skip-success
//   splice            bulk payload passes from socket to socket by way of pipes (pipes.h); not the
//                     ring's own, but optional like the others
//   no-iowait         a thread that waits for its ring is idle to the kernel's accounts. Without it
//                     (before Linux 6.15) one that has nothing to do counts as waiting for a disk.
//   restrictions      the ring takes the operations below and no others, whoever asks: system call
//                     filters do not see what goes through a ring
// Fixed buffers (READ_FIXED) are not used: sockets and character devices copy from and to user
// memory either way, so that nothing is gained beyond what a provided buffer gains already.
#pragma once

#include <liburing.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "core/time.h"
#include "uring/io/busy_poll.h"

namespace virtproxy {

struct Op;

class Completion {
 public:
  // `result` is what the system call would have returned, or a negative errno.
  virtual void complete(Op& op, int result, uint32_t flags) = 0;

 protected:
  ~Completion() = default;
};

struct Op {
  explicit Op(Completion* o) : owner(o) {}
  Op(const Op&) = delete;
  Op& operator=(const Op&) = delete;

  Completion* owner;
  bool pending = false;
  bool skips_success = false;  // see skip_success()
  unsigned place = 0;  // of its request in the submission queue, in the queue's own counting
};

// A descriptor, and its index in the registered file table where it has one.
struct File {
  int fd = -1;
  int index = -1;
};

struct RingFeatures {
  bool single_issuer = true;
  bool coop_taskrun = true;
  bool defer_taskrun = true;
  bool registered_ring = true;
  bool registered_files = true;
  bool provided_buffers = true;
  bool poll_first = true;
  bool multishot_accept = true;
  bool skip_success = true;
  bool busy_poll = true;
  bool splice = true;
  bool no_iowait = true;
  bool restrictions = true;

  struct Name {
    std::string_view name;
    bool RingFeatures::*member;
  };
  static const std::vector<Name>& names();
  // Switches off the features of a comma-separated list; an error names the unknown one.
  tl::expected<void, std::string> disable(std::string_view list);
};

class Ring {
 public:
  // Must be called on the thread that will use the ring. `in_flight` bounds the operations in
  // flight. An error says what to do about it.
  static tl::expected<std::unique_ptr<Ring>, std::string> open(unsigned in_flight,
                                                               const RingFeatures& wanted);
  ~Ring();

  const RingFeatures& features() const { return features_; }
  // What was wanted and refused by the kernel, for the log.
  const std::string& refused() const { return refused_; }
  // Whether memory sufficed only for a smaller ring.
  bool reduced() const { return reduced_; }

  void recv(Op& op, File file, void* to, size_t size, bool poll_first);
  void recv_provided(Op& op, File file, uint16_t group, size_t size, bool poll_first);
  void read(Op& op, File file, void* to, size_t size);
  void write(Op& op, File file, const void* from, size_t size);
  void send(Op& op, File file, const void* from, size_t size, int flags);
  void sendmsg(Op& op, File file, const msghdr* message, int flags);
  // Makes a send that was queued just now skip its completion on success, where the kernel can: it
  // does not wait for room. If all of it leaves, that ends no wait() and is reported by the first
  // dispatch() afterwards, before anything else. Anything less is reported like every completion.
  // For a send whose success leads to nothing, of at most kMostSkipped bytes: a larger one may find
  // no room.
  static constexpr size_t kMostSkipped = 16 * 1024;
  void skip_success(Op& op);
  void poll(Op& op, File file, uint32_t events);
  // Completes whenever the socket's other side has left further: shut its write side, closed, or
  // reset. The kernel says so of the first unasked, so the Op stays pending for the others.
  void poll_hangup(Op& op, File file);
  // Accepts connections one after another; with multishot-accept the Op stays pending in between.
  void accept(Op& op, int fd);
  // Asks for the end of a pending operation; its completion still comes. One that the kernel has
  // not seen yet will not touch its descriptor any more, which may be closed, and given to somebody
  // else, before the kernel sees it.
  void cancel(Op& op);

  // Registers a descriptor; the File falls back to the bare descriptor where the table is full or
  // files cannot be registered.
  File add_file(int fd);
  void remove_file(File& file);

  // Submits everything queued and waits for a completion, or until about `deadline` on the
  // monotonic clock (kNow does not wait): it may return early. Returns 0 or a negative errno that
  // is not about time or signals. While the kernel takes no request and completes none, for lack of
  // memory, each call waits a moment; after kMostRefusals of them it returns the error.
  static constexpr Instant kNow = Instant::min();
  int wait(std::optional<Instant> deadline);
  // Calls in a row, about a millisecond each, in which a kernel without memory may take nothing.
  static constexpr unsigned kMostRefusals = 1000;
  // Whether the kernel has seen everything that was queued.
  bool submitted() { return io_uring_sq_ready(&ring_) == 0; }
  // Hands out the completions that are there, at most about `most`. Whether some are left.
  bool dispatch(unsigned most = std::numeric_limits<unsigned>::max());

  io_uring* raw() { return &ring_; }

 private:
  Ring() = default;
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
  RingFeatures features_;
  std::string refused_;
  bool reduced_ = false;
  unsigned refusals_ = 0;  // in a row, see endures()
  std::vector<int> free_files_;
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
