// Channels that come, change and go while a worker runs.
#include "uring/daemon/worker_change.h"

#include <unistd.h>

#include <algorithm>
#include <exception>
#include <new>
#include <utility>

#include "uring/base/log.h"
#include "uring/daemon/worker.h"

namespace virtproxy {
namespace {

// A channel that the kernel does not let go of stays; it is looked at again in this interval.
constexpr Duration kLookInterval = std::chrono::milliseconds(100);

void close_all(Listening& listening) {
  for (const int fd : std::exchange(listening.sockets, {})) close(fd);
}

}  // namespace

void close_sockets(ChannelListenSockets& sockets) {
  for (Listening& forward : sockets.forwards) close_all(forward);
  close_all(sockets.transport);
}

ChannelEnding::ChannelEnding(Channel& channel, SocketForwards& forwards, Instant now,
                             Duration drain_timeout)
    : channel_(channel), forwards_(forwards), limit_(now + drain_timeout) {
  forwards_.stop_listening();
  channel_.drain();
}

bool ChannelEnding::advance(Instant now) {
  if (phase_ == Phase::kDraining) {
    const bool drained = channel_.drained() && forwards_.drained();
    if (!drained && now < limit_) return false;
    if (!drained) log_info("channel {}: streams are still open: resetting them", channel_.label());
    channel_.stop();
    forwards_.end_lingering();
    phase_ = Phase::kFlushing;
    limit_ = now + kLastWords;
  }
  if (phase_ == Phase::kFlushing) {
    if (!channel_.flushed() && now < limit_) return false;
    channel_.disconnect();
    phase_ = Phase::kLettingGo;
  }
  limit_ = now + kLookInterval;
  return channel_.idle() && forwards_.idle();
}

size_t Worker::place_of(std::string_view name) const {
  const auto found = std::find_if(channels_.begin(), channels_.end(),
                                  [&](const auto& channel) { return channel->label() == name; });
  return static_cast<size_t>(found - channels_.begin());
}

void Worker::apply(std::shared_ptr<WorkerChange> change,
                   std::function<void(WorkerChanged)> finish) {
  mailbox_.post([this, change = std::move(change), finish = std::move(finish)] {
    WorkerChanged changed;
    if (wanted_ == Wanted::kServe) {
      begin_changes(*change, changed);
    } else {
      for (WantedChannel& wanted : change->begun) close_sockets(wanted.listen_sockets);
      for (WantedChannel& wanted : change->kept) close_sockets(wanted.listen_sockets);
    }
    for (const auto& channel : channels_) changed.channels.push_back(channel->label());
    for (const WantedChannel& waits : waiting_) {
      changed.channels.push_back(waits.channel.spec.name);
    }
    finish(std::move(changed));
  });
}

void Worker::begin_changes(WorkerChange& change, WorkerChanged& changed) {
  config_.drain_timeout = change.drain_timeout;
  for (const std::string& name : change.ended) end_channel(name);
  for (WantedChannel& wanted : change.kept) change_forwards(std::move(wanted));
  for (WantedChannel& wanted : change.begun) {
    if (place_of(wanted.channel.spec.name) < channels_.size()) {
      waiting_.push_back(std::move(wanted));
    } else if (auto error = begin_channel(wanted)) {
      changed.failures.push_back({wanted.channel.spec.name, *std::move(error)});
    }
  }
}

// One that waits has no stream yet. One that is ending goes on with that.
void Worker::end_channel(const std::string& name) {
  std::erase_if(waiting_, [&](WantedChannel& waits) {
    if (waits.channel.spec.name != name) return false;
    close_sockets(waits.listen_sockets);
    return true;
  });
  const size_t place = place_of(name);
  if (place == channels_.size() || is_ending(*channels_[place])) return;
  endings_.emplace_back(*channels_[place], *forwards_[place], loop_->now(), config_.drain_timeout);
  ending_timer_->set(loop_->now());
}

void Worker::change_forwards(WantedChannel wanted) {
  const std::string& name = wanted.channel.spec.name;
  const auto waits = std::find_if(waiting_.begin(), waiting_.end(),
                                  [&](const auto& each) { return each.channel.spec.name == name; });
  if (waits == waiting_.end()) {
    const size_t place = place_of(name);
    // One that could not begin is not there.
    if (place == channels_.size()) return close_sockets(wanted.listen_sockets);
    return forwards_[place]->change(std::move(wanted.forwards),
                                    std::move(wanted.listen_sockets.forwards));
  }
  const std::vector<ForwardSpec>& before = waits->forwards.oforwards;
  const std::vector<ForwardSpec>& after = wanted.forwards.oforwards;
  std::vector<Listening>& sockets = wanted.listen_sockets.forwards;
  for (size_t i = 0; i < after.size(); ++i) {
    for (size_t j = 0; j < before.size(); ++j) {
      if (before[j].is_same_listener(after[i])) {
        std::swap(sockets[i], waits->listen_sockets.forwards[j]);
      }
    }
  }
  for (Listening& gone : waits->listen_sockets.forwards) close_all(gone);
  waits->forwards = std::move(wanted.forwards);
  waits->listen_sockets.forwards = std::move(sockets);
}

bool Worker::is_ending(const Channel& channel) const {
  return std::any_of(endings_.begin(), endings_.end(),
                     [&](const auto& ending) { return &ending.channel() == &channel; });
}

// Each channel has two groups of buffers.
uint16_t Worker::free_buffer_group() const {
  uint16_t group = 0;
  const auto uses = [&](const auto& channel) { return channel->first_buffer_group() == group; };
  while (std::any_of(channels_.begin(), channels_.end(), uses)) group += 2;
  return group;
}

std::optional<std::string> Worker::begin_channel(WantedChannel& wanted) {
  wanted.channel.first_buffer_group = free_buffer_group();
  std::string reason;
  try {
    add_channel(wanted.channel, std::move(wanted.forwards));
  } catch (const std::bad_alloc&) {
    reason = "not enough memory: give it less with memory, or raise ulimit -v";
  } catch (const std::exception& error) {
    reason = error.what();
  }
  if (!reason.empty()) {
    close_sockets(wanted.listen_sockets);
    const std::string text = "channel " + wanted.channel.spec.name + " cannot begin: " + reason;
    log_error("{}", text);
    return text;
  }
  start_channel(std::move(wanted.listen_sockets));
  return std::nullopt;
}

// In each turn while a channel is ending.
void Worker::advance_endings() {
  for (auto ending = endings_.begin(); ending != endings_.end();) {
    if (!ending->advance(loop_->now())) {
      ++ending;
      continue;
    }
    const std::string name = ending->channel().label();
    const auto place = static_cast<std::ptrdiff_t>(place_of(name));
    ending = endings_.erase(ending);
    channels_.erase(channels_.begin() + place);
    attendants_.erase(attendants_.begin() + place);
    forwards_.erase(forwards_.begin() + place);
    log_info("channel {}: ended", name);
    const auto waits = std::find_if(waiting_.begin(), waiting_.end(), [&](const auto& each) {
      return each.channel.spec.name == name;
    });
    if (waits == waiting_.end()) continue;
    WantedChannel wanted = std::move(*waits);
    waiting_.erase(waits);
    if (begin_channel(wanted)) {
      reports_->post([client = client_, name] { client->channel_failed(name); });
    }
  }
  if (endings_.empty()) return ending_timer_->clear();
  const auto next = std::min_element(
      endings_.begin(), endings_.end(),
      [](const auto& one, const auto& other) { return one.deadline() < other.deadline(); });
  ending_timer_->set(next->deadline());
}

void Worker::give_up_waiting() {
  for (WantedChannel& waits : waiting_) close_sockets(waits.listen_sockets);
  waiting_.clear();
}

}  // namespace virtproxy
