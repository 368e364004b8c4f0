// Two ends that choose their protocol, back to back on a virtual clock. Version 1 carries no
// metadata, so the service's name says which conversation a stream is.
#pragma once

#include <memory>

#include "core/protocol_selector.h"
#include "tests/unit/core/pair.h"

namespace virtproxy::test {

struct Talk {
  StreamKey key;
  uint64_t id = 0;
  bool opener = false;
  Fate fate = Fate::kOpen;
  Fault fault = Fault::kNone;
  uint64_t queued = 0;
  uint64_t written = 0;
  uint64_t received = 0;
  uint64_t consumed = 0;
  bool ended = false;  // our application sends no more
  bool end_seen = false;
  bool delivered = false;
};

class ChoosingEnd {
 public:
  ChoosingEnd(const SessionConfig& config, ProtocolMode mode)
      : selector(std::make_unique<ProtocolSelector>(config, mode)) {}

  std::optional<uint64_t> open(uint64_t id, Priority priority = Priority::kNormal) {
    const auto key = selector->session().open("s" + std::to_string(id), priority, {});
    if (!key) return std::nullopt;
    add({.key = *key, .id = id, .opener = true});
    return id;
  }
  Talk& at(uint64_t id) { return talks.at(id); }
  bool is_open(uint64_t id) const {
    const auto found = talks.find(id);
    return found != talks.end() && found->second.fate == Fate::kOpen;
  }
  uint64_t credit(uint64_t id) { return selector->session().request_credit(at(id).key); }
  uint64_t queue(uint64_t id, uint64_t bytes) {
    Talk& t = at(id);
    if (t.fate != Fate::kOpen || t.ended) return 0;
    bytes = std::min(bytes, credit(id));
    if (bytes > 0) selector->session().queue(t.key, bytes);
    t.queued += bytes;
    return bytes;
  }
  void end(uint64_t id) {
    Talk& t = at(id);
    if (t.fate != Fate::kOpen || t.ended) return;
    t.ended = true;
    selector->session().end(t.key);
  }
  void reset(uint64_t id, Fault fault = Fault::kAborted) {
    Talk& t = at(id);
    if (t.fate != Fate::kOpen) return;
    settle_fate(t, Fate::kResetHere, fault);
    selector->session().reset(t.key, fault, events_);
    act();
  }
  // The application here is gone, and leaves what it had queued.
  void break_off(uint64_t id) {
    if (!selector->session().reset_after_data(at(id).key, events_)) {
      settle_fate(at(id), Fate::kResetHere, Fault::kAborted);
    }
    act();
  }
  void accept(uint64_t id) { selector->session().accepted(at(id).key); }
  void take(uint64_t id, uint64_t bytes) {
    Talk& t = at(id);
    if (t.fate != Fate::kOpen) return;
    bytes = std::min(bytes, t.received - t.consumed);
    t.consumed += bytes;
    if (bytes > 0) selector->session().consumed(t.key, bytes);
    deliver_if_done(t);
    act();
  }

  bool write(uint64_t bytes, Instant now) {
    if (!selector->wants_to_write(now)) return false;
    const Batch& batch = selector->plan(bytes, now, events_);
    const size_t before = out.size();
    for (const PlannedFrame& piece : batch.frames) append(batch, piece);
    EXPECT_EQ(out.size() - before, batch.size);
    act();
    return true;
  }
  void read(std::span<const std::byte> bytes, Instant now) {
    inbox.insert(inbox.end(), bytes.begin(), bytes.end());
    use_inbox(now);
  }
  void tick(Instant now) {
    const bool again = selector->tick(now, events_);
    act();
    if (again) use_inbox(now);
  }
  void transport_up(Instant now, uint64_t features = 0, Duration grace = milliseconds(250)) {
    selector->transport_up(now, grace, features, events_);
    act();
  }
  void transport_down() {
    selector->transport_down(events_);
    inbox.clear();
    act();
  }

  unsigned protocol() { return selector->up() ? selector->protocol() : 0; }
  size_t count(Fate fate) const {
    size_t n = 0;
    for (const auto& [id, t] : talks) n += t.fate == fate;
    return n;
  }
  bool saw(Glitch glitch) const {
    return std::find(glitches.begin(), glitches.end(), glitch) != glitches.end();
  }

  std::unique_ptr<ProtocolSelector> selector;
  Bytes out;    // written, on its way
  Bytes inbox;  // read, not used yet
  std::map<uint64_t, Talk> talks;
  bool takes_at_once = true;
  bool accepts_at_once = true;
  std::optional<Fault> refuses_with;
  std::vector<Glitch> glitches;
  std::vector<int64_t> counts;
  std::vector<unsigned> ups;  // the protocols
  std::vector<Fault> downs;
  size_t credits = 0;  // kCredit events
  size_t most_kept = 0;

 private:
  using Name = std::pair<uint32_t, uint32_t>;
  static Name name(StreamKey key) { return {key.slot, key.generation}; }

  void use_inbox(Instant now) {
    const size_t used = feed(*selector, inbox, now, events_, [this] {
      act();
      return true;
    });
    ASSERT_LE(used, inbox.size());
    inbox.erase(inbox.begin(), inbox.begin() + static_cast<ptrdiff_t>(used));
    most_kept = std::max(most_kept, inbox.size());
  }
  void add(const Talk& t) {
    ASSERT_FALSE(ids_.contains(name(t.key))) << "a key given out twice";
    ids_[name(t.key)] = t.id;
    talks[t.id] = t;
  }
  void settle_fate(Talk& t, Fate fate, Fault fault) {
    t.fate = fate;
    t.fault = fault;
    ids_.erase(name(t.key));
  }
  void deliver_if_done(Talk& t) {
    if (t.fate != Fate::kOpen || !t.end_seen || t.delivered || t.consumed < t.received) return;
    t.delivered = true;
    selector->session().delivered(t.key, events_);
  }
  void append(const Batch& batch, const PlannedFrame& piece) {
    const auto head = batch.head(piece);
    out.insert(out.end(), head.begin(), head.end());
    if (piece.payload == 0) return;
    Talk& t = at(ids_.at(name(piece.stream)));
    for (uint32_t i = 0; i < piece.payload; ++i) {
      out.push_back(content(t.id, t.opener, t.written++));
    }
    ASSERT_LE(t.written, t.queued);
    if (!piece.has_trailer) return;
    const size_t frame = kHeaderSize + piece.payload;
    const uint64_t trailer = selector->session().trailer_for(std::span(out).last(frame));
    out.resize(out.size() + kTrailerSize);
    store_le(out.data() + out.size() - kTrailerSize, trailer);
  }
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
        ups.push_back(selector->protocol());
        return;
      case Event::Kind::kDown:
        downs.push_back(event.fault);
        for (auto& [id, t] : talks) {
          if (t.fate == Fate::kOpen) settle_fate(t, Fate::kLost, event.fault);
        }
        return;
      case Event::Kind::kGlitch:
        glitches.push_back(event.glitch);
        counts.push_back(event.count);
        return;
      case Event::Kind::kOpened: {
        const uint64_t id = std::stoull(std::string(event.service.substr(1)));
        if (const auto known = talks.find(id); known != talks.end()) talks.erase(known);
        add({.key = event.stream, .id = id});
        if (refuses_with) return reset(id, *refuses_with);
        if (accepts_at_once) accept(id);
        return;
      }
      case Event::Kind::kNoVersion:
      case Event::Kind::kGoingAway:
        return;
      default:
        break;
    }
    const auto found = ids_.find(name(event.stream));
    if (found != ids_.end()) act_on_stream(event, at(found->second));
  }
  void act_on_stream(const Event& event, Talk& t) {
    switch (event.kind) {
      case Event::Kind::kData:
        ASSERT_FALSE(event.bytes.empty());
        ASSERT_FALSE(t.end_seen);
        for (const std::byte b : event.bytes) {
          if (checks_content) {
            ASSERT_EQ(b, content(t.id, !t.opener, t.received)) << t.id << " at " << t.received;
          }
          ++t.received;
        }
        if (takes_at_once) take(t.id, event.bytes.size());
        return;
      case Event::Kind::kEnd:
        ASSERT_FALSE(t.end_seen);
        t.end_seen = true;
        return deliver_if_done(t);
      case Event::Kind::kReset:
        return settle_fate(t, Fate::kResetByPeer, event.fault);
      case Event::Kind::kClosed:
        ASSERT_TRUE(t.delivered);
        return settle_fate(t, Fate::kClosed, Fault::kNone);
      case Event::Kind::kCredit:
        ++credits;
        return;
      default:
        FAIL() << "unexpected event";
    }
  }

 public:
  bool checks_content = true;

 private:
  Events events_;
  bool acting_ = false;
  std::map<Name, uint64_t> ids_;
};

class ChoosingPair {
 public:
  explicit ChoosingPair(ProtocolMode a_mode = ProtocolMode::kV1,
                        ProtocolMode b_mode = ProtocolMode::kV1,
                        const SessionConfig& a_config = config_with(1),
                        const SessionConfig& b_config = config_with(2))
      : a(a_config, a_mode), b(b_config, b_mode) {}

  void connect(uint64_t features = 0) {
    a.transport_up(now, features);
    b.transport_up(now, features);
    settle();
  }
  // Moves what `from` wrote; an end that does not want input leaves it in the pipe.
  bool carry(ChoosingEnd& from, ChoosingEnd& to, size_t most = SIZE_MAX) {
    bool moved = false;
    while (!from.out.empty() && most > 0 && to.selector->wants_input(now)) {
      size_t size = std::min(most, from.out.size());
      if (cuts) size = std::min<size_t>(size, 1 + below(*cuts, 3000));
      size = std::min(size, most_read);
      const Bytes bytes(from.out.begin(), from.out.begin() + static_cast<ptrdiff_t>(size));
      from.out.erase(from.out.begin(), from.out.begin() + static_cast<ptrdiff_t>(size));
      most -= size;
      to.read(bytes, now);
      moved = true;
      if (testing::Test::HasFatalFailure()) return false;
    }
    return moved;
  }
  void settle() {
    for (int turns = 0; turns < 100'000; ++turns) {
      bool busy = a.write(batch, now);
      busy = b.write(batch, now) || busy;
      busy = carry(a, b) || busy;
      busy = carry(b, a) || busy;
      if (!busy || testing::Test::HasFatalFailure()) return;
    }
    FAIL() << "the ends never stop talking";
  }
  void run_for(Duration time) {
    const Instant until = now + time;
    settle();
    while (!testing::Test::HasFatalFailure()) {
      std::optional<Instant> next = a.selector->deadline();
      if (const auto other = b.selector->deadline(); other && (!next || *other < *next))
        next = other;
      if (!next || *next > until) break;
      now = std::max(now + std::chrono::nanoseconds(1), *next);
      a.tick(now);
      b.tick(now);
      settle();
    }
    now = std::max(now, until);
    settle();
  }
  void drop_link() {
    a.transport_down();
    b.transport_down();
  }

  ChoosingEnd a;
  ChoosingEnd b;
  Instant now = seconds(1);
  uint64_t batch = 256 * 1024;
  size_t most_read = 256 * 1024;
  std::optional<Random> cuts;
};

}  // namespace virtproxy::test
