// Random operations on a pair of sessions, drawn from a seed: first with faults, then the world
// heals and everything must come to its end.
//
// Held throughout: every byte that arrives is the right one (pair.h). At the end: streams that
// closed are complete at both ends, streams that were cut have a prefix, and no stream, byte or
// loan is left.
#include <gtest/gtest.h>

#include "tests/unit/core/pair.h"
#include "tests/unit/core/seeds.h"

namespace virtproxy::test {
namespace {

enum class Faults { kNone, kDrops, kRestarts, kCorruption };

class World {
 public:
  World(uint64_t seed, Faults faults, uint64_t features)
      : random_(seed * 7919 + static_cast<uint64_t>(faults) * 31 + features),
        faults_(faults),
        features_(features),
        pair_(random_config(), random_config()) {
    if (below(random_, 2) != 0) pair_.cuts = Random(seed);
    pair_.most_piece = 1 + below(random_, 5000);
    pair_.transport_up();
  }

  void run(int operations) {
    for (int i = 0; i < operations && !testing::Test::HasFailure(); ++i) operate();
  }

  void heal() {
    pair_.batch = 256 * 1024;
    for (End* end : {&pair_.a, &pair_.b}) {
      end->takes_at_once = true;
      end->refuses_with.reset();
    }
    pair_.run_for(seconds(60));
    ASSERT_TRUE(pair_.a.session.up() && pair_.b.session.up());
    std::optional<uint64_t> proof;
    for (int i = 0; i < 3; ++i) {
      if (i == 1) proof = pair_.a.open();
      for (End* end : {&pair_.a, &pair_.b}) {
        for (auto& [id, c] : end->conversations) {
          end->take(id, UINT64_MAX);
          end->end(id);
        }
      }
      pair_.run_for(seconds(5));
    }
    ASSERT_TRUE(proof && pair_.a.at(*proof).fate == Fate::kClosed);
    pair_.expect_nothing_left();
    compare(pair_.a, pair_.b);
    compare(pair_.b, pair_.a);
    closed = pair_.a.count(Fate::kClosed);
    cut = pair_.a.count(Fate::kLost) + pair_.a.count(Fate::kResetHere);
    downs = pair_.a.downs.size() + pair_.b.downs.size();
  }

  size_t closed = 0;
  size_t cut = 0;
  size_t downs = 0;

 private:
  SessionConfig random_config() {
    SessionConfig config = config_with(random_(), below(random_, 3) != 0 ? features_ : 0);
    config.limits.max_streams = 1 + static_cast<uint32_t>(below(random_, 24));
    config.limits.initial_window = 256 + static_cast<uint32_t>(below(random_, 4000));
    config.limits.max_window =
        config.limits.initial_window + static_cast<uint32_t>(below(random_, 30'000));
    config.limits.receive_budget =
        uint64_t{config.limits.initial_window} * config.limits.max_streams +
        below(random_, 100'000);
    config.limits.max_frame =
        protocol_limits::kMinFrame + static_cast<uint32_t>(below(random_, 9000));
    config.quantum = 1 + static_cast<uint32_t>(below(random_, 9000));
    if (features_ != 0) config.wanted_features = features_;
    fund_ = std::max(fund_, config.limits.receive_budget);
    return config;
  }

  End& some_end() { return below(random_, 2) != 0 ? pair_.a : pair_.b; }
  End& other(End& end) { return &end == &pair_.a ? pair_.b : pair_.a; }

  std::optional<uint64_t> some_stream(End& end) {
    std::vector<uint64_t> open;
    for (auto it = end.conversations.rbegin(); it != end.conversations.rend(); ++it) {
      if (it->second.fate == Fate::kOpen) open.push_back(it->first);
      if (open.size() >= 30) break;
    }
    if (open.empty()) return std::nullopt;
    return open[below(random_, open.size())];
  }

  void operate() {
    End& end = some_end();
    const uint64_t what = below(random_, 100);
    if (what < 8) {
      end.open(static_cast<Priority>(below(random_, kPriorities)));
    } else if (what < 60) {
      operate_on_stream(end, what);
    } else if (what < 76) {
      end.write(1 + below(random_, 20'000), pair_.now);
    } else if (what < 94) {
      pair_.carry(end, other(end), below(random_, 20'000));
    } else if (what < 97) {
      pair_.now += milliseconds(below(random_, 300));
      end.tick(pair_.now);
    } else if (what < 98) {
      end.takes_at_once = below(random_, 2) != 0;
      end.refuses_with.reset();
      if (below(random_, 6) == 0) end.refuses_with = Fault::kRefused;
    } else if (below(random_, 20) == 0) {
      break_something(end);
    }
    const Session::Stats stats = end.session.stats();
    ASSERT_LE(stats.borrowed, fund_);
    uint64_t held = 0;
    uint64_t queued = 0;
    end.session.streams().for_each([&](StreamKey, const Stream& stream) {
      if (stream.dead()) return;
      held += stream.held();
      queued += stream.queued;
    });
    ASSERT_EQ(stats.held, held);
    ASSERT_EQ(stats.queued, queued);
  }

  void operate_on_stream(End& end, uint64_t what) {
    const auto id = some_stream(end);
    if (!id) return;
    if (what < 36) {
      end.queue(*id, 1 + below(random_, below(random_, 8) == 0 ? 50'000 : 300));
    } else if (what < 54) {
      end.take(*id, 1 + below(random_, 20'000));
    } else if (what < 57) {
      end.end(*id);
    } else if (what < 59 && below(random_, 2) == 0) {
      below(random_, 2) == 0 ? end.reset(*id) : end.break_off(*id);
    }
  }

  void break_something(End& end) {
    switch (faults_) {
      case Faults::kNone:
        return;
      case Faults::kDrops:
        pair_.drop_link();
        for (End* e : {&pair_.a, &pair_.b}) e->out.resize(below(random_, e->out.size() + 1));
        pair_.transport_up();
        return;
      case Faults::kRestarts: {
        // Whatever was written so far is in the pipe, perhaps up to the middle of a frame.
        Bytes stale = end.out;
        stale.resize(below(random_, stale.size() + 1));
        end = End(random_config(), below(random_, 1ull << 62));
        end.out = stale;
        end.transport_up(pair_.now);
        return;
      }
      case Faults::kCorruption: {
        if (end.out.empty()) return;
        const size_t at = below(random_, end.out.size());
        const auto spot = end.out.begin() + static_cast<ptrdiff_t>(at);
        const size_t some = 1 + below(random_, std::min<size_t>(end.out.size() - at, 3000));
        const uint64_t how = below(random_, 3);
        if (how == 0) *spot ^= std::byte{1} << below(random_, 8);
        if (how == 1) end.out.erase(spot, spot + static_cast<ptrdiff_t>(some));
        if (how == 2) end.out.insert(spot, some % 10, static_cast<std::byte>(random_()));
        return;
      }
    }
  }

  void compare(const End& from, const End& to) {
    for (const auto& [id, c] : to.conversations) {
      const auto found = from.conversations.find(id);
      if (found == from.conversations.end()) continue;  // never opened there, or before a restart
      const Conversation& sender = found->second;
      EXPECT_LE(c.received, sender.written) << id;
      EXPECT_TRUE(!(c.end_seen || c.peer_broke_off) || c.received == sender.queued) << id;
    }
  }

  Random random_;
  Faults faults_;
  uint64_t features_;
  uint64_t fund_ = 0;
  Pair pair_;
};

void run_seeds(uint64_t usual, Faults faults, uint64_t features) {
  size_t closed = 0;
  size_t cut = 0;
  size_t downs = 0;
  const uint64_t count = seeds(usual);
  for (uint64_t seed = 1; seed <= count; ++seed) {
    World world(seed, faults, features);
    world.run(4000);
    world.heal();
    ASSERT_FALSE(testing::Test::HasFailure()) << "seed " << seed;
    closed += world.closed;
    cut += world.cut;
    downs += world.downs;
  }
  EXPECT_GT(closed, count) << "the test must exercise something";
  EXPECT_GT(cut, count);
  EXPECT_EQ(downs > 0, faults != Faults::kNone);
}

TEST(RandomOperations, OverAPerfectLink) {
  run_seeds(100, Faults::kNone, 0);
  run_seeds(50, Faults::kNone, feature::kCommitTrailer);
  run_seeds(50, Faults::kNone, feature::kChecksumTrailer);
}
TEST(RandomOperations, OverALinkThatDropsAndKeepsStaleBytes) {
  run_seeds(100, Faults::kDrops, 0);
  run_seeds(50, Faults::kDrops, feature::kCommitTrailer);
}
TEST(RandomOperations, WithDaemonsThatAreKilledInMidFrame) {
  run_seeds(100, Faults::kRestarts, feature::kCommitTrailer);
  run_seeds(50, Faults::kRestarts, feature::kChecksumTrailer);
}
TEST(RandomOperations, OverALineThatFlipsDropsAndInsertsBytes) {
  run_seeds(150, Faults::kCorruption, feature::kChecksumTrailer);
}

}  // namespace
}  // namespace virtproxy::test
