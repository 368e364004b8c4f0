// What a worker is told to do differently while it runs, and a channel on its way out.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "uring/mux/channel.h"
#include "uring/net/sockets.h"
#include "uring/service/socket_forwards.h"

namespace virtproxy {

// The listeners of one channel. Of those that the worker has already and keeps, without a socket.
struct ChannelListenSockets {
  std::vector<Listening> forwards;  // in the order of ForwardConfig::oforwards
  Listening transport;              // of a method that listens
};

// Closes sockets that were not used.
void close_sockets(ChannelListenSockets& sockets);

// A channel that the worker is to have.
struct WantedChannel {
  ChannelConfig channel;
  ForwardConfig forwards;
  ChannelListenSockets listen_sockets;
};

struct WorkerChange {
  std::vector<std::string> ended;     // as by a drain: open streams may finish
  std::vector<WantedChannel> begun;   // once no channel of the same name is left
  std::vector<WantedChannel> kept;    // with other forwards; of the rest only the name is looked at
  Duration drain_timeout{};
};

// A channel that could not begin, and is not there.
struct ChannelFailure {
  std::string channel;
  std::string text;
};

// What became of a change.
struct WorkerChanged {
  std::vector<std::string> channels;  // that the worker has, also those that are ending or waiting
  std::vector<ChannelFailure> failures;
};

// After the drain: how long the last resets may take to leave.
inline constexpr Duration kLastWords = std::chrono::milliseconds(200);

// A channel that ends while others go on: drained within a time, then reset, then let go of.
class ChannelEnding {
 public:
  // Begins the drain. Both must outlive this object.
  ChannelEnding(Channel& channel, SocketForwards& forwards, Instant now, Duration drain_timeout);

  // To be called in each turn. True when the channel can be destroyed.
  bool advance(Instant now);
  // When it is to be called at the latest.
  Instant deadline() const { return limit_; }
  const Channel& channel() const { return channel_; }

 private:
  enum class Phase : uint8_t { kDraining, kFlushing, kLettingGo };

  Channel& channel_;
  SocketForwards& forwards_;
  Phase phase_ = Phase::kDraining;
  Instant limit_;
};

}  // namespace virtproxy
