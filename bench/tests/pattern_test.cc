#include "pattern.h"

#include <gtest/gtest.h>

#include <vector>

namespace virtproxy::bench {
namespace {

TEST(Pattern, DoesNotDependOnHowTheStreamIsCut) {
  std::vector<std::byte> whole(5000);
  fill_pattern(42, 3, whole);
  std::vector<std::byte> pieces(whole.size());
  for (size_t at = 0, size = 1; at < pieces.size(); at += size, size = size * 3 % 97 + 1) {
    size = std::min(size, pieces.size() - at);
    fill_pattern(42, 3 + at, {pieces.data() + at, size});
    EXPECT_EQ(find_mismatch(42, 3 + at, {whole.data() + at, size}), size);
  }
  EXPECT_EQ(whole, pieces);
}

TEST(Pattern, FindsEveryWrongByte) {
  std::vector<std::byte> data(700);
  fill_pattern(1, 5, data);
  for (size_t i = 0; i < data.size(); ++i) {
    data[i] ^= std::byte{0x10};
    ASSERT_EQ(find_mismatch(1, 5, data), i);
    data[i] ^= std::byte{0x10};
  }
  EXPECT_EQ(find_mismatch(1, 5, data), data.size());
}

TEST(Pattern, OtherSeedsAndPositionsDiffer) {
  std::vector<std::byte> data(64);
  fill_pattern(1, 0, data);
  EXPECT_LT(find_mismatch(2, 0, data), data.size());
  EXPECT_LT(find_mismatch(~uint64_t{1}, 0, data), data.size());
  for (uint64_t shift = 1; shift < 100'000; ++shift) {
    ASSERT_LT(find_mismatch(1, shift, data), data.size()) << shift;
  }
}

}  // namespace
}  // namespace virtproxy::bench
