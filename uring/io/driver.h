// What one thread asks of the kernel: operations on descriptors that complete later, and one wait
// for all of them.
//
// An owner embeds an Op for each operation it may have in flight and is told of the result through
// its Completion. An Op is `pending` from its request to its last completion; the driver and the
// kernel may touch the memory it names for as long. An owner must outlive its pending Ops: cancel(),
// then wait for the completion. A request only queues the operation: nothing is done with its
// descriptor, and no owner is told of anything, before wait() and dispatch().
//
// Descriptors do not block (O_NONBLOCK); sockets may. Message headers and vectors are read by the
// next wait() and never afterwards, see submitted(). At most one operation that receives and one
// that sends is pending for a descriptor; one that polls counts as what it waits for, and a hang-up
// poll may be pending beside them.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <utility>

#include "core/time.h"
#include "uring/io/driver_features.h"

namespace virtproxy {

struct Op;

// How an operation went, or how far it has come.
struct Outcome {
  static constexpr int kNoBuffer = -1;

  int result = 0;  // what the system call would have returned, or a negative errno
  int buffer = kNoBuffer;  // the number of the buffer that holds what was received, now the owner's
  bool more = false;       // the operation goes on: it stays pending
};

class Completion {
 public:
  virtual void complete(Op& op, Outcome outcome) = 0;

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
  unsigned place = 0;          // of its request, in the driver's own counting
};

// A descriptor, and what the driver has for it where it was added.
struct File {
  int fd = -1;
  int index = -1;
};

// What a descriptor that is added is used for.
enum class FileUse : uint8_t {
  kChannel,  // a socket; one or two operations every turn
  kDevice,   // a channel that is no socket. It may be opened again as soon as it is closed.
  kStream,   // the socket of an application; thousands come and go
  kListen,   // a listening socket that connections are accepted from
};

// What a send does about a socket that has no room for all of it.
//
// A send that waits must not be cancelled before shutdown(2) of its socket. A kernel that has just
// found room tries again in a moment, and a cancellation in that moment finds nothing; if there is
// no room after all, the send stays, and may block a worker thread, until the receiver reads or
// closes. Seen with Linux 6.18 and TCP, in 3 of 100 sends whose receiver stopped reading.
enum class SendMode : uint8_t {
  kNow,  // sends what there is room for, and completes with -EAGAIN where there is none
  kAll,  // waits until all is sent, or the connection is broken
};
constexpr int message_flags(SendMode mode) {
  return mode == SendMode::kNow ? MSG_DONTWAIT : MSG_WAITALL;
}

// A free buffer that is given to a group.
struct OfferedBuffer {
  void* data;
  uint32_t size;  // bytes
  uint16_t id;    // unique in its group
};

class Driver {
 public:
  virtual ~Driver() = default;
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;

  // What is in use of what was wanted.
  const DriverFeatures& features() const { return features_; }

  // --- operations. `size` is in bytes.

  // With `poll_first`, a receive that expects to wait: it need not try before the socket is ready.
  virtual void recv(Op& op, File file, void* to, size_t size, bool poll_first) = 0;
  // A recv(2) by the owner of an added socket has found nothing (EAGAIN) since the last wait(): the
  // next receive with `poll_first` need not try.
  virtual void found_empty(const File& /*file*/) {}
  // Receives into a buffer of the group, of at most `size` bytes; -ENOBUFS where none is left. Only
  // where features().provided_buffers.
  virtual void recv_provided(Op& op, File file, uint16_t group, size_t size, bool poll_first) = 0;
  // A device that has nothing, or no room, may be waited for, or complete with -EAGAIN.
  virtual void read(Op& op, File file, void* to, size_t size) = 0;
  virtual void write(Op& op, File file, const void* from, size_t size) = 0;
  // Of a regular file or a block device: from this offset on, in bytes; data and size are forced to
  // the disk by sync_data(). The epoll driver makes the calls in wait(), which then lasts as long as
  // they do. Reads and writes of one file may be pending at once where their ranges are apart.
  virtual void read_at(Op& op, File file, void* to, size_t size, uint64_t offset) = 0;
  virtual void write_at(Op& op, File file, const void* from, size_t size, uint64_t offset) = 0;
  virtual void sync_data(Op& op, File file) = 0;
  // MSG_NOSIGNAL is added.
  virtual void send(Op& op, File file, const void* from, size_t size, SendMode mode) = 0;
  virtual void sendmsg(Op& op, File file, const msghdr* message, SendMode mode) = 0;
  // Makes a send that was queued just now skip its completion on success, where the driver can: it
  // does not wait for room. If all of it leaves, that ends no wait() and is reported by the first
  // dispatch() afterwards, before anything else. Anything less is reported like every completion.
  // For a send whose success leads to nothing, of at most kMostSkipped bytes: a larger one may find
  // no room.
  static constexpr size_t kMostSkipped = 16 * 1024;
  virtual void skip_success(Op& op) = 0;
  // Completes with those of the events (POLLIN, …) that are there, POLLERR and POLLHUP among them.
  virtual void poll(Op& op, File file, uint32_t events) = 0;
  // Completes when the socket's other side is gone or has reset it, and each time it gets worse: the
  // Op stays pending, as a rule.
  virtual void poll_hangup(Op& op, File file) = 0;
  // Accepts connections one after another; the Op may stay pending in between. They do not block. The
  // file was added as FileUse::kListen.
  virtual void accept(Op& op, File file) = 0;
  // Asks for the end of a pending operation; its completion still comes. One that no wait() has
  // taken yet will not touch its descriptor any more, which may be closed, and its number given to
  // another one, at once.
  virtual void cancel(Op& op) = 0;

  // --- descriptors

  // Adds a descriptor that is used for long. It is removed after its operations are cancelled, and
  // before it is closed or used without this File. The File falls back to the bare descriptor where
  // the driver gains nothing, or has no room. Operations take a bare descriptor too.
  virtual File add_file(int fd, FileUse use) = 0;
  virtual void remove_file(File& file) = 0;

  // --- buffer groups

  // A group without a buffer yet, for up to `entries` of them, a power of two. False where the
  // kernel refuses.
  virtual bool open_group(uint16_t group, uint32_t entries) = 0;
  // No operation that names it is pending.
  virtual void close_group(uint16_t group) = 0;
  // The memory is the driver's until a completion names its buffer, or the group is closed.
  virtual void offer(uint16_t group, std::span<const OfferedBuffer> buffers) = 0;

  // --- a turn

  // Does what was queued and waits for a completion, or until about `deadline` on the monotonic
  // clock (kNow does not wait): it may return early. Returns 0, or a negative errno that is not
  // about time or signals; the driver is of no use any more then.
  static constexpr Instant kNow = Instant::min();
  virtual int wait(std::optional<Instant> deadline) = 0;
  // How long the calls of read_at(), write_at() and sync_data() have kept wait() since this was
  // asked last. Zero where they do not.
  Duration take_file_time() { return std::exchange(file_time_, Duration::zero()); }
  // Whether nothing that was queued is left to do: no message header or vector is read any more.
  virtual bool submitted() = 0;
  // Hands out the completions that are there, at most about `most`. Whether some are left.
  static constexpr unsigned kAll = std::numeric_limits<unsigned>::max();
  virtual bool dispatch(unsigned most = kAll) = 0;

 protected:
  Driver() = default;

  DriverFeatures features_;
  Duration file_time_{};
};

}  // namespace virtproxy
