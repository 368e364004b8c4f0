// Lines as datagrams to a unix socket, /dev/log for example. Safe is what the process has read:
// nothing is left in the socket (SIOCOUTQ), and the receiver is still the one that it was sent to.
// In the abstract namespace the latter cannot be told. A datagram that the socket does not take for
// its size is refused for good, and the guest is told.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "uring/base/unique_fd.h"
#include "uring/service/logs/line_format.h"
#include "uring/service/logs/log_sink.h"
#include "uring/service/logs/sent_parcels.h"

namespace virtproxy {

class DatagramSink final : public LogSink, private Completion, private Timer::Owner {
 public:
  explicit DatagramSink(const SinkSpec& spec) : spec_(spec), writer_(spec.format), poll_(this) {}

  void start(Loop& loop, ResolverDriver& resolver, LogSink::Client* client) override;
  bool has_room() const override { return parcels_.bytes() < kWindow; }
  void take(const ParcelView& view) override { parcels_.add(view, writer_); }
  void flush() override;
  uint64_t safe() const override { return parcels_.safe(); }
  std::vector<RefusedLine> take_refused() override { return parcels_.take_refused(); }
  void stop() override;
  bool idle() const override { return !poll_.pending; }

 private:
  static constexpr size_t kWindow = 1u << 20;

  void complete(Op& op, Outcome outcome) override;
  void expired(Timer& timer) override;
  void connect();
  void lose(int error);
  void back_off(Timer& timer);
  int connect_socket(UniqueFd& into) const;
  // The file of the receiver's address. All zero in the abstract namespace, and where there is
  // none.
  struct ReceiverFile {
    dev_t device = 0;
    ino_t inode = 0;
    int64_t made = 0;  // in ns since 1970: an inode's number may be used again
    bool operator==(const ReceiverFile&) const = default;
  };
  ReceiverFile receiver_file() const;
  void check();

  const SinkSpec spec_;
  LineWriter writer_;
  Loop* loop_ = nullptr;
  LogSink::Client* client_ = nullptr;
  Op poll_;
  std::unique_ptr<Timer> retry_;  // to connect
  std::unique_ptr<Timer> pause_;  // before a send that found no memory is tried again
  std::unique_ptr<Timer> check_;
  Duration backoff_{};
  int reported_ = 0;  // the error that the log has
  bool stopped_ = false;
  UniqueFd socket_;
  ReceiverFile receiver_;  // that socket_ is connected to
  SentParcels parcels_;
};

}  // namespace virtproxy
