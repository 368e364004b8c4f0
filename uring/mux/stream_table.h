// The streams of one channel, each with its endpoint, from the opening until no operation of the
// endpoint is pending any more.
//
//   by slot ── over() ───────────────▶ ended ── let_go() ──▶ let go ── idle() ──▶ reaped
//      └── its session is over ──▶ departed ── abort(), let_go() ──▲
//
// Owns the handles, and through them the endpoints. The table by slot has exactly the streams that
// the session knows, so a key of a stream that is over finds nothing.
//
// A peer or a client can open, end and abandon thousands of streams at once. So each step that
// costs a system call is made for some streams each turn (TurnBudget). While keeps_up() is false
// the channel must not be read, because more would pile up.
#pragma once

#include <array>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "uring/mux/endpoint.h"
#include "uring/mux/peer_probe.h"
#include "uring/mux/service_registry.h"

namespace virtproxy {

class StreamTable final {
 public:
  class Client {
   public:
    // Prepares for payload in pipes; false where the channel takes none.
    virtual bool prepare_pipes() = 0;
    // A client whose stream came to nothing may have another one.
    virtual void client_returned(const WaitingClient& client) = 0;

   protected:
    ~Client() = default;
  };

  StreamTable(ChannelContext& channel, const ServiceRegistry& services, Client* client)
      : channel_(channel),
        services_(services),
        client_(client),
        probe_(channel.loop, channel.selector, channel.wakeup, channel.counters) {}
  StreamTable(const StreamTable&) = delete;
  StreamTable& operator=(const StreamTable&) = delete;

  // Null when the stream is over.
  StreamHandle* find(StreamKey key) {
    if (key.slot >= streams_.size()) return nullptr;
    StreamHandle* const stream = streams_[key.slot].get();
    return stream != nullptr && stream->key_ == key ? stream : nullptr;
  }
  // The endpoint of a stream that is not over.
  Endpoint& endpoint_of(StreamKey key);
  // The same, of one of which so many bytes go to the channel.
  Endpoint& endpoint_sending(StreamKey key, uint32_t bytes);
  size_t open_streams() const { return open_; }

  // --- beginning ------------------------------------------------------------------------------
  // The peer asks for a stream: its service makes the endpoint, or the stream is reset.
  void opened(const Event& event);
  // A client has a stream of the session, whose peer was told `metadata` of it.
  void add_client(StreamKey key, const WaitingClient& client, std::span<const std::byte> metadata);
  // The stream has credit again.
  void credit_arrived(StreamHandle& stream);

  // --- once a turn, in this order ---------------------------------------------------------------
  void let_go_of_ended();
  void abort_departed();
  void start_opened();
  void hand_out_buffers();
  // Calls flush() of the endpoints that asked for it. `may_skip_success` is passed on if there is
  // only one. False if there was none.
  bool flush(bool may_skip_success);
  void reap();

  // --- ending -----------------------------------------------------------------------------------
  // The session is over by `fault`, and its keys are not valid any more.
  void detach_all(Fault fault);
  // Resets every stream of a session that goes on.
  void reset_all(Fault fault);
  // True if no more streams that are over wait than a turn ends.
  bool keeps_up() const {
    return departed_.empty() && ended_.size() <= kMostEnded && settled_.size() <= kReapedPerTurn;
  }
  // Nothing of any stream is left.
  bool empty() const {
    return open_ == 0 && departed_.empty() && ended_.empty() && let_go_.empty();
  }

  bool nothing_waits() const { return waiting_[0].empty() && waiting_[1].empty(); }

  struct Stats {
    size_t open = 0;
    size_t closing = 0;
    unsigned opening = 0;  // start() was called for the peer, and has not ended
    size_t waiting = 0;    // endpoints without a receive buffer
  };
  Stats stats() const;

  // Calls `visit` for the streams in `most` slots from slot `from` on. Returns the slot to go on
  // from, nothing behind the last one: a list of thousands is made in pieces, between which others
  // have their turn. What opens or ends meanwhile is in it or not.
  std::optional<size_t> visit(size_t from, size_t most,
                              const std::function<void(const StreamView&)>& visit) const;

 private:
  friend class StreamHandle;

  // Endpoints after let_go() with pending operations, and ended ones that wait for let_go(). The
  // kernel completes 20 operations at a time (IO_LOCAL_TW_DEFAULT_MAX), in the order in which they
  // became ready, and those of other channels wait behind them. So few may be cancelled at a time.
  static constexpr size_t kMostUnsettled = 8;
  static constexpr size_t kMostEnded = 64;
  static constexpr unsigned kReapedPerTurn = 128;

  StreamHandle& add(StreamKey key, std::string_view service, StreamRole role,
                    std::span<const std::byte> client);
  void refuse(const Event& event, Fault fault);
  void end_opening(StreamHandle& stream);
  void over(StreamHandle& stream, Fault fault);
  void settled(StreamHandle& stream);
  void let_go(std::unique_ptr<StreamHandle> stream);
  size_t unsettled() const { return let_go_.size() - settled_.size(); }

  ChannelContext& channel_;
  const ServiceRegistry& services_;
  Client* client_;
  PeerProbe probe_;

  std::vector<std::unique_ptr<StreamHandle>> streams_;  // by the slot of the key
  size_t open_ = 0;
  std::deque<StreamKey> to_start_;  // opened by the peer
  unsigned opening_ = 0;            // started, and not accepted or refused yet
  std::vector<StreamHandle*> flushing_;
  // Those that wait for a receive buffer, by its size, in the order in which they began to wait.
  using Waiting = List<StreamHandle, &StreamHandle::buffer_link_>;
  std::array<Waiting, 2> waiting_;

  // Streams of sessions that are over, each with the reason.
  struct Departed {
    std::unique_ptr<StreamHandle> stream;
    Fault fault;
  };
  std::vector<Departed> departed_;
  std::deque<std::unique_ptr<StreamHandle>> ended_;
  std::vector<std::unique_ptr<StreamHandle>> let_go_;
  std::vector<StreamHandle*> settled_;  // of those, can be destroyed
};

}  // namespace virtproxy
