// Stream slots by a number that a peer chose: what the table says, and that numbers cannot be
// chosen so that searches become long.
#include "core/v1/number_table.h"

#include <gtest/gtest.h>

#include <random>
#include <unordered_map>

#include "core/slab.h"

namespace virtproxy::test {
namespace {

constexpr int32_t kMostStreams = 16'384;

TEST(SipHash, IsTheOneThatWasPublished) {
  // The vector for 8 bytes, 00 to 07, with the key 00 to 0f.
  const HashKey key{0x0706050403020100, 0x0f0e0d0c0b0a0908};
  EXPECT_EQ((siphash<2, 4>(key, 0x0706050403020100)), 0x93f5f5799a932462);
}

TEST(NumberTable, SaysWhatAMapSays) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    std::mt19937_64 random(seed);
    NumberTable table({random(), random()});
    std::unordered_map<int32_t, uint32_t> map;
    for (int step = 0; step < 5'000; ++step) {
      const auto number = static_cast<int32_t>(random() % 600) - 300;
      switch (random() % 4) {
        case 0:
        case 1:
          map[number] = static_cast<uint32_t>(step);
          table.set(number, static_cast<uint32_t>(step));
          break;
        case 2:
          map.erase(number);
          table.erase(number);
          break;
        default:
          if (random() % 1000 == 0) {
            map.clear();
            table.clear();
          }
      }
      const auto found = map.find(number);
      ASSERT_EQ(table.find(number),
                found == map.end() ? std::nullopt : std::optional(found->second));
      ASSERT_EQ(table.size(), map.size());
    }
    for (const auto& [number, slot] : map) ASSERT_EQ(table.find(number), slot);
  }
}

// Multiples of powers of two and of the primes that libstdc++ has as numbers of buckets: what makes
// one chain of an unordered_map of as many integers.
TEST(NumberTable, NumbersThatCollideElsewhereDoNotChain) {
  std::mt19937_64 random(1);
  for (const int32_t stride : {1, 2, 16'384, 32'768, 65'536, 131'072, 15'173, 30'727, 62'233}) {
    NumberTable table({random(), random()});
    for (int32_t i = 0; i < kMostStreams; ++i) table.set(i * stride, static_cast<uint32_t>(i));
    EXPECT_LE(table.longest_search(), 64u) << "stride " << stride;
    // Nor when half of them are gone, as after a peer has closed the others.
    for (int32_t i = 0; i < kMostStreams; i += 2) table.erase(i * stride);
    EXPECT_LE(table.longest_search(), 64u) << "stride " << stride;
  }
}

// Numbers that all collide under one key: a peer that could compute them would need that key.
TEST(NumberTable, NumbersThatCollideUnderOneKeyDoNotUnderAnother) {
  const HashKey known{1, 2};
  std::vector<int32_t> numbers;
  for (int32_t number = 0; numbers.size() < 1000; ++number) {
    if ((siphash<1, 3>(known, static_cast<uint32_t>(number)) & 0x7ff) == 0) {
      numbers.push_back(number);
    }
  }
  NumberTable same(known);
  NumberTable other({3, 4});
  for (const int32_t number : numbers) {
    same.set(number, 0);
    other.set(number, 0);
  }
  EXPECT_EQ(same.longest_search(), numbers.size());
  EXPECT_LE(other.longest_search(), 64u);
}

TEST(Slab, NoKeyFromBeforeItWasClearedFindsAnything) {
  Slab<int> slab;
  std::vector<SlabKey> keys;
  for (int i = 0; i < 10; ++i) keys.push_back(slab.insert(i));
  for (int round = 0; round < 5; ++round) {
    slab.erase(keys.back());
    keys.push_back(slab.insert(100 + round));
  }
  slab.clear();
  EXPECT_EQ(slab.size(), 0u);
  for (int i = 0; i < 20; ++i) {
    const SlabKey key = slab.insert(1000 + i);
    for (const SlabKey& before : keys) {
      EXPECT_NE(key, before);
      EXPECT_EQ(slab.find(before), nullptr);
    }
    ASSERT_NE(slab.find(key), nullptr);
    EXPECT_EQ(*slab.find(key), 1000 + i);
  }
}

}  // namespace
}  // namespace virtproxy::test
