// Two ends of a port on virtual time, both calling at full rate, over a line that is disturbed at
// every byte. After the disturbance calls succeed again, and no answer ever reaches another call.
#include <random>

#include "tests/unit/core/agent_pair.h"
#include "tests/unit/core/seeds.h"

namespace virtproxy::agent::test {
namespace {

using virtproxy::test::kOneOf;

enum class Disturbance {
  kCut,
  kGarbage,
  kReset,
  kHalfLine,
  kOldAnswer,
  kRestartHost,
  kRestartGuest,
  kCount
};

// One direction of the line.
struct Pipe {
  std::string bytes;
  uint64_t carried = 0;
};

class World {
 public:
  explicit World(size_t capacity, uint64_t seed = 1) : capacity_(capacity), random_(seed) {
    start(0);
    start(1);
  }

  // A fresh process at that end. What its predecessor wrote is still in the line.
  void start(size_t end) {
    if (ends_[end]) retire(*ends_[end]);
    const uint64_t first = random_() >> 12;
    ends_[end] = std::make_unique<End>(end == 0 ? host_config(first) : guest_config(first), now_);
    unread_[end].clear();
    if (end == 0) ends_[0]->conversation.greet(now_);
  }

  void disturb(Disturbance kind, size_t direction) {
    std::string& bytes = pipes_[direction].bytes;
    switch (kind) {
      case Disturbance::kCut:
        bytes.erase(0, 1 + random_() % 40);
        break;
      case Disturbance::kGarbage:
        for (int i = 0; i < 5; ++i) bytes += static_cast<char>(random_());
        break;
      case Disturbance::kReset:
        bytes += '\xff';
        break;
      case Disturbance::kHalfLine:
        bytes += "{\"return\":{\"n\":";
        break;
      case Disturbance::kOldAnswer:
        bytes += "\n{\"return\":{\"n\":77},\"id\":1}\n{\"return\":77}\n";
        break;
      case Disturbance::kRestartHost:
        start(0);
        break;
      case Disturbance::kRestartGuest:
        start(1);
        break;
      case Disturbance::kCount:
        break;
    }
  }

  // Moves up to `bytes` in one direction; true if anything has moved.
  bool carry(size_t direction, size_t bytes) {
    Pipe& pipe = pipes_[direction];
    End& from = *ends_[direction];
    End& to = *ends_[1 - direction];
    bool moved = false;
    const size_t room = capacity_ - std::min(capacity_, pipe.bytes.size());
    const std::string piece(from.conversation.pending().substr(0, std::min(bytes, room)));
    if (!piece.empty()) {
      pipe.bytes += piece;
      from.conversation.sent(piece.size(), now_);
      from.act();
      moved = true;
    }
    std::string& unread = unread_[1 - direction];
    if (unread.empty() && !pipe.bytes.empty()) {
      const size_t size = std::min(bytes, pipe.bytes.size());
      unread = pipe.bytes.substr(0, size);
      pipe.bytes.erase(0, size);
      pipe.carried += size;
      moved = true;
    }
    if (!unread.empty()) {
      const size_t before = unread.size();
      unread = std::string(to.receive(unread, now_));
      moved = moved || unread.size() < before;
    }
    return moved;
  }

  // Calls again at both ends until each of them has had `calls` answers.
  void keep_calling(uint64_t calls) {
    for (auto& end : ends_) {
      if (answered(*end) < calls && !end->conversation.calling()) end->call_echo(++number_);
    }
  }

  bool wait() {
    std::optional<Instant> next;
    for (const auto& end : ends_) {
      const auto deadline = end->conversation.next_deadline();
      if (deadline) next = std::min(next.value_or(*deadline), *deadline);
    }
    if (!next) return false;
    now_ = std::max(now_, *next);
    for (const auto& end : ends_) end->tick(now_);
    // As the program does: the host greets until it is answered.
    if (!ends_[1]->conversation.greeted()) ends_[0]->conversation.greet(now_);
    return true;
  }

  uint64_t answered(const End& end) const { return end.answered; }
  End& end(size_t index) { return *ends_[index]; }
  Pipe& pipe(size_t direction) { return pipes_[direction]; }
  Instant now() const { return now_; }
  std::mt19937_64& random() { return random_; }
  void check_bounds() const {
    for (const auto& end : ends_) ASSERT_LE(end->conversation.memory(), kMaxPortMemory);
  }

 private:
  void retire(End& end) { ASSERT_LE(end.conversation.memory(), kMaxPortMemory); }

  const size_t capacity_;
  std::mt19937_64 random_;
  Instant now_{std::chrono::seconds(1)};
  std::unique_ptr<End> ends_[2];
  Pipe pipes_[2];  // of the host to the guest, and back
  std::string unread_[2];
  uint64_t number_ = 100;
};

// Runs until both ends have had that many answers. False if that takes longer than `most`.
bool run(World& world, uint64_t calls, size_t step, Duration most, uint64_t disturb_at,
         Disturbance kind, size_t direction) {
  const Instant last = world.now() + most;
  bool disturbed = kind == Disturbance::kCount;
  while (world.answered(world.end(0)) < calls || world.answered(world.end(1)) < calls ||
         !disturbed) {
    world.keep_calling(calls);
    bool moved = false;
    for (const size_t each : {size_t{0}, size_t{1}}) {
      if (!disturbed && world.pipe(direction).carried >= disturb_at) {
        disturbed = true;
        world.disturb(kind, direction);
        moved = true;
      }
      moved = world.carry(each, step) || moved;
    }
    if (!moved && !world.wait()) return !disturbed;
    if (world.now() > last) return false;
  }
  world.check_bounds();
  return true;
}

TEST(AgentSimulation, CallsCrossOnALineOfOneByte) {
  World world(1);
  EXPECT_TRUE(run(world, 50, 1, std::chrono::seconds(1), 0, Disturbance::kCount, 0));
  for (const size_t end : {size_t{0}, size_t{1}}) {
    EXPECT_EQ(world.end(end).failed, 0u);
    EXPECT_EQ(world.end(end).answered, 50u);
    EXPECT_EQ(world.end(end).conversation.stats().busy, 0u);
    EXPECT_EQ(world.end(end).conversation.stats().discarded, 0u);
  }
}

TEST(AgentSimulation, ADisturbanceAtEveryByteIsOvercome) {
  World whole(64);
  ASSERT_TRUE(run(whole, 2, 16, std::chrono::seconds(1), 0, Disturbance::kCount, 0));
  int runs = 0;
  for (const size_t direction : {size_t{0}, size_t{1}}) {
    for (uint64_t at = 0; at < whole.pipe(direction).carried; at += kOneOf) {
      for (int kind = 0; kind < static_cast<int>(Disturbance::kCount); ++kind) {
        World world(64, 7 + at);
        // A call, a sync and a va-hello may each be lost once, and a restarted end begins its calls
        // anew.
        const bool good = run(world, 2, 1 + at % 16, std::chrono::seconds(31), at,
                              static_cast<Disturbance>(kind), direction);
        ASSERT_TRUE(good) << "direction " << direction << " at " << at << " kind " << kind << ": "
                          << world.end(0).answered << " and " << world.end(1).answered;
        if (::testing::Test::HasFatalFailure()) return;
        ++runs;
      }
    }
  }
  EXPECT_GT(runs, 6000 / static_cast<int>(kOneOf));
}

TEST(AgentSimulation, ManyDisturbancesAndLateAnswers) {
  uint64_t answered = 0;
  uint64_t discarded = 0;
  uint64_t abandoned = 0;
  constexpr uint64_t kSeeds = 300 / kOneOf;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    SCOPED_TRACE(seed);
    World world(1 + seed % 200, seed);
    auto& random = world.random();
    for (int step = 0; step < 1000; ++step) {
      world.keep_calling(UINT64_MAX);
      const size_t which = random() % 2;
      switch (random() % 40) {
        case 0:
          world.disturb(static_cast<Disturbance>(random() % static_cast<int>(Disturbance::kCount)),
                        which);
          break;
        case 1:
          world.end(which).hold = !world.end(which).hold;
          break;
        case 2:
        case 3:
          if (!world.end(which).held.empty()) world.end(which).answer_held();
          break;
        case 4:
          world.wait();
          break;
        case 5:
          world.end(which).conversation.post_event(encode_event("e", Json::object(), std::nullopt),
                                                   world.now());
          break;
        default:
          world.carry(which, 1 + random() % 100);
      }
      world.check_bounds();
      if (::testing::Test::HasFatalFailure()) return;
    }
    for (const size_t end : {size_t{0}, size_t{1}}) {
      world.end(end).hold = false;
      while (!world.end(end).held.empty()) world.end(end).answer_held();
      answered += world.end(end).answered;
      discarded += world.end(end).conversation.stats().discarded;
      abandoned += world.end(end).conversation.stats().abandoned;
    }
    const uint64_t goal = std::max(world.end(0).answered, world.end(1).answered) + 5;
    ASSERT_TRUE(run(world, goal, 64, std::chrono::seconds(31), 0, Disturbance::kCount, 0))
        << world.end(0).answered << " and " << world.end(1).answered << " of " << goal;
  }
  // The simulation does what it is for.
  EXPECT_GT(answered, 3 * kSeeds);
  EXPECT_GT(discarded, kSeeds / 6);
  EXPECT_GT(abandoned, kSeeds / 6);
}

}  // namespace
}  // namespace virtproxy::agent::test
