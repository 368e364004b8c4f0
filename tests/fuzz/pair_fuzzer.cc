// Two sessions back to back, driven by a list of operations; then the world heals and everything
// has to come to its end.
//
// Oracles: every byte that arrives is the right one at its place; what one end can still send is
// never more than the other has granted and has memory for; an end never holds more than that
// memory; when both directions of a stream ended well, all of it arrived; and after the healing
// nothing is left.
//
// With VIRTPROXY_CANARY the wire changes one byte in a place that only a certain sequence of
// operations reaches: a harness that works finds it.

#include <array>
#include <map>
#include <utility>

#include "tests/fuzz/peer.h"

using namespace virtproxy;
using namespace virtproxy::fuzz;

namespace {

constexpr uint64_t kMostOfStream = 200'000;

std::byte content(uint64_t id, uint64_t offset) {
  return static_cast<std::byte>((id * 0x9e3779b97f4a7c15 + offset * 0xff51afd7ed558ccd) >> 56);
}

struct Talk {
  StreamKey key;
  uint64_t id = 0;  // of what this end says; the other end says id ^ 1
  uint64_t queued = 0;
  uint64_t written = 0;
  uint64_t received = 0;
  uint64_t consumed = 0;
  bool ended = false;
  bool end_seen = false;
  bool delivered = false;
  bool broke_off = false;
  bool peer_broke_off = false;
};

// What became of a stream at one end, by the id of what was said there.
struct Result {
  uint64_t said = 0;
  uint64_t heard = 0;
  bool broke_off = false;  // then it need not have heard everything
};

class End {
 public:
  explicit End(const SessionConfig& config)
      : session(config), budget_(config.limits.receive_budget) {}

  Talk* some(uint64_t which) {
    if (talks.empty()) return nullptr;
    auto at = talks.begin();
    std::advance(at, static_cast<long>(which % talks.size()));
    return &at->second;
  }

  void open(uint64_t id, Priority priority) {
    std::array<std::byte, 8> metadata;
    store_le(metadata.data(), id);
    if (const auto key = session.open("s", priority, metadata)) talks[key->slot] = {*key, id};
  }
  void queue(Talk& talk, uint64_t bytes) {
    if (talk.ended || talk.queued > kMostOfStream) return;
    bytes = std::min(bytes, session.request_credit(talk.key));
    if (bytes == 0) return;
    talk.queued += bytes;
    session.queue(talk.key, bytes);
  }
  void end(Talk& talk) {
    if (!std::exchange(talk.ended, true)) session.end(talk.key);
  }
  void reset(Talk& talk) {
    const StreamKey key = talk.key;
    talks.erase(key.slot);
    session.reset(key, Fault::kAborted, events_);
    act();
  }
  // The application here is gone, and leaves what it had queued.
  void break_off(Talk& talk) {
    if (std::exchange(talk.broke_off, true)) return;
    talk.ended = true;
    talk.consumed = talk.received;
    const StreamKey key = talk.key;
    if (!session.reset_after_data(key, events_)) talks.erase(key.slot);
    act();
  }
  void take(Talk& talk, uint64_t bytes) {
    bytes = std::min(bytes, talk.received - talk.consumed);
    talk.consumed += bytes;
    if (bytes > 0) session.consumed(talk.key, bytes);
    const bool all = talk.consumed == talk.received && !talk.broke_off;
    if (all && talk.end_seen && !std::exchange(talk.delivered, true)) {
      session.delivered(talk.key, events_);
    }
    // Its number may have gone with that; then this does nothing.
    if (all && talk.peer_broke_off) {
      results[talk.id] = {talk.written, talk.received};
      return reset(talk);
    }
    act();
  }

  void write(uint64_t bytes, Instant now) {
    if (!session.wants_to_write(now)) return;
    const Batch& batch = session.plan(bytes, now, events_);
    VP_ASSERT(!batch.empty());
    const size_t before = out.size();
    for (const PlannedFrame& piece : batch.frames) append(batch, piece);
    VP_ASSERT(out.size() - before == batch.size);
    act();
  }

  void read(std::span<const std::byte> bytes, Instant now) {
    pending.insert(pending.end(), bytes.begin(), bytes.end());
    const size_t used = feed(session, pending, now, events_, [this] {
      act();
      return true;
    });
    VP_ASSERT(used <= pending.size());
    pending.erase(pending.begin(), pending.begin() + static_cast<ptrdiff_t>(used));
  }

  void tick(Instant now) {
    session.tick(now, events_);
    act();
  }

  void transport_down() {
    session.transport_down(events_);
    act();
    pending.clear();
    out.clear();
  }

  V2Session session;
  Bytes out;
  Bytes pending;
  std::map<uint32_t, Talk> talks;  // by slot
  std::map<uint64_t, Result> results;

 private:
  void append(const Batch& batch, const PlannedFrame& piece) {
    const auto head = batch.head(piece);
    out.insert(out.end(), head.begin(), head.end());
    if (piece.payload == 0) return;
    Talk& talk = talks.at(piece.stream.slot);
    VP_ASSERT(talk.key == piece.stream);
    for (uint32_t i = 0; i < piece.payload; ++i) out.push_back(content(talk.id, talk.written++));
    VP_ASSERT(talk.written <= talk.queued);
#ifdef VIRTPROXY_CANARY
    if (piece.payload == 7 && talk.written > 1024 && !piece.has_trailer) out.back() ^= std::byte{1};
#endif
    if (!piece.has_trailer) return;
    const uint64_t trailer = session.trailer_for(std::span(out).last(kHeaderSize + piece.payload));
    out.resize(out.size() + kTrailerSize);
    store_le(out.data() + out.size() - kTrailerSize, trailer);
  }

  // Acting may cause further events, which are appended.
  void act() {
    for (size_t i = 0; i < events_.size(); ++i) act_on(Event(events_[i]));
    events_.clear();
    uint64_t held = 0;
    for (const auto& [slot, talk] : talks) held += talk.received - talk.consumed;
    VP_ASSERT(held <= budget_);
    VP_ASSERT(session.stats().held == held);
  }

  void act_on(const Event& event) {
    if (event.kind == Event::Kind::kDown) return talks.clear();
    if (event.kind == Event::Kind::kOpened) {
      VP_ASSERT(event.service == "s" && event.bytes.size() == 8);
      talks[event.stream.slot] = {event.stream, load_le<uint64_t>(event.bytes.data()) ^ 1};
      return;
    }
    const auto found = talks.find(event.stream.slot);
    if (found == talks.end() || found->second.key != event.stream) return;
    Talk& talk = found->second;
    switch (event.kind) {
      case Event::Kind::kData:
        VP_ASSERT(!talk.end_seen && !talk.broke_off && !talk.peer_broke_off);
        VP_ASSERT(!event.bytes.empty());
        for (const std::byte byte : event.bytes) {
          VP_ASSERT(byte == content(talk.id ^ 1, talk.received));
          ++talk.received;
        }
        return;
      case Event::Kind::kEnd:
        VP_ASSERT(!std::exchange(talk.end_seen, true));
        return;
      case Event::Kind::kClosed:
        VP_ASSERT(talk.end_seen && talk.ended && talk.delivered && talk.written == talk.queued);
        results[talk.id] = {talk.written, talk.received};
        talks.erase(found);
        return;
      case Event::Kind::kAborted:
        VP_ASSERT(!talk.broke_off && !std::exchange(talk.peer_broke_off, true));
        talk.ended = true;
        return;
      case Event::Kind::kReset:
        if (talk.broke_off && talk.written == talk.queued) {
          results[talk.id] = {talk.written, talk.received, true};
        }
        talks.erase(found);
        return;
      default:
        return;
    }
  }

  uint64_t budget_;
  Events events_;
};

class World {
 public:
  explicit World(Input& in)
      : features_(in.number(1)), ends_{End(config(in, 1)), End(config(in, 2))} {
    for (End& end : ends_) end.session.transport_up(now_);
    settle();
    VP_ASSERT(ends_[0].session.up() && ends_[1].session.up());
  }

  void step(Input& in) {
    const uint64_t what = in.number(1);
    End& end = ends_[what % 2];
    End& other = ends_[1 - what % 2];
    switch (what / 2 % 16) {
      case 0:
        return end.open(next_id_ += 2, static_cast<Priority>(in.number(1) % kPriorities));
      case 1:
      case 2:
        if (Talk* talk = end.some(in.number(1))) end.queue(*talk, 1 + in.number(2));
        return;
      case 3:
        if (Talk* talk = end.some(in.number(1))) end.queue(*talk, 1 + in.number(1) % 16);
        return;
      case 4:
        if (Talk* talk = end.some(in.number(1))) end.end(*talk);
        return;
      case 5:
        if (Talk* talk = end.some(in.number(1))) {
          what < 128 ? end.reset(*talk) : end.break_off(*talk);
        }
        return;
      case 6:
      case 7:
        if (Talk* talk = end.some(in.number(1))) end.take(*talk, in.number(2));
        return;
      case 8:
      case 9:
        return end.write(1 + in.number(2), now_);
      case 10:
      case 11:
        return carry(end, other, in.number(2));
      case 12:
        return settle();
      case 13:
        return pass(std::chrono::milliseconds(in.number(1) * 20));
      case 14:
        return damage(end, in);
      default:
        if (what == 255) return relink();
        if (Talk* talk = end.some(in.number(1))) end.take(*talk, UINT64_MAX);
    }
  }

  void heal() {
    // The faults of a channel that corrupts are answered more slowly each time.
    for (int i = 0; i < 120 && !at_rest(); ++i) {
      for (End& end : ends_) {
        for (uint64_t n = end.talks.size(); n-- > 0;) {
          if (Talk* talk = end.some(n)) finish(end, *talk);
        }
      }
      pass(std::chrono::seconds(1));
    }
    VP_ASSERT(at_rest());
    for (End& end : ends_) {
      const Session::Stats stats = end.session.stats();
      VP_ASSERT(end.session.up() && stats.borrowed == 0 && stats.held == 0 && stats.queued == 0);
    }
    for (const auto& [id, result] : ends_[0].results) {
      const auto found = ends_[1].results.find(id ^ 1);
      if (found == ends_[1].results.end()) continue;
      const Result& other = found->second;
      VP_ASSERT(other.broke_off || result.said == other.heard);
      VP_ASSERT(result.broke_off || result.heard == other.said);
    }
  }

 private:
  SessionConfig config(Input& in, uint64_t secret) {
    SessionConfig config;
    const uint64_t shape = in.number(2);
    config.epoch_key = {secret, 0};
    config.wanted_features = features_ & feature::kAll;
    config.limits.max_streams = 1 + static_cast<uint32_t>(shape % 8);
    config.limits.initial_window = 256 << (shape / 8 % 6);
    config.limits.max_window = config.limits.initial_window << (shape / 64 % 4);
    config.limits.receive_budget =
        uint64_t{config.limits.initial_window} * config.limits.max_streams + (shape / 256 << 8);
    config.limits.max_frame = 256 << (shape / 512 % 4);
    config.quantum = 256;
    budgets_[secret - 1] = config.limits.receive_budget;
    return config;
  }

  bool lossy() const { return (features_ & feature::kChecksumTrailer) != 0; }

  // Bytes are lost or changed, where the session can notice; elsewhere the link goes.
  void damage(End& end, Input& in) {
    const uint64_t how = in.number(1);
    const size_t at = in.number(2);
    if (!lossy()) {
      if (how == 0) relink();
      return;
    }
    if (at >= end.out.size()) return;
    const auto place = end.out.begin() + static_cast<ptrdiff_t>(at);
    if (how % 3 == 0) *place ^= static_cast<std::byte>(1 + how / 3);
    if (how % 3 == 1)
      end.out.erase(place, place + std::min<ptrdiff_t>(end.out.end() - place, 1 + how / 3));
    if (how % 3 == 2) end.out.insert(place, 1 + how / 3, *place);
  }

  void relink() {
    for (End& end : ends_) end.transport_down();
    for (End& end : ends_) end.session.transport_up(now_);
  }

  void finish(End& end, Talk& talk) {
    end.end(talk);
    end.take(talk, UINT64_MAX);
  }

  void carry(End& from, End& to, size_t bytes) {
    bytes = std::min(bytes, from.out.size());
    const Bytes moved(from.out.begin(), from.out.begin() + static_cast<ptrdiff_t>(bytes));
    from.out.erase(from.out.begin(), from.out.begin() + static_cast<ptrdiff_t>(bytes));
    to.read(moved, now_);
  }

  // Until neither has anything to say at this instant.
  void settle() {
    for (int turns = 0; turns < 10'000; ++turns) {
      for (End& end : ends_) end.write(64 * 1024, now_);
      if (ends_[0].out.empty() && ends_[1].out.empty()) return check_credit();
      carry(ends_[0], ends_[1], SIZE_MAX);
      carry(ends_[1], ends_[0], SIZE_MAX);
    }
    const bool they_stop_talking = false;
    VP_ASSERT(they_stop_talking);
  }

  // With nothing under way: what each may still send is what the other has granted, and there is
  // memory for all of it.
  void check_credit() {
    if (lossy() || !ends_[0].session.up() || !ends_[1].session.up()) return;
    for (size_t i = 0; i < 2; ++i) {
      uint64_t outstanding = 0;
      for (auto& [slot, talk] : ends_[i].talks) {
        if (talk.ended) continue;
        outstanding += ends_[i].session.request_credit(talk.key) + talk.queued - talk.written;
      }
      const Session::Stats stats = ends_[1 - i].session.stats();
      VP_ASSERT(stats.held + outstanding <= budgets_[1 - i]);
    }
  }

  void pass(Duration time) {
    const Instant until = now_ + time;
    settle();
    for (;;) {
      std::optional<Instant> next = ends_[0].session.deadline();
      if (const auto other = ends_[1].session.deadline(); other && (!next || *other < *next)) {
        next = other;
      }
      if (!next || *next > until) break;
      now_ = std::max(now_ + Duration(1), *next);
      for (End& end : ends_) end.tick(now_);
      settle();
    }
    now_ = std::max(now_, until);
  }

  bool at_rest() {
    return std::all_of(ends_.begin(), ends_.end(), [](End& end) {
      return end.session.up() && end.talks.empty() && end.session.stats().streams == 0;
    });
  }

  uint64_t features_;
  Instant now_{1};
  std::array<uint64_t, 2> budgets_{};
  std::array<End, 2> ends_;
  uint64_t next_id_ = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input in(data, size);
  World world(in);
  while (!in.empty()) world.step(in);
  world.heal();
  return 0;
}
