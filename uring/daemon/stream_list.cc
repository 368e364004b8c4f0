#include "uring/daemon/stream_list.h"

#include <algorithm>
#include <iterator>
#include <string_view>
#include <utility>
#include <variant>

#include "uring/net/peer_identity.h"

namespace virtproxy {
namespace {

uint64_t rank(const StreamRow& row, StreamOrder order) {
  switch (order) {
    case StreamOrder::kSent:
      return row.bytes.sent;
    case StreamOrder::kReceived:
      return row.bytes.received;
    case StreamOrder::kWaiting:
      return row.waits_for ? static_cast<uint64_t>(row.waits.count()) + 1 : 0;
    case StreamOrder::kAge:
      break;
  }
  return static_cast<uint64_t>(row.age.count());
}

bool matches(const StreamQuery& query, const StreamView& view) {
  return (!query.key || *query.key == view.stream) && (!query.only_waiting || view.waits_for);
}

StreamRow row_of(const std::string& channel, const StreamView& view, std::string_view service,
                 const std::optional<PeerIdentity>& application) {
  const std::string text = application ? describe(*application) : std::string();
  return {.name = {channel, view.stream},
          .number = view.number,
          .service = std::string(service),
          .role = view.role,
          .client = view.role == StreamRole::kOpener ? text : std::string(),
          .application = text,
          .bytes = view.bytes,
          .age = view.age,
          .waits_for = view.waits_for,
          .waits = view.waits,
          .waited = view.waited};
}

void add_listeners(Channel& channel, Instant now, std::vector<ListenerRow>& rows) {
  channel.counters().visit_listener_waits([&](const ChannelCounters::ListenerWait& wait) {
    const Duration waits = now - wait.since;
    rows.push_back({channel.label(), std::string(wait.service), wait.reason, waits,
                    wait.waited + waits});
  });
}

}  // namespace

void StreamList::make(const Workers& workers, std::shared_ptr<Mailbox> mailbox, StreamQuery query,
                      Finish finish) {
  const std::shared_ptr<StreamList> list(
      new StreamList(workers, std::move(mailbox), std::move(query), std::move(finish)));
  list->ask();
}

StreamList::StreamList(const Workers& workers, std::shared_ptr<Mailbox> mailbox, StreamQuery query,
                       Finish finish)
    : workers_(workers),
      mailbox_(std::move(mailbox)),
      query_(std::move(query)),
      finish_(std::move(finish)) {
  piece_.found.reserve(kSlotsPerPiece);
}

void StreamList::look(Worker::Channels channels, Instant now) {
  size_t slot = slot_;
  for (size_t index = channel_; index < channels.size(); ++index, slot = 0) {
    Channel& channel = *channels[index];
    if (!query_.channel.empty() && query_.channel != channel.label()) continue;
    // Another channel's streams are another piece.
    piece_.next_channel = index;
    piece_.slot = slot;
    if (!piece_.found.empty()) return;
    if (query_.only_waiting && !query_.key && slot == 0) {
      add_listeners(channel, now, piece_.listeners);
    }
    piece_.channel = channel.label();
    piece_.slot = channel.streams().visit(slot, kSlotsPerPiece, [&](const StreamView& view) {
      if (matches(query_, view)) add(view);
    });
    if (piece_.slot) return;
  }
  piece_.slot.reset();
}

void StreamList::add(const StreamView& view) {
  Found& found = piece_.found.emplace_back();
  found.view = view;
  found.service_size = view.service.size();
  piece_.services.append(view.service);
  found.view.service = {};
  if (view.fd >= 0 &&
      (view.role == StreamRole::kOpener || view.waits_for == StallReason::kApplication)) {
    found.application = peer_identity_of(view.fd);
  }
}

void StreamList::ask() {
  // If the worker has ended, the piece stays empty: it has no more streams.
  piece_.found.clear();
  piece_.services.clear();
  piece_.listeners.clear();
  piece_.slot.reset();
  // The answer owns the list, so `this` is valid in the worker. The main thread runs the answer and
  // destroys the list.
  const auto answer = std::make_shared<Answer<std::monostate>>(
      mailbox_, [list = shared_from_this()](auto) { list->take(); });
  workers_[worker_]->ask(
      [this, answer](Worker::Channels channels, Instant now) { look(channels, now); });
}

void StreamList::take() {
  std::string_view services = piece_.services;
  for (const Found& found : piece_.found) {
    found_.rows.push_back(row_of(piece_.channel, found.view, services.substr(0, found.service_size),
                                 found.application));
    services.remove_prefix(found.service_size);
  }
  found_.matching += piece_.found.size();
  std::move(piece_.listeners.begin(), piece_.listeners.end(), std::back_inserter(found_.listeners));
  if (found_.rows.size() > 2 * query_.limit) keep_best();
  if (piece_.slot) {
    channel_ = piece_.next_channel;
    slot_ = *piece_.slot;
  } else {
    ++worker_;
    channel_ = slot_ = 0;
  }
  if (worker_ < workers_.size()) return ask();
  keep_best();
  finish_(std::move(found_));
}

void StreamList::keep_best() {
  const size_t kept = std::min(query_.limit, found_.rows.size());
  const auto middle = found_.rows.begin() + static_cast<std::ptrdiff_t>(kept);
  std::partial_sort(found_.rows.begin(), middle, found_.rows.end(),
                    [this](const StreamRow& a, const StreamRow& b) {
                      return rank(a, query_.order) > rank(b, query_.order);
                    });
  found_.rows.erase(middle, found_.rows.end());
}

}  // namespace virtproxy
