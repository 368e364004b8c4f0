// A program at the far end of a channel that is no daemon: it connects, listens or opens the device
// as the daemon would whose place it took, and writes what HostileBytes draws, when that does most
// harm.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "tests/sim/file.h"
#include "tests/sim/hostile_bytes.h"
#include "tests/sim/process.h"
#include "uring/daemon/options.h"

namespace virtproxy::sim {

class HostilePeer final : private File::Waiter {
 public:
  // `spec` is that of the daemon whose place is taken. `connected` is called whenever the channel
  // was opened.
  HostilePeer(Network& network, const ChannelSpec& spec, Target target,
              std::function<void()> connected);
  ~HostilePeer();

  unsigned channel() const { return channel_; }
  // Leaves the channel, and comes back.
  void leave_for(Duration time);

 private:
  void file_changed() override;
  void act_at(Instant when);
  void act();
  void connect();
  void listen();
  void attach(FileRef file);
  void detach();
  void read();
  void write();
  void plan_next();
  void leave();

  Network& network_;
  const ChannelSpec spec_;
  const unsigned channel_;
  const std::string name_;
  HostileBytes bytes_;
  const std::function<void()> connected_;
  std::shared_ptr<Socket> listener_;
  FileRef file_;
  bool deaf_ = false;             // reads nothing
  std::optional<Instant> heard_;  // when the first bytes of this connection came
  Fifo pending_;
  Instant next_at_{};
  bool leaves_ = false;  // once everything is written
  Instant returns_at_{};
  Instant scheduled_for_ = Instant::max();
  std::shared_ptr<int> alive_ = std::make_shared<int>();
};

}  // namespace virtproxy::sim
