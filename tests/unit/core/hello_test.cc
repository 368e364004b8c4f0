#include "core/wire/hello.h"

#include <gtest/gtest.h>

#include <random>

#include "core/flow/limits.h"
#include "core/wire/little_endian.h"

namespace virtproxy {
namespace {

using Bytes = std::vector<std::byte>;

Hello sample() {
  Hello hello;
  hello.probe = true;
  hello.joined = true;
  hello.wanted = feature::kChecksumTrailer;
  hello.epoch = 0x1122334455667788;
  hello.echo = 0x99aabbccddeeff00;
  hello.max_streams = 1000;
  hello.initial_window = 16384;
  hello.max_frame = 65536;
  hello.frames = 17;
  return hello;
}

Bytes wire_of(const Hello& hello) {
  Bytes bytes(kHelloSize);
  encode_hello(hello, bytes.data());
  return bytes;
}

Bytes joined(std::initializer_list<Bytes> parts) {
  Bytes all;
  for (const Bytes& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

TEST(Hello, SurvivesTheRoundTrip) {
  const auto decoded = decode_hello(wire_of(sample()).data());
  ASSERT_TRUE(decoded);
  EXPECT_EQ(*decoded, sample());
}

TEST(Hello, IsAPacketThatAnOldDaemonIgnores) {
  const Bytes wire = wire_of(sample());
  EXPECT_EQ(wire.size(), 1044u);
  EXPECT_EQ(load_le<uint32_t>(wire.data()), 1u) << "CONTROL";
  EXPECT_GT(load_le<uint32_t>(wire.data() + 4), 3u) << "a message number it does not know";
  EXPECT_EQ(load_le<uint32_t>(wire.data() + 1040), 0x1F374059u);
}

TEST(Hello, EverySingleBitFlipIsRefused) {
  Bytes wire = wire_of(sample());
  for (size_t bit = 0; bit < wire.size() * 8; ++bit) {
    wire[bit / 8] ^= std::byte{1} << (bit % 8);
    EXPECT_FALSE(decode_hello(wire.data())) << bit;
    wire[bit / 8] ^= std::byte{1} << (bit % 8);
  }
}

TEST(Hello, SenselessLimitsAreRefused) {
  const auto refused = [](auto change) {
    Hello hello = sample();
    change(hello);
    return !decode_hello(wire_of(hello).data());
  };
  EXPECT_TRUE(refused([](Hello& h) { h.epoch = 0; }));
  EXPECT_TRUE(refused([](Hello& h) { h.version_min = 3; }));
  EXPECT_TRUE(refused([](Hello& h) { h.max_streams = 0; }));
  EXPECT_TRUE(refused([](Hello& h) { h.max_streams = (1u << 20) + 1; }));
  EXPECT_TRUE(refused([](Hello& h) { h.initial_window = 0; }));
  EXPECT_TRUE(refused([](Hello& h) { h.initial_window = protocol_limits::kMaxWindow + 1; }));
  EXPECT_TRUE(refused([](Hello& h) { h.max_frame = protocol_limits::kMinFrame - 1; }));
  EXPECT_TRUE(refused([](Hello& h) { h.max_frame = protocol_limits::kMaxFrame + 1; }));
  EXPECT_FALSE(refused([](Hello& h) { h.version_max = 9; }));
}

TEST(Hello, IsFoundAtEveryAlignment) {
  const Bytes wire = wire_of(sample());
  for (size_t before = 0; before < 70; ++before) {
    const Bytes bytes = joined({Bytes(before, std::byte{1}), wire, Bytes(5)});
    const HelloSearch search = find_hello(bytes);
    ASSERT_TRUE(search.hello) << before;
    EXPECT_EQ(search.at, before);
    EXPECT_EQ(*search.hello, sample());
  }
}

TEST(Hello, TruncatedOneFollowedByAWholeOneIsSkipped) {
  const Bytes wire = wire_of(sample());
  for (size_t cut = 0; cut < kHelloSize; ++cut) {
    const Bytes torn(wire.begin(), wire.begin() + static_cast<ptrdiff_t>(cut));
    const HelloSearch search = find_hello(joined({torn, wire}));
    ASSERT_TRUE(search.hello) << cut;
    EXPECT_EQ(search.at, cut);
  }
}

TEST(Hello, SearchKeepsWhateverMayStillBecomeAGreeting) {
  const Bytes whole = joined({Bytes(33, std::byte{0x01}), wire_of(sample())});
  for (size_t seen = 0; seen < whole.size(); ++seen) {
    const HelloSearch search = find_hello(std::span(whole).first(seen));
    ASSERT_FALSE(search.hello);
    EXPECT_LE(search.skip, 33u) << "the greeting's first byte is gone, having seen " << seen;
  }
}

TEST(Hello, SearchKeepsAtMostOneUnfinishedGreeting) {
  std::mt19937_64 random(4);
  Bytes kept;
  const Bytes torn = wire_of(sample());
  for (int i = 0; i < 2000; ++i) {
    const size_t size = random() % 40;
    for (size_t k = 0; k < size; ++k) {
      kept.push_back(random() % 3 != 0 ? torn[k % 16] : static_cast<std::byte>(random()));
    }
    if (random() % 2 != 0) kept.insert(kept.end(), torn.begin(), torn.begin() + 500);
    const HelloSearch search = find_hello(kept);
    ASSERT_FALSE(search.hello);
    kept.erase(kept.begin(), kept.begin() + static_cast<ptrdiff_t>(search.skip));
    ASSERT_LT(kept.size(), kHelloSize);
  }
}

TEST(Hello, BeginningIsRecognisedByteByByte) {
  const Bytes wire = wire_of(sample());
  for (size_t size = 0; size <= wire.size(); ++size) {
    EXPECT_TRUE(may_begin_hello(std::span(wire).first(size)));
  }
  for (size_t at = 0; at < 16; ++at) {
    Bytes other = wire;
    other[at] ^= std::byte{0x80};
    EXPECT_FALSE(may_begin_hello(std::span(other).first(at + 1)));
    EXPECT_TRUE(may_begin_hello(std::span(other).first(at)));
  }
}

}  // namespace
}  // namespace virtproxy
