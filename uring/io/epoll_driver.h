// The driver over epoll(7), for where io_uring is forbidden or missing.
//
// wait() tries each operation that was queued, with a call that does not block. An operation that
// has nothing to do yet waits in the slot of its descriptor, and goes on when epoll reports an
// event. So one epoll_wait(2) a turn is all that is paid for waiting, and a receive that follows
// another costs no call to epoll_ctl(2): a descriptor that was added stays registered. A late event
// of an earlier use is told by its generation.
//
// Reading is watched by level where all bytes that come are read. The next epoll_wait(2) looks
// again at a descriptor that it has reported, which costs much less than a receive that finds
// nothing. So an operation that expects to wait is not tried. Bytes that no operation waits for
// would be reported by every epoll_wait(2). A slot with such bytes changes to edges (EPOLLET), and
// back to the level after a number of receives that found nothing; the number doubles with each
// change. A stream may be short, and begins with edges. With edges a receive is not tried if no
// bytes can have come since a receive found the socket empty.
//
// Room for writing is watched by edges from the first write that waits for it. A socket reports
// room each time its other side has read something, so the watch ends after kMostIdleRoom reports
// without a write that waits.
//
// The deadline of wait() is kept by a timerfd that is moved only when something is due earlier than
// ever before: a time-out given to each wait would set a timer of the kernel for every one.
//
// What epoll refuses (EPERM: a regular file) is always ready to it; it is tried each turn, and a
// turn sleeps for at most kUnpollableInterval then.
#pragma once

#include <sys/epoll.h>
#include <sys/uio.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <tl/expected.hpp>
#include <unordered_map>
#include <vector>

#include "uring/io/busy_poll.h"
#include "uring/io/driver.h"

namespace virtproxy {

class EpollDriver final : public Driver {
 public:
  // An error says what to do about it.
  static tl::expected<std::unique_ptr<EpollDriver>, std::string> open(
      const DriverFeatures& wanted);
  ~EpollDriver() override;

  void recv(Op& op, File file, void* to, size_t size, bool poll_first) override;
  void found_empty(const File& file) override;
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

  File add_file(int fd, FileUse use) override;
  void remove_file(File& file) override;

  bool open_group(uint16_t group, uint32_t entries) override;
  void close_group(uint16_t group) override;
  void offer(uint16_t group, std::span<const OfferedBuffer> buffers) override;

  int wait(std::optional<Instant> deadline) override;
  bool submitted() override { return queue_.empty(); }
  bool dispatch(unsigned most = kAll) override;

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  static constexpr unsigned kMostEvents = 256;
  static constexpr int kUnpollableInterval = 10;  // milliseconds
  static constexpr unsigned kMostIdleRoom = 8;    // reports of room while no write waits
  static constexpr unsigned kLeastPatience = 4;   // receives that find nothing
  static constexpr unsigned kMostPatience = 128;

  enum class Kind : uint8_t {
    kRecv,
    kRecvProvided,
    kRead,
    kWrite,
    kSend,
    kSendMessage,
    kPoll,
    kHangup,
    kAccept,
    kReadAt,
    kWriteAt,
    kSyncData,
  };
  enum class State : uint8_t { kQueued, kCancelled, kParked };
  enum class Attempt : uint8_t { kOver, kWaits };

  struct Request {
    Op* op = nullptr;  // null: free
    Kind kind{};
    State state = State::kQueued;
    bool poll_first = false;
    uint16_t group = 0;
    File file;
    SendMode mode{};      // of a send
    uint32_t events = 0;  // to poll for, or what a hang-up poll has reported
    void* data = nullptr;
    const msghdr* message = nullptr;  // until the first attempt
    size_t size = 0;
    uint64_t offset = 0;      // in a file
    size_t done = 0;          // bytes that a send has sent
    std::vector<iovec> rest;  // of a message, once it was attempted
    uint32_t slot = kNone;    // where it is parked
    uint32_t next = kNone;    // parked there
  };

  // A descriptor: one that was added, or a bare one while something is parked.
  struct Slot {
    int fd = -1;
    uint32_t generation = 0;
    uint32_t parked = kNone;  // the first request
    uint32_t registered = 0;  // the events
    bool added = false;
    bool device = false;
    bool listens = false;  // and may live on in a duplicate of its descriptor
    bool readable = false;       // an event came, and no receive since has found or left nothing
    bool short_empties = false;  // a receive that gets less than it asked for has left nothing
    bool edges = true;           // reading is to be watched by edges, not by level
    unsigned idle_room = 0;      // reports of room since a write waited for it
    unsigned in_vain = 0;        // receives that found nothing since edges are watched
    unsigned patience = kLeastPatience;  // in_vain at which the level is watched again

    bool by_level() const { return registered != 0 && (registered & EPOLLET) == 0; }
  };

  struct Completed {
    Op* op;
    Outcome outcome;
  };
  struct Skipped {
    Op* op;
    int bytes;
  };

  EpollDriver() = default;

  Request& request(Op& op, File file, Kind kind);
  void start(uint32_t index);
  Attempt attempt(uint32_t index);
  Attempt receive(Request& request);
  Attempt receive_provided(Request& request);
  Attempt read_some(Request& request);
  Attempt write_some(Request& request);
  Attempt send_some(Request& request);
  Attempt poll_once(Request& request);
  Attempt poll_for_hangup(Request& request);
  Attempt accept_some(Request& request);
  Attempt use_file(Request& request);
  void keep_rest(Request& request, size_t sent);
  bool is_device(const Request& request) const;
  void finish(Request& request, int result, int buffer = Outcome::kNoBuffer);
  void complete_skipped();

  void park(uint32_t index);
  void unpark(uint32_t index);
  uint32_t slot_for(const Request& request);
  uint32_t new_slot(int fd);
  void free_slot(uint32_t index);
  int watch(uint32_t index, bool writes, bool anew);
  bool epoll_knows(const Request& request) const;
  void found_nothing(const Request& request);
  void received(const Request& request, size_t got);
  static bool waits_for_room(const Request& request);
  static bool concerns(const Request& request, uint32_t events);
  void on_event(const epoll_event& event);
  Attempt proceed(uint32_t index, uint32_t events);
  void set_alarm(Instant at);
  // 0, the number of events that came, or a negative errno.
  int wait_for_events(int timeout);
  int spin();
  int epoll_ = -1;
  int alarm_ = -1;
  std::optional<Instant> alarm_at_;
  std::vector<Request> requests_;
  std::vector<uint32_t> free_requests_;
  std::vector<uint32_t> queue_;       // since the last wait()
  std::vector<uint32_t> trying_;      // by this wait()
  std::vector<uint32_t> again_;       // by the next one, which does not sleep
  std::vector<uint32_t> unpollable_;  // by the next one, which does not sleep for long
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_slots_;
  std::unordered_map<int, uint32_t> bare_;  // slots of bare descriptors
  std::vector<std::vector<OfferedBuffer>> groups_;  // by their number; last offered on top
  std::vector<Completed> completed_;
  std::vector<Skipped> skipped_;
  std::vector<Skipped> reporting_;
  std::array<epoll_event, kMostEvents> events_;
  BusyPoll busy_poll_;
};

}  // namespace virtproxy
