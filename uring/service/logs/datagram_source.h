// Lines that are datagrams: of a unix socket such as /dev/log, or of UDP. A datagram is a line, all
// of its bytes.
#pragma once

#include <sys/socket.h>

#include <vector>

#include "uring/base/unique_fd.h"
#include "uring/net/sockets.h"
#include "uring/service/logs/input.h"
#include "uring/service/logs/ship_start.h"

namespace virtproxy::logs {

// Options of a datagram socket that were set before it is given to a DatagramSource: SO_TIMESTAMPNS
// and, of a unix socket, SO_PASSCRED.
class DatagramSource final : public LogSource, private Input {
 public:
  // `counts_losses`: of UDP, whose kernel side drops what finds no room.
  DatagramSource(Loop& loop, LineTarget& target, uint16_t source, UniqueFd fd, BoundPath path,
                 SocketEnd end, bool counts_losses);
  ~DatagramSource() override;

  void start() override { Input::start(); }
  void resume() override { Input::resume(); }
  void drain() override { Input::drain(); }
  void stop() override { Input::stop(); }
  bool is_over() const override { return Input::is_over(); }
  bool idle() const override { return Input::idle(); }

 private:
  static constexpr size_t kMostMessages = 64;  // of one call
  // … after one that received large messages: their pages are given back.
  static constexpr size_t kFewMessages = 8;
  static constexpr size_t kLarge = 8192;  // bytes
  static constexpr size_t kControl = 128;

  Progress read_some() override;
  void on_drain() override;
  void on_over() override;
  Progress offer_rest();
  Line line_of(const msghdr& message, size_t size) const;
  uint32_t losses_so_far() const;
  void count_losses();

  LineTarget& target_;
  const uint16_t source_;
  UniqueFd fd_;
  BoundPath path_;  // of a unix socket
  const SocketEnd end_;
  const bool counts_losses_;
  const size_t slot_size_;
  const size_t stride_;  // from the pages of a slot to those of the next one
  std::byte* slots_;
  std::vector<mmsghdr> messages_;
  std::vector<iovec> vectors_;
  std::vector<std::byte> controls_;
  size_t received_ = 0;  // of the last call
  size_t offered_ = 0;   // of those
  bool large_ = false;   // one of them was
  uint32_t losses_ = 0;
};

}  // namespace virtproxy::logs
