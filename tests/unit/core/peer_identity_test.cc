#include "core/peer_identity.h"

#include <gtest/gtest.h>

#include <array>
#include <vector>

namespace virtproxy {
namespace {

using Bytes = std::vector<std::byte>;

Bytes encode(const PeerIdentity& identity) {
  Bytes bytes(kMaxPeerIdentitySize);
  bytes.resize(encode_peer_identity(identity, bytes.data()));
  return bytes;
}

PeerIdentity of_kind(PeerIdentity::Kind kind) {
  PeerIdentity identity;
  identity.kind = kind;
  return identity;
}

Bytes bytes_of(std::initializer_list<int> numbers) {
  Bytes bytes;
  for (const int number : numbers) bytes.push_back(static_cast<std::byte>(number));
  return bytes;
}

TEST(PeerIdentity, OfAUnixClientHasItsCredentials) {
  PeerIdentity identity = of_kind(PeerIdentity::Kind::kUnix);
  identity.uid = 1000;
  identity.gid = 0x01020304;
  identity.pid = 4242;
  const Bytes bytes = encode(identity);
  EXPECT_EQ(bytes, bytes_of({1, 0xe8, 3, 0, 0, 4, 3, 2, 1, 0x92, 0x10, 0, 0}));
  const auto back = decode_peer_identity(bytes);
  ASSERT_TRUE(back);
  EXPECT_EQ(back->kind, PeerIdentity::Kind::kUnix);
  EXPECT_EQ(back->uid, identity.uid);
  EXPECT_EQ(back->gid, identity.gid);
  EXPECT_EQ(back->pid, identity.pid);
}

TEST(PeerIdentity, OfAnIpClientHasItsAddressInNetworkOrder) {
  PeerIdentity identity = of_kind(PeerIdentity::Kind::kIpv4);
  for (uint8_t i = 0; i < 4; ++i) identity.address[i] = static_cast<uint8_t>(10 + i);
  identity.port = 0x1234;
  EXPECT_EQ(encode(identity), bytes_of({2, 10, 11, 12, 13, 0x34, 0x12}));
  auto back = decode_peer_identity(encode(identity));
  ASSERT_TRUE(back);
  EXPECT_EQ(back->kind, PeerIdentity::Kind::kIpv4);
  EXPECT_EQ(back->address, identity.address);
  EXPECT_EQ(back->port, 0x1234u);

  identity.kind = PeerIdentity::Kind::kIpv6;
  for (uint8_t i = 0; i < 16; ++i) identity.address[i] = static_cast<uint8_t>(i);
  const Bytes bytes = encode(identity);
  EXPECT_EQ(bytes.size(), 19u);
  back = decode_peer_identity(bytes);
  ASSERT_TRUE(back);
  EXPECT_EQ(back->kind, PeerIdentity::Kind::kIpv6);
  EXPECT_EQ(back->address, identity.address);
  EXPECT_EQ(back->port, 0x1234u);
}

TEST(PeerIdentity, OfAVsockClientHasItsCid) {
  PeerIdentity identity = of_kind(PeerIdentity::Kind::kVsock);
  identity.cid = 3;
  identity.port = 0x89abcdef;
  const Bytes bytes = encode(identity);
  EXPECT_EQ(bytes, bytes_of({4, 3, 0, 0, 0, 0xef, 0xcd, 0xab, 0x89}));
  const auto back = decode_peer_identity(bytes);
  ASSERT_TRUE(back);
  EXPECT_EQ(back->kind, PeerIdentity::Kind::kVsock);
  EXPECT_EQ(back->cid, 3u);
  EXPECT_EQ(back->port, 0x89abcdefu);
}

TEST(PeerIdentity, NothingAndUnknownKindsAreUnknown) {
  EXPECT_TRUE(encode(PeerIdentity{}).empty());
  for (const Bytes& bytes :
       {Bytes{}, bytes_of({0}), bytes_of({5, 1, 2, 3}), Bytes(128, std::byte{0xff})}) {
    const auto identity = decode_peer_identity(bytes);
    ASSERT_TRUE(identity);
    EXPECT_EQ(identity->kind, PeerIdentity::Kind::kUnknown);
  }
}

TEST(PeerIdentity, AKnownKindOfAnotherSizeIsRefused) {
  const std::array<size_t, 5> sizes{0, 13, 7, 19, 9};  // by kind
  for (size_t kind = 1; kind < sizes.size(); ++kind) {
    for (size_t size = 1; size <= 30; ++size) {
      Bytes bytes(size);
      bytes[0] = static_cast<std::byte>(kind);
      EXPECT_EQ(decode_peer_identity(bytes).has_value(), size == sizes[kind])
          << kind << " of " << size;
    }
  }
}

}  // namespace
}  // namespace virtproxy
