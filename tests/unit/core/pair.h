// Two sessions back to back on a virtual clock. Each End drives one session as a daemon would: it
// keeps the payload, whose every byte is a function of stream, direction and offset, and checks
// what arrives against that. The bytes between the ends can be cut into pieces of any size.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "core/v2/session.h"
#include "core/wire/little_endian.h"

namespace virtproxy::test {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;
using Bytes = std::vector<std::byte>;
using Random = std::mt19937_64;

inline uint64_t below(Random& random, uint64_t limit) { return random() % limit; }

inline std::byte content(uint64_t id, bool by_opener, uint64_t offset) {
  uint64_t x = (id * 2 + by_opener + 1) * 0x9e3779b97f4a7c15 + offset * 0xff51afd7ed558ccd;
  x ^= x >> 29;
  return static_cast<std::byte>(x * 0xc4ceb9fe1a85ec53 >> 56);
}

inline Bytes hello_bytes(const Hello& hello) {
  Bytes bytes(kHelloSize);
  encode_hello(hello, bytes.data());
  return bytes;
}

enum class Fate { kOpen, kClosed, kResetHere, kResetByPeer, kLost };

struct Conversation {
  StreamKey key;
  uint64_t id = 0;
  bool opener = false;
  Fate fate = Fate::kOpen;
  Fault fault = Fault::kNone;
  uint64_t queued = 0;
  uint64_t written = 0;
  uint64_t received = 0;
  uint64_t consumed = 0;
  bool end_sent = false;
  bool end_seen = false;
  bool delivered = false;
  bool has_credit_again = false;
  bool broke_off = false;       // the application here, after what is queued
  bool peer_broke_off = false;  // the one over there, after what is received
};

class End {
 public:
  explicit End(const SessionConfig& config, uint64_t first_id)
      : session(config), next_id_(first_id) {}

  std::optional<uint64_t> open(Priority priority = Priority::kNormal) {
    Bytes metadata(8);
    store_le<uint64_t>(metadata.data(), next_id_);
    const auto key = session.open("service", priority, metadata);
    if (!key) return std::nullopt;
    add({.key = *key, .id = next_id_, .opener = true});
    return next_id_++;
  }

  Conversation& at(uint64_t id) { return conversations.at(id); }
  bool open_here(uint64_t id) const {
    const auto found = conversations.find(id);
    return found != conversations.end() && found->second.fate == Fate::kOpen;
  }

  // Queues as much of `bytes` as there is credit for.
  uint64_t queue(uint64_t id, uint64_t bytes) {
    Conversation& c = at(id);
    if (c.fate != Fate::kOpen || c.end_sent) return 0;
    bytes = std::min(bytes, session.request_credit(c.key));
    if (bytes > 0) session.queue(c.key, bytes);
    c.queued += bytes;
    return bytes;
  }
  void end(uint64_t id) {
    Conversation& c = at(id);
    if (c.fate != Fate::kOpen || c.end_sent || c.broke_off) return;
    c.end_sent = true;
    session.end(c.key);
  }
  void reset(uint64_t id, Fault fault = Fault::kAborted) {
    Conversation& c = at(id);
    if (c.fate != Fate::kOpen) return;
    settle_fate(c, Fate::kResetHere, fault);
    session.reset(c.key, fault, events_);
    act();
  }
  // The application here is gone, and leaves what it had queued.
  void break_off(uint64_t id) {
    Conversation& c = at(id);
    if (c.fate != Fate::kOpen || c.broke_off) return;
    c.broke_off = true;
    if (!session.reset_after_data(c.key, events_)) {
      settle_fate(c, Fate::kResetHere, Fault::kAborted);
    }
    act();
  }
  void take(uint64_t id, uint64_t bytes) {
    Conversation& c = at(id);
    if (c.fate != Fate::kOpen) return;
    bytes = std::min(bytes, c.received - c.consumed);
    c.consumed += bytes;
    if (bytes > 0) {
      const bool credit_unaffected_by = session.credit_unaffected_by(c.key, bytes);
      const bool had_to_write = session.wants_to_write({});
      session.consumed(c.key, bytes);
      EXPECT_TRUE(!credit_unaffected_by || session.wants_to_write({}) == had_to_write)
          << "it was to rest";
    }
    deliver_if_done(c);
    act();
  }

  bool write(uint64_t bytes, Instant now) {
    if (!session.wants_to_write(now)) return false;
    const Batch& batch = session.plan(bytes, now, events_);
    EXPECT_FALSE(batch.empty()) << "wants_to_write() promised something";
    const size_t before = out.size();
    for (const PlannedFrame& piece : batch.frames) append(batch, piece);
    EXPECT_EQ(out.size() - before, batch.size);
    act();
    return true;
  }

  void read(std::span<const std::byte> bytes, Instant now) {
    inbox.insert(inbox.end(), bytes.begin(), bytes.end());
    const size_t used = feed(session, inbox, now, events_, [this] {
      act();
      return true;
    });
    ASSERT_LE(used, inbox.size());
    inbox.erase(inbox.begin(), inbox.begin() + static_cast<ptrdiff_t>(used));
    most_kept = std::max(most_kept, inbox.size());
  }

  void tick(Instant now) {
    session.tick(now, events_);
    act();
  }

  void transport_up(Instant now) { session.transport_up(now); }
  void transport_down() {
    session.transport_down(events_);
    inbox.clear();
    act();
  }

  size_t count(Fate fate) const {
    size_t n = 0;
    for (const auto& [id, c] : conversations) n += c.fate == fate;
    return n;
  }

  V2Session session;
  Bytes out;    // written, on its way
  Bytes inbox;  // read, not used yet
  std::map<uint64_t, Conversation> conversations;
  bool takes_at_once = true;          // an eager local socket
  std::optional<Fault> refuses_with;  // what the services here do
  bool resets_on_data = false;
  std::vector<Fault> downs;
  size_t ups = 0;
  size_t no_versions = 0;
  bool peer_going_away = false;
  size_t most_kept = 0;

 private:
  using Name = std::pair<uint32_t, uint32_t>;
  static Name name(StreamKey key) { return {key.slot, key.generation}; }

  void add(Conversation c) {
    ids_[name(c.key)] = c.id;
    conversations[c.id] = c;
  }
  void settle_fate(Conversation& c, Fate fate, Fault fault) {
    c.fate = fate;
    c.fault = fault;
    ids_.erase(name(c.key));
    forgotten_.insert(name(c.key));
  }
  void deliver_if_done(Conversation& c) {
    if (c.fate != Fate::kOpen || c.broke_off || c.consumed < c.received) return;
    if (c.end_seen && !c.delivered) {
      c.delivered = true;
      session.delivered(c.key, events_);
    }
    if (c.peer_broke_off) {
      settle_fate(c, Fate::kResetByPeer, Fault::kAborted);
      session.reset(c.key, Fault::kAborted, events_);
    }
  }

  void append(const Batch& batch, const PlannedFrame& piece) {
    const auto head = batch.head(piece);
    out.insert(out.end(), head.begin(), head.end());
    if (piece.payload == 0) return;
    Conversation& c = at(ids_.at(name(piece.stream)));
    for (uint32_t i = 0; i < piece.payload; ++i) {
      out.push_back(content(c.id, c.opener, c.written++));
    }
    ASSERT_LE(c.written, c.queued);
    if (!piece.has_trailer) return;
    const size_t frame = kHeaderSize + piece.payload;
    const uint64_t trailer = session.trailer_for(std::span(out).last(frame));
    out.resize(out.size() + kTrailerSize);
    store_le(out.data() + out.size() - kTrailerSize, trailer);
  }

  // Acting may cause further events, which are appended.
  void act() {
    if (acting_) return;
    acting_ = true;
    for (size_t i = 0; i < events_.size(); ++i) act_on(Event(events_[i]));
    acting_ = false;
    events_.clear();
  }

  void act_on(const Event& event) {
    switch (event.kind) {
      case Event::Kind::kUp:
        ++ups;
        return;
      case Event::Kind::kDown:
        downs.push_back(event.fault);
        for (auto& [id, c] : conversations) {
          if (c.fate == Fate::kOpen) settle_fate(c, Fate::kLost, event.fault);
        }
        return;
      case Event::Kind::kNoVersion:
        ++no_versions;
        return;
      case Event::Kind::kGoingAway:
        peer_going_away = true;
        return;
      case Event::Kind::kOpened: {
        ASSERT_EQ(event.service, "service");
        ASSERT_EQ(event.bytes.size(), 8u);
        const auto id = load_le<uint64_t>(event.bytes.data());
        ASSERT_FALSE(conversations.contains(id)) << "opened twice";
        add({.key = event.stream, .id = id});
        if (refuses_with) reset(id, *refuses_with);
        return;
      }
      default:
        break;
    }
    const auto found = ids_.find(name(event.stream));
    if (found == ids_.end()) {
      // What came in one piece with our own reset of the stream.
      ASSERT_TRUE(forgotten_.contains(name(event.stream))) << "an event of an unknown stream";
      return;
    }
    act_on_stream(event, at(found->second));
  }

  void act_on_stream(const Event& event, Conversation& c) {
    switch (event.kind) {
      case Event::Kind::kData:
        ASSERT_FALSE(event.bytes.empty());
        ASSERT_FALSE(c.end_seen || c.broke_off || c.peer_broke_off);
        for (const std::byte b : event.bytes) {
          ASSERT_EQ(b, content(c.id, !c.opener, c.received)) << c.id << " at " << c.received;
          ++c.received;
        }
        if (resets_on_data) return reset(c.id);
        if (takes_at_once) take(c.id, event.bytes.size());
        return;
      case Event::Kind::kEnd:
        ASSERT_FALSE(c.end_seen);
        c.end_seen = true;
        deliver_if_done(c);
        return;
      case Event::Kind::kReset:
        return settle_fate(c, c.broke_off ? Fate::kResetHere : Fate::kResetByPeer, event.fault);
      case Event::Kind::kAborted:
        ASSERT_FALSE(c.broke_off || c.peer_broke_off);
        c.peer_broke_off = true;
        deliver_if_done(c);
        return;
      case Event::Kind::kClosed:
        ASSERT_TRUE(c.end_seen && c.end_sent && c.delivered);
        ASSERT_EQ(c.written, c.queued);
        return settle_fate(c, Fate::kClosed, Fault::kNone);
      case Event::Kind::kCredit:
        c.has_credit_again = true;
        return;
      default:
        FAIL() << "unexpected event";
    }
  }

  uint64_t next_id_;
  Events events_;
  bool acting_ = false;
  std::map<Name, uint64_t> ids_;
  std::set<Name> forgotten_;
};

inline SessionConfig config_with(uint64_t secret, uint64_t features = 0) {
  SessionConfig config;
  config.epoch_key = {secret, 0};
  config.number_seed = secret;
  config.wanted_features = features;
  return config;
}

class Pair {
 public:
  explicit Pair(SessionConfig a_config = config_with(1), SessionConfig b_config = config_with(2))
      : a(a_config, 1), b(b_config, 1'000'000'000) {}

  void transport_up() {
    a.transport_up(now);
    b.transport_up(now);
  }
  void connect() {
    transport_up();
    settle();
    ASSERT_TRUE(a.session.up() && b.session.up());
  }

  // Moves the first `bytes` bytes that `from` has written.
  void carry(End& from, End& to, size_t bytes) {
    bytes = std::min(bytes, from.out.size());
    const Bytes moved(from.out.begin(), from.out.begin() + static_cast<ptrdiff_t>(bytes));
    from.out.erase(from.out.begin(), from.out.begin() + static_cast<ptrdiff_t>(bytes));
    size_t at = 0;
    while (at < bytes && !testing::Test::HasFatalFailure()) {
      const size_t piece =
          cuts ? std::min<size_t>(bytes - at, 1 + below(*cuts, most_piece)) : bytes;
      to.read(std::span(moved).subspan(at, piece), now);
      at += piece;
    }
  }

  // Lets both ends talk until neither has anything to say at this instant.
  void settle() {
    for (int turns = 0; turns < 100'000; ++turns) {
      const bool wrote_a = a.write(batch, now);
      const bool wrote_b = b.write(batch, now);
      if (!wrote_a && !wrote_b && a.out.empty() && b.out.empty()) return;
      carry(a, b, a.out.size());
      carry(b, a, b.out.size());
      if (testing::Test::HasFatalFailure()) return;
    }
    FAIL() << "the ends never stop talking";
  }

  // Lets the virtual clock jump from deadline to deadline.
  void run_for(Duration time) {
    const Instant until = now + time;
    settle();
    while (!testing::Test::HasFatalFailure()) {
      std::optional<Instant> next = a.session.deadline();
      if (const auto other = b.session.deadline(); other && (!next || *other < *next)) next = other;
      if (!next || *next > until) break;
      now = std::max(now + std::chrono::nanoseconds(1), *next);
      a.tick(now);
      b.tick(now);
      settle();
    }
    now = std::max(now, until);
  }

  void drop_link() {
    a.transport_down();
    b.transport_down();
  }

  void expect_nothing_left() {
    for (End* end : {&a, &b}) {
      const Session::Stats stats = end->session.stats();
      EXPECT_EQ(stats.streams, 0u);
      EXPECT_EQ(stats.borrowed, 0u);
      EXPECT_EQ(stats.held, 0u);
      EXPECT_EQ(stats.queued, 0u);
      EXPECT_EQ(end->count(Fate::kOpen), 0u);
    }
  }

  End a;
  End b;
  Instant now = seconds(1);
  uint64_t batch = 256 * 1024;
  std::optional<Random> cuts;  // when set, reads are cut into random pieces …
  size_t most_piece = 3000;    // … of at most this many bytes
};

}  // namespace virtproxy::test
