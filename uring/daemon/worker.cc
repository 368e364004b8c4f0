#include "uring/daemon/worker.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>
#include <new>

#include "uring/base/log.h"
#include "uring/mux/stats_text.h"

namespace virtproxy {
namespace {

// How long the kernel may take to let go of what was cancelled.
constexpr Duration kLetGo = std::chrono::milliseconds(1000);

constexpr unsigned kOperationsPerStream = 3;

constexpr StatInfo kLongestTurn{"turn_longest",
                                "The longest turn of a worker since this was asked for last",
                                StatKind::kGauge, StatUnit::kSeconds};

}  // namespace

Worker::Worker(WorkerConfig config) : config_(std::move(config)), wake_op_(this) {}

Worker::~Worker() = default;

std::future<Worker::Started> Worker::start() {
  std::promise<Started> started;
  auto future = started.get_future();
  thread_ =
      std::thread([this, promise = std::move(started)]() mutable { run(std::move(promise)); });
  return future;
}

void Worker::join() {
  if (thread_.joinable()) thread_.join();
}

void Worker::run(std::promise<Started> started) {
  Started result = try_to_set_up();
  const bool good = result.has_value();
  started.set_value(std::move(result));
  go_.get_future().wait();
  try {
    if (good) serve();
    if (!broken_) drain();
  } catch (const std::exception& error) {
    log_error("giving up: {}", error.what());
    broken_ = true;
  }
  failed_ = broken_;
  if (broken_) {
    abandon();
  } else {
    channels_.clear();
    shipper_.reset();
    collectors_.clear();
    attendants_.clear();
    forwards_.clear();
    resolver_driver_.reset();
    ending_timer_.reset();
    heartbeat_timer_.reset();
    loop_.reset();
  }
  mailbox_.close();
  ended_ = true;
  reports_->post([client = client_] { client->worker_ended(); });
}

// What the kernel may still write to must not be freed: the process is about to end.
void Worker::abandon() {
  for (auto& channel : channels_) (void)channel.release();
  (void)shipper_.release();
  for (auto& collector : collectors_) (void)collector.release();
  for (Attendants& each : attendants_) {
    (void)each.recorder.release();
    (void)each.asker.release();
    (void)each.far.release();
  }
  for (auto& forwards : forwards_) (void)forwards.release();
  (void)resolver_driver_.release();
  (void)ending_timer_.release();
  (void)heartbeat_timer_.release();
  (void)loop_.release();
}

Worker::Started Worker::try_to_set_up() {
  try {
    return set_up();
  } catch (const std::bad_alloc&) {
    broken_ = true;
    return tl::unexpected<std::string>(
        "not enough memory: use less --memory, fewer channels, or raise ulimit -v");
  } catch (const std::exception& error) {
    broken_ = true;
    return tl::unexpected<std::string>(error.what());
  }
}

Worker::Started Worker::set_up() {
  unsigned in_flight = 64;
  for (const ChannelConfig& channel : config_.channels) {
    in_flight += std::min(channel.max_streams, 65536u) * kOperationsPerStream;
  }
  auto opened = open_driver(config_.driver, std::min(in_flight, 65536u), config_.features);
  if (!opened) return tl::unexpected(opened.error());
  driver_ = opened->kind;
  warnings_ = std::move(opened->warnings);
  loop_ = std::make_unique<Loop>(std::move(opened->driver));
  resolver_driver_ = std::make_unique<ResolverDriver>(*loop_);
  Timer::Owner* const owner = this;
  ending_timer_ = std::make_unique<Timer>(loop_->timers(), owner);
  heartbeat_timer_ = std::make_unique<Timer>(loop_->timers(), owner);
  if (config_.heartbeat > Duration::zero()) beat();
  for (size_t i = 0; i < config_.channels.size(); ++i) {
    add_channel(config_.channels[i], std::move(config_.forwards[i]));
    if (config_.log_hub != nullptr) {
      collectors_.push_back(
          std::make_unique<LogCollector>(*loop_, *config_.log_hub, config_.vms[i]));
      forwards_.back()->add_built_in(kLogService, *collectors_.back());
    }
    if (config_.ship && i == config_.ship_channel) {
      shipper_ = std::make_unique<logs::LogShipper>(*loop_, *channels_.back(),
                                                    *std::move(config_.ship));
    }
    start_channel(std::move(config_.listen_sockets[i]));
  }
  if (shipper_) shipper_->start();
  loop_->driver().read(wake_op_, {mailbox_.fd(), -1}, &wake_count_, sizeof wake_count_);
  return {};
}

// With what attends it, or not at all.
void Worker::add_channel(const ChannelConfig& config, ForwardConfig forward_config) {
  auto forwards =
      std::make_unique<SocketForwards>(*loop_, *resolver_driver_, std::move(forward_config));
  Attendants attendants;
  if (config.share_stats && config_.answer_far) {
    attendants.far =
        std::make_unique<FarService>(*loop_, config.spec.name, mailbox_, config_.answer_far);
    forwards->add_built_in(kFarService, *attendants.far);
  }
  auto channel = std::make_unique<Channel>(*loop_, *resolver_driver_, config, forwards->services());
  attendants.asker = std::make_unique<FarAsker>(*loop_, *channel);
  if (config_.events != nullptr) {
    attendants.recorder =
        std::make_unique<EventRecorder>(*config_.events, *loop_, channel->label());
    channel->add_observer(*attendants.recorder);
  }
  const size_t count = channels_.size() + 1;
  forwards_.reserve(count);
  attendants_.reserve(count);
  channels_.reserve(count);
  forwards_.push_back(std::move(forwards));
  attendants_.push_back(std::move(attendants));
  channels_.push_back(std::move(channel));
}

// The one that was added last.
void Worker::start_channel(ChannelListenSockets listen_sockets) {
  forwards_.back()->start(*channels_.back(), std::move(listen_sockets.forwards));
  channels_.back()->start(std::move(listen_sockets.transport));
}

void Worker::ask_far(std::string channel, std::string line, FarFinish finish) {
  mailbox_.post(
      [this, channel = std::move(channel), line = std::move(line), finish = std::move(finish)] {
        const size_t place = place_of(channel);
        if (place == channels_.size()) return finish(std::nullopt);
        attendants_[place].asker->ask(
            line, [finish](FarAsker::Answer answer) { finish(std::move(answer)); });
      });
}

void Worker::serve() {
  while (wanted_ == Wanted::kServe && turn()) {
    if (!endings_.empty()) advance_endings();
  }
}

bool Worker::turn() {
  beat_in_time();
  const int result = loop_->turn();
  if (result != 0) on_failure(result);
  return result == 0;
}

void Worker::on_failure(int error) {
  log_error("{} failed: {}", driver_name(driver_), std::strerror(-error));
  broken_ = true;
}

void Worker::complete(Op&, Outcome) {
  mailbox_.run();
  if (!ending_)
    loop_->driver().read(wake_op_, {mailbox_.fd(), -1}, &wake_count_, sizeof wake_count_);
}

void Worker::expired(Timer& timer) {
  if (&timer == heartbeat_timer_.get()) beat();
}

// Part of a turn, so that one that does not end keeps it from happening. The service manager counts
// in real time; the timer is for a loop that has nothing else to wake for.
void Worker::beat() {
  // One report waits at most, however long the main thread takes.
  if (!heartbeat_.exchange(true)) reports_->post([client = client_] { client->worker_beat(); });
  beat_at_ = loop_->woke_at() + config_.heartbeat;
  heartbeat_timer_->set(loop_->now() + config_.heartbeat);
}

void Worker::beat_in_time() {
  if (heartbeat_timer_ && heartbeat_timer_->armed() && loop_->woke_at() >= beat_at_) beat();
}

void Worker::log_stats() {
  for (const auto& channel : channels_) {
    StatsLine line;
    channel->visit_stats(line);
    log_answer_facts({.channel = channel->label()}, "stats channel={} {}", channel->label(),
                     line.text());
  }
  if (shipper_) shipper_->log_stats();
  StatsLine line;
  line.visit(kLongestTurn,
             {static_cast<uint64_t>(loop_->take_longest().count()), "longest_turn_us"});
  log_answer("stats worker={} {} driver={}", config_.index, line.text(), driver_name(driver_));
}

bool Worker::turn_until(Duration limit, const std::function<bool()>& done) {
  const auto waited = loop_->turn_until(limit, [&] {
    beat_in_time();
    return done();
  });
  if (waited) return *waited == Loop::Waited::kDone;
  on_failure(waited.error());
  return false;
}

// Lines go on their way as long as streams can be opened, in a time of their own.
void Worker::stop_shipping() {
  if (!shipper_) return;
  shipper_->stop();
  while (!shipper_->stopped() && wanted_ != Wanted::kStop) {
    if (!turn()) return;
  }
  shipper_->stop_at_once();
  while (!shipper_->stopped()) {
    if (!turn()) return;
  }
}

void Worker::drain() {
  if (loop_ == nullptr) return;
  // A channel that is ending already ends with the others.
  endings_.clear();
  ending_timer_->clear();
  give_up_waiting();
  const auto all = [](const auto& objects, auto&& holds) {
    return std::all_of(objects.begin(), objects.end(), holds);
  };
  const auto drained = [](const auto& object) { return object->drained(); };
  const auto idle = [](const auto& object) { return object->idle(); };
  for (const auto& forwards : forwards_) forwards->stop_listening();
  stop_shipping();
  for (const auto& channel : channels_) channel->drain();
  for (const auto& collector : collectors_) collector->drain();
  const bool finished = turn_until(config_.drain_timeout, [&] {
    return wanted_ == Wanted::kStop || (all(channels_, drained) && all(forwards_, drained));
  });
  if (!finished && !broken_) log_info("streams are still open: resetting them");
  for (const auto& channel : channels_) channel->stop();
  for (const auto& forwards : forwards_) forwards->end_lingering();
  turn_until(kLastWords, [&] {
    return all(channels_, [](const auto& channel) { return channel->flushed(); });
  });
  for (const auto& channel : channels_) channel->disconnect();
  for (const auto& collector : collectors_) collector->stop();
  ending_ = true;
  loop_->driver().cancel(wake_op_);
  const bool let_go = turn_until(kLetGo, [&] {
    return !wake_op_.pending && (!shipper_ || shipper_->idle()) && all(channels_, idle) &&
           all(collectors_, idle) && all(forwards_, idle);
  });
  if (let_go || broken_) return;
  log_error("giving up: the kernel has not completed all requests within {} ms",
            std::chrono::duration_cast<std::chrono::milliseconds>(kLetGo).count());
  broken_ = true;
}

}  // namespace virtproxy
