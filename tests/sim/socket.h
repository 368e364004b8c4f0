// Stream sockets: unix ones, whose bytes are there at once, and TCP ones, with a way to go.
//
// What is modelled is what applications can tell apart: half-close, the end of the stream against a
// reset, what becomes of unread bytes, and which error a write gets (see af_unix.c and tcp.c).
#pragma once

#include <deque>
#include <optional>
#include <string>

#include "tests/sim/file.h"

namespace virtproxy::sim {

enum class Family : uint8_t { kUnix, kTcp };

// How bytes travel over one connection.
struct Path {
  size_t capacity = 65536;  // bytes under way or unread, each direction
  Duration latency{};
  double bytes_per_nanosecond = 0;  // 0: as fast as anybody reads
  unsigned channel = 0;             // the id of the one whose bytes these are
  bool spared = false;              // no call on either end is made to fail
};

class Socket final : public File, public std::enable_shared_from_this<Socket> {
 public:
  explicit Socket(Family family) : family_(family) {}
  ~Socket() override;

  Family family() const { return family_; }

  void listen(size_t backlog) {
    listening_ = true;
    backlog_limit_ = backlog;
  }
  bool listening() const { return listening_; }
  bool backlog_full() const { return backlog_.size() >= backlog_limit_; }
  // A connection to this listener; it waits there to be accepted.
  void connect_to(const std::shared_ptr<Socket>& listener, const Path& path);
  void begin_connecting() { connecting_ = true; }
  void refuse(int error);
  std::shared_ptr<Socket> accept();
  // An attempt to accept was made to fail.
  void note_failed_accept();

  int64_t read(std::span<std::byte> to) override;
  int64_t write(std::span<const std::byte> from) override;
  uint32_t poll() const override;
  int shutdown(bool reading, bool writing);
  int take_error();
  // A TCP socket that lingers for no time resets its connection when it is closed.
  void set_linger(bool on) { linger_ = on; }

  bool connected() const { return connected_; }
  bool shut_for_writing() const { return shut_for_writing_; }
  std::shared_ptr<Socket> peer() const { return peer_.lock(); }
  // Whether its other side cannot tell when it is released.
  bool said_and_heard_all() const {
    return end_arrived_ && shut_for_writing_ && !linger_ && incoming_.size() == 0;
  }
  bool leaves_bytes_unread() const { return incoming_.size() > 0; }
  size_t room() const;
  bool writable() const;
  size_t unread() const { return arrived_; }
  // Bytes that have not arrived at the other side; of a unix socket, that were not read there.
  size_t under_way() const;

  // The machine in between breaks the connection; of the bytes under way each way some are lost
  // when it is torn.
  void cut(bool torn);
  // Nothing arrives on either side before `until`.
  void freeze(Instant until);

  bool reset_under_way() const { return reset_under_way_ && !reset_; }
  // The reset that is under way is there now, behind the bytes that were sent before it.
  void hasten_reset();

  // For the oracles.
  // Whether an operation on the daemon's end was made to fail; both ends know, whoever is left.
  std::shared_ptr<bool> faulted = std::make_shared<bool>(false);
  // When a client of this connection was last not accepted, for want of descriptors or memory; both
  // ends know.
  std::shared_ptr<Instant> kept_waiting_at = std::make_shared<Instant>();
  // Bytes written here that a reset took back on their way.
  std::shared_ptr<uint64_t> taken_back = std::make_shared<uint64_t>(0);
  std::optional<Instant> peer_left_at;
  bool left_full = false;  // the other one could not have written more when it went
  bool peer_gone() const { return connected_ && peer_.expired(); }
  bool reset() const { return reset_; }

 private:
  void send_end();
  void send_reset();
  void on_reset();
  // Runs `what` at this socket once everything sent to it before has arrived, and wakes those who
  // wait for `events`.
  template <typename What>
  void arrive(Duration latency, uint32_t events, What what);

  const Family family_;
  bool listening_ = false;
  size_t backlog_limit_ = 0;
  std::deque<std::shared_ptr<Socket>> backlog_;

  bool connecting_ = false;
  bool connected_ = false;
  Path path_;
  std::weak_ptr<Socket> peer_;

  // Towards this socket.
  Fifo incoming_;
  size_t arrived_ = 0;
  Instant last_arrival_{};
  Instant frozen_until_{};
  Instant room_since_{};  // when there was none before, towards the other one
  bool end_arrived_ = false;
  bool end_lost_ = false;

  bool shut_for_writing_ = false;
  bool shut_for_reading_ = false;
  bool linger_ = false;
  bool reset_ = false;
  bool reset_under_way_ = false;
  int error_ = 0;
};

// An operation that fails though nothing is wrong with its file: a negative errno.
std::optional<int> injected_error(File& file, bool receives);
// The same of one that a driver makes, which may fail for lack of memory as well.
std::optional<int> injected_driver_error(File& file, bool receives);

}  // namespace virtproxy::sim
