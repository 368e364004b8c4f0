#include "uring/mux/stream_table.h"

#include <algorithm>
#include <utility>

#include "core/assert.h"
#include "uring/net/address.h"

namespace virtproxy {
namespace {

// Streams whose service is being connected. Each holds a descriptor and little else.
constexpr unsigned kMostOpening = 4096;
// Streams that are started in one turn at most. Fewer are where time runs out: the kernel takes a
// hundred times as long for a connect(2) when its ports are nearly used up.
constexpr unsigned kStartsPerTurn = 16;

// Endpoints that are flushed before the clock is read again.
constexpr size_t kMostFlushed = 64;

}  // namespace

// --- StreamHandle -----------------------------------------------------------------------------

void StreamHandle::accepted() {
  table_.end_opening(*this);
  account_.unstall(StallReason::kConnecting);
  channel_.observers.notify(&ChannelObserver::service_connected,
                            {account_.service(), account_.age()});
  session().accepted(key_);
  want_write();
}

void StreamHandle::refuse(Fault fault, const std::string& reason) {
  table_.end_opening(*this);
  channel_.observers.notify(&ChannelObserver::connect_failed, {account_.service(), fault, reason});
  reset(fault);
}

uint64_t StreamHandle::request_credit() {
  const uint64_t credit = session().request_credit(key_);
  if (credit > 0) return credit;
  account_.credit_is_out();
  table_.probe_.credit_is_out();
  return 0;
}

bool StreamHandle::prepare_pipes() { return table_.client_->prepare_pipes(); }

void StreamHandle::over(Fault fault) { table_.over(*this, fault); }

void StreamHandle::settled() { table_.settled(*this); }

void StreamHandle::want_flush() {
  if (flush_wanted_) return;
  flush_wanted_ = true;
  table_.flushing_.push_back(this);
  want_write();
}

bool StreamHandle::buffers_are_short(BufferSize size) const {
  return !table_.waiting_[static_cast<size_t>(size)].empty();
}

void StreamHandle::wait_for_buffer(BufferSize size) {
  account_.stall(StallReason::kMemory);
  awaited_size_ = size;
  table_.waiting_[static_cast<size_t>(size)].push_back(this);
  want_write();
}

void StreamHandle::stop_waiting() {
  if (buffer_link_.linked) table_.waiting_[static_cast<size_t>(awaited_size_)].erase(this);
}

// --- beginning --------------------------------------------------------------------------------

Endpoint& StreamTable::endpoint_of(StreamKey key) {
  StreamHandle* const stream = find(key);
  VP_ASSERT(stream != nullptr);
  return stream->endpoint();
}

Endpoint& StreamTable::endpoint_sending(StreamKey key, uint32_t bytes) {
  StreamHandle* const stream = find(key);
  VP_ASSERT(stream != nullptr);
  stream->account_.left(bytes);
  return stream->endpoint();
}

StreamHandle& StreamTable::add(StreamKey key, std::string_view service, StreamRole role,
                               std::span<const std::byte> client) {
  if (key.slot >= streams_.size()) streams_.resize(key.slot + 1);
  auto& place = streams_[key.slot];
  VP_ASSERT(!place);
  place = std::make_unique<StreamHandle>(*this, channel_, key, service, role, client);
  ++open_;
  return *place;
}

void StreamTable::opened(const Event& event) {
  Service* const service = services_.find(event.service);
  if (service == nullptr) {
    return refuse(event, Fault::kUnknownService);
  }
  if (opening_ + to_start_.size() >= kMostOpening) return refuse(event, Fault::kTooManyStreams);
  StreamHandle& stream = add(event.stream, event.service, StreamRole::kAcceptor, event.bytes);
  auto endpoint = service->open(stream, event.bytes);
  if (!endpoint) {
    streams_[event.stream.slot].reset();
    --open_;
    return refuse(event, endpoint.error());
  }
  channel_.observers.notify(
      &ChannelObserver::stream_opened,
      {event.stream, event.service, StreamRole::kAcceptor, event.bytes, service->address()});
  stream.endpoint_ = *std::move(endpoint);
  stream.account_.stall(StallReason::kConnecting);
  to_start_.push_back(event.stream);
}

void StreamTable::refuse(const Event& event, Fault fault) {
  channel_.observers.notify(&ChannelObserver::stream_refused, {event.service, fault});
  channel_.selector.session().reset(event.stream, fault, channel_.events);
}

void StreamTable::add_client(StreamKey key, const WaitingClient& client,
                             std::span<const std::byte> metadata) {
  const std::string_view service = client.opener->service();
  channel_.observers.notify(&ChannelObserver::stream_opened, {key, service, StreamRole::kOpener,
                                                              metadata, client.opener->address()});
  StreamHandle& stream = add(key, service, StreamRole::kOpener, metadata);
  stream.client_ = client;
  stream.endpoint_ = client.opener->open(client.number, stream);
  stream.endpoint_->start();
}

// A peer may open thousands of streams in one read, and reset them in the next.
void StreamTable::start_opened() {
  if (to_start_.empty()) return;
  TurnBudget budget(channel_.loop, kStartsPerTurn);
  while (!to_start_.empty() && budget.left()) {
    StreamHandle* const stream = find(to_start_.front());
    to_start_.pop_front();
    if (stream == nullptr) continue;
    stream->opening_ = true;
    ++opening_;
    stream->endpoint_->start();
    budget.spend();
  }
  if (!to_start_.empty()) channel_.wakeup.wake();
}

void StreamTable::end_opening(StreamHandle& stream) {
  if (std::exchange(stream.opening_, false)) --opening_;
}

void StreamTable::credit_arrived(StreamHandle& stream) {
  stream.account_.credit_came();
  stream.endpoint_->may_queue();
}

// --- the turn ---------------------------------------------------------------------------------

// Gives free buffers to the endpoints that wait, in the order in which they began to wait.
void StreamTable::hand_out_buffers() {
  ReceivePool& pool = channel_.buffers;
  pool.replenish();
  for (const BufferSize size : {BufferSize::kSmall, BufferSize::kLarge}) {
    Waiting& waiting = waiting_[static_cast<size_t>(size)];
    size_t left = std::min(pool.ready(size), waiting.size());
    while (left > 0 && !waiting.empty()) {
      StreamHandle* const stream = waiting.front();
      waiting.erase(stream);
      --left;
      stream->account_.unstall(StallReason::kMemory);
      stream->endpoint_->buffer_came();
    }
    // An endpoint that had no bytes to receive leaves its buffer free, and nothing else may cause a
    // turn in which the next one gets it.
    if (!waiting.empty() && pool.ready(size) > 0) channel_.wakeup.wake();
  }
}

bool StreamTable::flush(bool may_skip_success) {
  if (flushing_.empty()) return false;
  std::optional<TurnBudget> budget;
  if (flushing_.size() > kMostFlushed) budget.emplace(channel_.loop);
  size_t flushed = 0;
  while (flushed < flushing_.size() && (!budget || budget->left())) {
    StreamHandle* const stream = flushing_[flushed++];
    stream->flush_wanted_ = false;
    stream->endpoint_->flush(may_skip_success && flushing_.size() == 1);
    if (budget) budget->spend();
  }
  flushing_.erase(flushing_.begin(), flushing_.begin() + static_cast<ptrdiff_t>(flushed));
  if (!flushing_.empty()) channel_.wakeup.wake();
  return true;
}

// --- ending -----------------------------------------------------------------------------------

void StreamTable::over(StreamHandle& stream, Fault fault) {
  VP_ASSERT(!stream.has_ended());
  stream.account_.close(fault);
  channel_.wakeup.wake();
  const bool detached = stream.state_ == StreamHandle::State::kDetached;
  stream.state_ = StreamHandle::State::kEnded;
  stream.stop_waiting();
  if (detached) return;  // it leaves departed_ when its turn comes
  auto& place = streams_[stream.key_.slot];
  VP_ASSERT(place.get() == &stream);
  --open_;
  ended_.push_back(std::move(place));
  if (ended_.size() == 1 && unsettled() < kMostUnsettled) let_go_of_ended();
}

// Cancelling the operations of an endpoint and closing its socket takes the kernel as long as a
// message does, and each operation has a completion of its own.
void StreamTable::let_go_of_ended() {
  if (ended_.empty()) return;
  TurnBudget budget(channel_.loop);
  while (!ended_.empty() && unsettled() < kMostUnsettled && budget.left()) {
    let_go(std::move(ended_.front()));
    ended_.pop_front();
    budget.spend();
  }
  if (!ended_.empty() && unsettled() < kMostUnsettled) channel_.wakeup.wake();
}

void StreamTable::let_go(std::unique_ptr<StreamHandle> stream) {
  StreamHandle& gone = *stream;
  gone.endpoint_->let_go();
  end_opening(gone);
  gone.state_ = StreamHandle::State::kLetGo;
  gone.place_ = let_go_.size();
  let_go_.push_back(std::move(stream));
  settled(gone);
}

void StreamTable::settled(StreamHandle& stream) {
  channel_.wakeup.wake();
  if (stream.state_ != StreamHandle::State::kLetGo || !stream.endpoint_->idle()) return;
  stream.state_ = StreamHandle::State::kSettled;
  settled_.push_back(&stream);
}

void StreamTable::reset_all(Fault fault) {
  for (const auto& stream : streams_) {
    if (stream) channel_.selector.session().reset(stream->key_, fault, channel_.events);
  }
  detach_all(fault);
}

// Frees the slots for the next session, which may use them at once. Ending thousands of streams
// takes longer than other channels may wait, so it is done in this and later turns.
void StreamTable::detach_all(Fault fault) {
  for (auto& stream : streams_) {
    if (!stream) continue;
    stream->state_ = StreamHandle::State::kDetached;
    stream->account_.close(fault);
    departed_.push_back({std::move(stream), fault});
  }
  streams_.clear();
  open_ = 0;
  to_start_.clear();
  channel_.wakeup.wake();
}

// A client whose INIT was not answered has sent nothing yet: it may get a stream of version 2.
void StreamTable::abort_departed() {
  if (departed_.empty()) return;
  TurnBudget budget(channel_.loop);
  while (!departed_.empty() && unsettled() < kMostUnsettled && budget.left()) {
    const Departed& departed = departed_.back();
    const Fault fault = departed.fault;
    std::unique_ptr<StreamHandle> stream = std::move(departed_.back().stream);
    departed_.pop_back();
    if (fault == Fault::kUpgraded && stream->client_ && stream->endpoint_->give_back()) {
      client_->client_returned(*stream->client_);
    } else {
      stream->endpoint_->abort(fault);
    }
    VP_ASSERT(stream->has_ended());
    let_go(std::move(stream));
    budget.spend();
  }
  if (!departed_.empty() && unsettled() < kMostUnsettled) channel_.wakeup.wake();
}

void StreamTable::reap() {
  for (unsigned reaped = 0; reaped < kReapedPerTurn && !settled_.empty(); ++reaped) {
    StreamHandle* const stream = settled_.back();
    if (stream->flush_wanted_) break;  // the next turn takes it off that list
    settled_.pop_back();
    auto& place = let_go_[stream->place_];
    std::swap(place->place_, let_go_.back()->place_);
    place.swap(let_go_.back());
    let_go_.pop_back();
  }
  if (!settled_.empty()) channel_.wakeup.wake();
}

std::optional<size_t> StreamTable::visit(
    size_t from, size_t most, const std::function<void(const StreamView&)>& visit) const {
  const size_t end = std::min(streams_.size(), from + most);
  for (size_t slot = from; slot < end; ++slot) {
    if (!streams_[slot]) continue;
    StreamView view = streams_[slot]->account_.view();
    view.fd = streams_[slot]->endpoint_->fd();
    view.number = channel_.selector.session().number(view.stream);
    visit(view);
  }
  return end < streams_.size() ? std::optional(end) : std::nullopt;
}

StreamTable::Stats StreamTable::stats() const {
  Stats stats;
  stats.open = open_;
  stats.closing = departed_.size() + ended_.size() + let_go_.size();
  stats.opening = opening_;
  stats.waiting = waiting_[0].size() + waiting_[1].size();
  return stats;
}

}  // namespace virtproxy
