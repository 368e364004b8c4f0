#include "core/peer_identity.h"

#include <gtest/gtest.h>

#include <array>
#include <vector>

namespace virtproxy {
namespace {

using Bytes = std::vector<std::byte>;

Bytes encode(const Origin& origin) {
  Bytes bytes(kMaxOriginSize);
  bytes.resize(encode_origin(origin, bytes.data()));
  return bytes;
}

Origin of_kind(Origin::Kind kind) {
  Origin origin;
  origin.kind = kind;
  return origin;
}

Bytes bytes_of(std::initializer_list<int> numbers) {
  Bytes bytes;
  for (const int number : numbers) bytes.push_back(static_cast<std::byte>(number));
  return bytes;
}

TEST(Origin, OfAUnixClientHasItsCredentials) {
  Origin origin = of_kind(Origin::Kind::kUnix);
  origin.uid = 1000;
  origin.gid = 0x01020304;
  origin.pid = 4242;
  const Bytes bytes = encode(origin);
  EXPECT_EQ(bytes, bytes_of({1, 0xe8, 3, 0, 0, 4, 3, 2, 1, 0x92, 0x10, 0, 0}));
  const auto back = decode_origin(bytes);
  ASSERT_TRUE(back);
  EXPECT_EQ(back->kind, Origin::Kind::kUnix);
  EXPECT_EQ(back->uid, origin.uid);
  EXPECT_EQ(back->gid, origin.gid);
  EXPECT_EQ(back->pid, origin.pid);
}

TEST(Origin, OfAnIpClientHasItsAddressInNetworkOrder) {
  Origin origin = of_kind(Origin::Kind::kIpv4);
  for (uint8_t i = 0; i < 4; ++i) origin.address[i] = static_cast<uint8_t>(10 + i);
  origin.port = 0x1234;
  EXPECT_EQ(encode(origin), bytes_of({2, 10, 11, 12, 13, 0x34, 0x12}));
  auto back = decode_origin(encode(origin));
  ASSERT_TRUE(back);
  EXPECT_EQ(back->kind, Origin::Kind::kIpv4);
  EXPECT_EQ(back->address, origin.address);
  EXPECT_EQ(back->port, 0x1234u);

  origin.kind = Origin::Kind::kIpv6;
  for (uint8_t i = 0; i < 16; ++i) origin.address[i] = static_cast<uint8_t>(i);
  const Bytes bytes = encode(origin);
  EXPECT_EQ(bytes.size(), 19u);
  back = decode_origin(bytes);
  ASSERT_TRUE(back);
  EXPECT_EQ(back->kind, Origin::Kind::kIpv6);
  EXPECT_EQ(back->address, origin.address);
  EXPECT_EQ(back->port, 0x1234u);
}

TEST(Origin, OfAVsockClientHasItsCid) {
  Origin origin = of_kind(Origin::Kind::kVsock);
  origin.cid = 3;
  origin.port = 0x89abcdef;
  const Bytes bytes = encode(origin);
  EXPECT_EQ(bytes, bytes_of({4, 3, 0, 0, 0, 0xef, 0xcd, 0xab, 0x89}));
  const auto back = decode_origin(bytes);
  ASSERT_TRUE(back);
  EXPECT_EQ(back->kind, Origin::Kind::kVsock);
  EXPECT_EQ(back->cid, 3u);
  EXPECT_EQ(back->port, 0x89abcdefu);
}

TEST(Origin, NothingAndUnknownKindsAreUnknown) {
  EXPECT_TRUE(encode(Origin{}).empty());
  for (const Bytes& bytes :
       {Bytes{}, bytes_of({0}), bytes_of({5, 1, 2, 3}), Bytes(128, std::byte{0xff})}) {
    const auto origin = decode_origin(bytes);
    ASSERT_TRUE(origin);
    EXPECT_EQ(origin->kind, Origin::Kind::kUnknown);
  }
}

TEST(Origin, AKnownKindOfAnotherSizeIsRefused) {
  const std::array<size_t, 5> sizes{0, 13, 7, 19, 9};  // by kind
  for (size_t kind = 1; kind < sizes.size(); ++kind) {
    for (size_t size = 1; size <= 30; ++size) {
      Bytes bytes(size);
      bytes[0] = static_cast<std::byte>(kind);
      EXPECT_EQ(decode_origin(bytes).has_value(), size == sizes[kind]) << kind << " of " << size;
    }
  }
}

}  // namespace
}  // namespace virtproxy
