// The call engine: one end of a port or stream (PROTOCOL.md, sections 3 to 5).
//
// Both ends make requests, one at a time, and serve those of the other end while their own are
// outstanding. On a port, each way at most one request and one answer need room, so the reader
// never has to wait for the writer: that is why two ends that call each other at once cannot
// deadlock in finite buffers.
//
// No call waits, and none reads a clock. What is to be done is left in notices, which the driver
// takes after each call.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "core/agent/limits.h"
#include "core/agent/line_reader.h"
#include "core/agent/message.h"

namespace virtproxy::agent {

// What becomes of a request that comes while another one is being served.
enum class Pace {
  kImmediate,  // the driver answers in the same turn, so it is answered at once
  kQueued,
};

struct ConversationConfig {
  enum class Transport {
    kPort,    // a line that both ends share for ever: one request in flight and one queued each way
    kStream,  // a connection of one client: the next request is read once the last one is answered
  };
  Transport transport = Transport::kPort;
  size_t max_incoming = kMaxMessage;  // bytes of a line that is read
  size_t max_answer = kMaxMessage;    // bytes of an answer that is written
  // Whether the first request waits for a guest-sync-delimited, as it must where a line may hold
  // bytes of an earlier peer.
  bool sync_first = true;
  // Whether requests wait until the peer has called va-hello. libvirt closes an agent that asks it
  // something.
  bool needs_hello = false;
  // Arguments of the va-hello that follows each sync of ours; null for none.
  Json hello;
  // Where the numbers of requests begin. Drawn at random, so that an answer to an earlier process
  // at this end has none of its numbers. Below 2^52.
  uint64_t first_id = 1;
};

struct Notice {
  enum class Kind {
    kRequest,    // of the peer: answer() it with `token`
    kAbandoned,  // the peer has given up that request: its answer will be discarded
    kAnswered,   // our call `token`: `body` is what it returned
    kFailed,     // our call `token`: `error`
    kEvent,      // of the peer
    kGreeted,    // the peer answered our va-hello: `body`, or null if it does not know the method
    kUngreeted,  // it did not answer a sync or the va-hello of greet()
    kBadLine,    // a line that is no message: `error`
  };
  Kind kind = Kind::kBadLine;
  uint64_t token = 0;
  std::string name;
  Json body;
  Json timestamp;  // of kEvent: when it was by the clock of the peer, or null
  Error error;
};

struct ConversationStats {
  uint64_t requests = 0;   // of the peer, syncs included
  uint64_t calls = 0;      // of ours that were sent, without sync and va-hello
  uint64_t abandoned = 0;  // requests that a sync of the peer took back
  uint64_t discarded = 0;  // answers of the peer that match no call
  uint64_t late = 0;       // answers of ours to requests that were taken back
  uint64_t busy = 0;       // requests refused since one was queued already
  uint64_t bad_lines = 0;
  uint64_t resets = 0;  // bytes 0xFF read
  uint64_t timeouts = 0;
  uint64_t events_lost = 0;
};

using Result = tl::expected<Json, Error>;

class Conversation {
 public:
  // `pace_of` gives for each method of this end how it is served. It must outlive the conversation.
  using PaceOf = Pace (*)(std::string_view method);
  Conversation(ConversationConfig config, PaceOf pace_of);

  // Reads up to the end of one line from the front of `bytes` and returns how many were taken. None
  // are taken when a request waits for the driver or, on a stream, for its answer; and on a port
  // whose peer sends requests although two of its own are unanswered. Take the notices after each
  // call, and go on until nothing is taken; offer the rest again after the next answer() or sent().
  size_t receive(std::span<const std::byte> bytes, Instant now);

  // Bytes to be written, and that `bytes` of them were.
  std::string_view pending() const { return std::string_view(out_).substr(out_begin_); }
  void sent(size_t bytes, Instant now);

  // The result of a request. Does nothing if the peer has given it up.
  void answer(uint64_t token, const Result& result, Instant now);

  // Makes a request, now or when the one in flight is answered, and returns its number. Errors:
  // kBusy if one waits already, kTooLarge. Ends as kAnswered or kFailed, with code kTimeout
  // `timeout` from now.
  tl::expected<uint64_t, Error> call(std::string_view method, const Json& arguments,
                                     Duration timeout, Instant now);
  // Sends a sync and, if the configuration has one, a va-hello, whether or not a call waits for it.
  void greet(Instant now);
  // Forgets a call; its answer will be discarded.
  void cancel(uint64_t call, Instant now);

  // Queues an encoded event (encode_event). Of those that wait, the oldest make room: the peer is
  // told how many it has lost.
  void post_event(std::string event, Instant now);

  // The driver has accepted a va-hello of the peer.
  void peer_greeted(Instant now);
  bool greeted() const { return peer_greeted_; }

  // The transport is another one: everything that was under way is gone. Our call in flight fails.
  void restart(Instant now);

  // When tick() is to be called next.
  std::optional<Instant> next_deadline() const;
  void tick(Instant now);

  std::vector<Notice> take_notices() { return std::exchange(notices_, {}); }

  bool serving() const { return serving_ || immediate_ || !waiting_.empty(); }
  bool calling() const { return state_ != State::kIdle || queued_; }
  const ConversationStats& stats() const { return stats_; }
  // Bytes that its buffers take up, events aside. On a port at most kMaxPortMemory, with what its
  // driver reads ahead.
  size_t memory() const;

 private:
  // What may wait to be written, at most one of each kind.
  enum Slot { kAnswer, kSmall, kRequest, kEvent, kSlots };
  enum class State { kIdle, kSyncing, kGreeting, kCalling };

  struct Served {
    uint64_t token;
    std::optional<std::string> id;
  };
  struct Sync {
    bool delimited;
    Json value;
    std::optional<std::string> id;
  };
  struct Queued {
    uint64_t id;
    Instant deadline;
  };

  bool is_port() const { return config_.transport == ConversationConfig::Transport::kPort; }
  bool free(Slot slot) const { return slot_end_[slot] <= written_; }
  void append(Slot slot, std::string_view text);
  bool may_read() const;
  void on_line(std::string_view line);
  void on_bad(const Error& error, const std::optional<std::string>& id);
  void on_request(Message message, std::string_view line);
  // The owner is told that nothing waits for the answers of the requests that are served now.
  void abandon_served();
  void on_sync(const Message& message);
  void on_answer(Message message, Instant now);
  void dispatch(Message message, std::optional<Served>& place);
  void fail_call(uint64_t call, Error error);
  uint64_t next_id();
  void pump(Instant now);
  void pump_calls(Instant now);
  void pump_events();

  const ConversationConfig config_;
  const PaceOf pace_of_;
  LineReader reader_;
  std::vector<Notice> notices_;
  ConversationStats stats_;

  std::string out_;
  size_t out_begin_ = 0;
  uint64_t written_ = 0;   // bytes handed to the transport so far
  uint64_t appended_ = 0;  // bytes put into out_ so far
  std::array<uint64_t, kSlots> slot_end_{};

  uint64_t next_token_ = 1;
  std::optional<Served> serving_;
  std::optional<Served> immediate_;
  std::string waiting_;  // the line of a request that waits for its turn
  std::optional<Sync> sync_to_answer_;
  bool peer_greeted_ = false;

  State state_ = State::kIdle;
  uint64_t next_id_;
  uint64_t in_flight_ = 0;
  Instant deadline_{};
  std::optional<Queued> queued_;
  std::string queued_text_;
  bool sync_due_;
  bool hello_due_;
  bool greet_due_ = false;

  std::deque<std::string> events_;
  uint64_t events_lost_ = 0;
};

}  // namespace virtproxy::agent
