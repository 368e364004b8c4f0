#include "uring/daemon/stream_list.h"

#include <algorithm>
#include <utility>

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

StreamRow row_of(const std::string& channel, const StreamView& view) {
  const bool is_client = view.role == StreamRole::kOpener;
  std::string application;
  if (view.fd >= 0 && (is_client || view.waits_for == StallReason::kApplication)) {
    application = describe(peer_identity_of(view.fd));
  }
  return {.name = {channel, view.stream},
          .number = view.number,
          .service = std::string(view.service),
          .role = view.role,
          .client = is_client ? application : std::string(),
          .application = application,
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

// In the worker's thread.
StreamList::Piece StreamList::look(const StreamQuery& query, Worker::Channels channels,
                                   size_t channel, size_t slot, Instant now) {
  Piece piece{{}, {}, channel, slot};
  while (piece.channel < channels.size()) {
    Channel& looked_at = *channels[piece.channel];
    if (query.channel.empty() || query.channel == looked_at.label()) {
      if (query.only_waiting && !query.key && *piece.slot == 0) {
        add_listeners(looked_at, now, piece.listeners);
      }
      const auto next =
          looked_at.streams().visit(*piece.slot, kSlotsPerPiece, [&](const StreamView& view) {
            if (matches(query, view)) piece.rows.push_back(row_of(looked_at.label(), view));
          });
      if (next) {
        piece.slot = next;
        return piece;
      }
    }
    ++piece.channel;
    piece.slot = 0;
    // Another channel's streams are another piece.
    if (!piece.rows.empty() && piece.channel < channels.size()) return piece;
  }
  piece.slot.reset();
  return piece;
}

void StreamList::ask() {
  const auto list = shared_from_this();
  // A worker that has ended has no more.
  const auto answer = std::make_shared<Answer<Piece>>(mailbox_, [list](std::optional<Piece> piece) {
    list->take(std::move(piece).value_or(Piece()));
  });
  workers_[worker_]->ask([list, answer](Worker::Channels channels, Instant now) {
    answer->give(look(list->query_, channels, list->channel_, list->slot_, now));
  });
}

void StreamList::take(Piece piece) {
  found_.matching += piece.rows.size();
  std::move(piece.rows.begin(), piece.rows.end(), std::back_inserter(found_.rows));
  std::move(piece.listeners.begin(), piece.listeners.end(),
            std::back_inserter(found_.listeners));
  if (found_.rows.size() > 2 * query_.limit) keep_best();
  if (piece.slot) {
    channel_ = piece.channel;
    slot_ = *piece.slot;
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
