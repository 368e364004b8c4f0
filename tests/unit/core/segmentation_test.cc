// The same bytes, cut in every possible way, must cause the same events.
#include <gtest/gtest.h>

#include "tests/unit/core/pair.h"
#include "tests/unit/core/puppet.h"

namespace virtproxy::test {
namespace {

// What the driver learns, with pieces of one stream's data joined.
class Story {
 public:
  void add(const Event& event) {
    const std::string who =
        std::to_string(event.stream.slot) + "/" + std::to_string(event.stream.generation);
    if (event.kind == Event::Kind::kData && who == last_data_) {
      append(event.bytes);
      return;
    }
    text += "\n" + std::to_string(static_cast<int>(event.kind)) + " " +
            std::to_string(static_cast<int>(event.fault)) + " " + who + " " +
            std::string(event.service) + " ";
    append(event.bytes);
    last_data_ = event.kind == Event::Kind::kData ? who : "";
  }
  std::string text;

 private:
  void append(std::span<const std::byte> bytes) {
    for (const std::byte b : bytes) text += static_cast<char>('a' + static_cast<int>(b) % 26);
  }
  std::string last_data_;
};

constexpr uint32_t kOne = stream_number(0, 1);
constexpr uint32_t kTwo = stream_number(1, 1);

// A life with everything in it: noise, two greetings, frames of every kind, a late frame, a fault,
// noise again and the next session.
Bytes everything(uint64_t features, Puppet& puppet) {
  puppet.mine.wanted = features;
  puppet.trailer = features == 0                         ? TrailerKind::kNone
                   : features == feature::kCommitTrailer ? TrailerKind::kCommit
                                                         : TrailerKind::kChecksum;
  puppet.session.transport_up(puppet.now);
  puppet.hear();
  const uint64_t epoch = puppet.hellos[0].epoch;
  puppet.send_key = direction_key(puppet.mine.epoch, epoch);
  Bytes bytes(37, std::byte{1});
  const auto add = [&](const Bytes& more) { bytes.insert(bytes.end(), more.begin(), more.end()); };
  const auto hello = [&](uint64_t echo) {
    puppet.mine.echo = echo;
    add(hello_bytes(puppet.mine));
  };
  const auto frame = [&](FrameType type, uint32_t stream, uint64_t argument) {
    add(puppet.frame({type, stream != 0, stream, 0, argument}));
  };
  hello(0);
  hello(epoch);
  add(puppet.open(kOne));
  add(puppet.data(kOne, 0, 100));
  add(puppet.open(kTwo));
  add(puppet.data(kTwo, 0, 1));
  frame(FrameType::kPing, 0, 4);
  frame(FrameType::kCredit, kOne, 5000);
  hello(epoch);
  add(puppet.data(kOne, 100, 200));
  frame(FrameType::kReset, kTwo, 3);
  add(puppet.data(kTwo, 1, 50));
  frame(FrameType::kEnd, kOne, 300);
  frame(FrameType::kGoingAway, 0, 0);
  frame(FrameType::kPong, 0, 0);
  frame(FrameType::kEnd, kOne, 300);  // the fault
  add(Bytes(50, std::byte{0x11}));
  hello(epoch);
  return bytes;
}

std::string story_of(uint64_t features, const std::vector<size_t>& cuts) {
  Puppet puppet;
  const Bytes bytes = everything(features, puppet);
  Story story;
  size_t at = 0;
  const auto say = [&](size_t to) {
    puppet.say(Bytes(bytes.begin() + static_cast<ptrdiff_t>(at),
                     bytes.begin() + static_cast<ptrdiff_t>(to)));
    for (const Event& event : puppet.events) story.add(event);
    at = to;
  };
  for (const size_t cut : cuts) {
    if (cut > at && cut < bytes.size()) say(cut);
  }
  say(bytes.size());
  return story.text;
}

class Segmentation : public testing::TestWithParam<uint64_t> {};

TEST_P(Segmentation, OneCutAnywhereChangesNothing) {
  Puppet puppet;
  const size_t size = everything(GetParam(), puppet).size();
  const std::string whole = story_of(GetParam(), {});
  ASSERT_NE(whole.find("echo"), std::string::npos);
  for (size_t cut = 1; cut < size; ++cut) ASSERT_EQ(story_of(GetParam(), {cut}), whole) << cut;
}

TEST_P(Segmentation, SingleBytesChangeNothing) {
  std::vector<size_t> cuts(10'000);
  for (size_t i = 0; i < cuts.size(); ++i) cuts[i] = i;
  EXPECT_EQ(story_of(GetParam(), cuts), story_of(GetParam(), {}));
}

TEST_P(Segmentation, RandomPiecesChangeNothing) {
  const std::string whole = story_of(GetParam(), {});
  Random random(11);
  for (int round = 0; round < 1000; ++round) {
    std::vector<size_t> cuts;
    for (size_t at = 0; at < 10'000; at += 1 + below(random, 1 + below(random, 500))) {
      cuts.push_back(at);
    }
    ASSERT_EQ(story_of(GetParam(), cuts), whole) << round;
  }
}

INSTANTIATE_TEST_SUITE_P(Trailers, Segmentation,
                         testing::Values(uint64_t{0}, feature::kCommitTrailer,
                                         feature::kChecksumTrailer));

}  // namespace
}  // namespace virtproxy::test
