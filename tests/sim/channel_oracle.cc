#include "tests/sim/channel_oracle.h"

#include <fmt/format.h>

#include "tests/sim/canaries.h"

namespace virtproxy::sim {
namespace {

// How long what was said with protocol 1 may be heard.
constexpr Duration kOfProtocolOne = seconds(30);

unsigned bit(StallReason reason) { return 1u << static_cast<unsigned>(reason); }

}  // namespace

void ChannelOracle::session_up(const SessionUp& event) {
  World::current().trace("up", process_, channel_, event.protocol);
}

// The link's end is judged by what happened to the channel, see ChannelRecord.
void ChannelOracle::session_down(const SessionDown& event) {
  World& world = World::current();
  world.trace("down", process_, channel_, static_cast<int>(event.fault));
  const bool in_order = event.fault == Fault::kTransportLost || event.fault == Fault::kGoingAway;
  if (!in_order) world.note_fault({process_, channel_, event.fault});
}

void ChannelOracle::no_common_version(const NoCommonVersion& event) {
  World::current().note_fault({process_, channel_, event.fault});
}

void ChannelOracle::stream_opened(const StreamOpened& event) {
  World& world = World::current();
  world.trace("opened", process_, channel_, event.stream.slot, static_cast<int>(event.role));
  if (!streams_.try_emplace({event.stream.slot, event.stream.generation}).second) {
    world.fail("events", fmt::format("a stream of channel {} was opened twice", channel_));
  }
  if (event.role == StreamRole::kAcceptor) break_turn(broken_);
}

void ChannelOracle::stream_held_back(const StreamHeldBack&) {
  World& world = World::current();
  world.count(Mishap::kStreamStalls);
  world.channel(channel_).note_stall(world.now());
}

ChannelOracle::Open& ChannelOracle::open_stream(StreamKey stream) {
  const auto found = streams_.find({stream.slot, stream.generation});
  if (found == streams_.end()) {
    World::current().fail("events", fmt::format("channel {} has no such stream", channel_));
  }
  return found->second;
}

void ChannelOracle::stream_stalled(const StreamStalled& event) {
  Open& stream = open_stream(event.stream);
  if ((stream.stalls & bit(event.reason)) != 0) {
    World::current().fail("events", fmt::format("a stream of channel {} stalls twice for {}",
                                                channel_, stall_name(event.reason)));
  }
  stream.stalls |= bit(event.reason);
}

void ChannelOracle::stream_unstalled(const StreamUnstalled& event) {
  Open& stream = open_stream(event.stream);
  if ((stream.stalls & bit(event.reason)) == 0 || event.duration < Duration::zero()) {
    World::current().fail("events", fmt::format("a stream of channel {} ends a stall for {}",
                                                channel_, stall_name(event.reason)));
  }
  stream.stalls &= ~bit(event.reason);
}

void ChannelOracle::stream_closed(const StreamClosed& event) {
  World& world = World::current();
  world.trace("closed", process_, channel_, event.stream.slot, static_cast<int>(event.fault),
              event.bytes.sent, event.bytes.received);
  if (open_stream(event.stream).stalls != 0) {
    world.fail("events", fmt::format("a stream of channel {} is closed in a stall", channel_));
  }
  streams_.erase({event.stream.slot, event.stream.generation});
  if (event.service == kLogService) check_end_of_log_stream(event.fault);
}

// One end takes what the other has sent for a breach of the protocol, or for a second stream. With
// protocol 1 a line may change what it carries.
void ChannelOracle::check_end_of_log_stream(Fault fault) const {
  World& world = World::current();
  const ChannelRecord& record = world.channel(channel_);
  const Instant recently = world.now() - kOfProtocolOne;
  if (fault != Fault::kAborted && fault != Fault::kNoResources) return;
  if (record.hostile_since(world.now()) || record.last_spoken_old() >= recently) return;
  world.fail("logs", fmt::format("process {}: the stream of logs on channel {} is reset: {}",
                                 process_, channel_, fault_text(fault)));
}

}  // namespace virtproxy::sim
