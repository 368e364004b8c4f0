// The codec of version 1 by hand-written bytes, and the search for a packet's boundary.
#include "core/wire/v1_packet.h"

#include <gtest/gtest.h>

#include "core/wire/hello.h"
#include "tests/unit/core/pair.h"

namespace virtproxy::test {
namespace {

constexpr std::array<uint8_t, 4> kMagic{0x59, 0x40, 0x37, 0x1f};

// Packets as they were in 2010, written without the codec.
Bytes packet(std::initializer_list<uint8_t> head, uint8_t filler = 0) {
  Bytes bytes(kV1PacketSize, static_cast<std::byte>(filler));
  size_t at = 0;
  for (const uint8_t b : head) bytes[at++] = static_cast<std::byte>(b);
  at = 1040;
  for (const uint8_t b : kMagic) bytes[at++] = static_cast<std::byte>(b);
  return bytes;
}

const Bytes kInit = packet({1, 0, 0, 0, 1, 0, 0, 0, 0x40, 0x42, 0x0f, 0, 'h', 't', 't', 'p'});
const Bytes kAck = packet({1, 0, 0, 0, 2, 0, 0, 0, 0x40, 0x42, 0x0f, 0, 0x41, 0x42, 0x0f, 0});
const Bytes kClose = packet({1, 0, 0, 0, 3, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 7, 0, 0, 0});
const Bytes kData = packet({2, 0, 0, 0, 5, 0, 0, 0, 9, 0, 0, 0, 0, 4, 0, 0}, 'x');

Bytes operator+(Bytes left, const Bytes& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

TEST(V1Packet, ControlPacketsAreEncodedByteForByte) {
  Bytes bytes(kV1PacketSize, std::byte{0xaa});
  encode_v1_init(1'000'000, "http", bytes.data());
  EXPECT_EQ(bytes, kInit);
  encode_v1_control(V1Message::kAck, 1'000'000, 1'000'001, bytes.data());
  EXPECT_EQ(bytes, kAck);
  encode_v1_control(V1Message::kClose, -1, 7, bytes.data());
  EXPECT_EQ(bytes, kClose);
}

TEST(V1Packet, ServiceTakesAtMost31CharactersAndANul) {
  Bytes bytes(kV1PacketSize);
  const std::string name(31, 'n');
  encode_v1_init(5, name, bytes.data());
  EXPECT_EQ(bytes[12 + 31], std::byte{0});
  EXPECT_EQ(v1_service(bytes.data()), name);
  bytes[12 + 31] = std::byte{'n'};
  EXPECT_FALSE(v1_service(bytes.data()));
  encode_v1_init(5, "", bytes.data());
  EXPECT_FALSE(v1_service(bytes.data()));
}

TEST(V1Packet, DataIsFramedByHeadAndTail) {
  for (const uint32_t size : {1u, 5u, 1023u, 1024u}) {
    Bytes bytes(kV1DataHead);
    encode_v1_data_head(V1Type::kServer, 3, 1'000'000, size, bytes.data());
    bytes.resize(bytes.size() + size, std::byte{'d'});
    Bytes tail(v1_tail_size(size), std::byte{0xaa});
    encode_v1_tail(tail);
    bytes = bytes + tail;
    ASSERT_EQ(bytes.size(), kV1PacketSize);
    EXPECT_TRUE(has_v1_magic(bytes.data()));
    const V1Head head = decode_v1_head(bytes.data());
    EXPECT_TRUE(head.is_data());
    EXPECT_EQ(head.data_client(), 3);
    EXPECT_EQ(head.data_server(), 1'000'000);
    EXPECT_EQ(head.bytes(), static_cast<int32_t>(size));
    for (size_t i = kV1DataHead + size; i < 1040; ++i) ASSERT_EQ(bytes[i], std::byte{0});
  }
}

TEST(V1Packet, NegativeNumbersAreRead) {
  const V1Head head = decode_v1_head(kClose.data());
  EXPECT_TRUE(head.is_control());
  EXPECT_EQ(head.control_client(), -1);
  EXPECT_EQ(head.control_server(), 7);
}

TEST(V1Search, ControlPacketIsProvenAloneWhereverItLies) {
  for (const Bytes* one : {&kInit, &kAck, &kClose}) {
    for (const size_t before : {0, 1, 3, 4, 1043, 1044, 5000}) {
      const Bytes bytes = Bytes(before, std::byte{0x77}) + *one;
      const V1Search search = find_v1_packet(bytes);
      EXPECT_TRUE(search.found);
      EXPECT_EQ(search.at, before);
    }
  }
}

TEST(V1Search, GreetingIsProvenAlone) {
  Hello hello;
  hello.epoch = 1;
  hello.max_streams = 1;
  hello.initial_window = 4096;
  hello.max_frame = 4096;
  const V1Search search = find_v1_packet(Bytes(17, std::byte{1}) + hello_bytes(hello));
  EXPECT_TRUE(search.found);
  EXPECT_EQ(search.at, 17u);
}

// Or a question after a stray byte would wait for whoever speaks next.
TEST(V1Search, ShortDataIsProvenByTheZerosAfterIt) {
  const Bytes noise(100, std::byte{0x33});
  const auto head = [](int bytes) {
    return packet({2, 0, 0, 0, 5, 0, 0, 0, 9, 0, 0, 0, static_cast<uint8_t>(bytes),
                   static_cast<uint8_t>(bytes >> 8), 0, 0});
  };
  for (const int bytes : {1, 500, 960}) {
    const V1Search search = find_v1_packet(noise + head(bytes));
    EXPECT_TRUE(search.found) << bytes;
    EXPECT_EQ(search.at, 100u);
  }
  EXPECT_FALSE(find_v1_packet(noise + head(961)).found) << "few zeros may be chance";
  EXPECT_FALSE(find_v1_packet(noise + head(0)).found);
  Bytes odd = head(500);
  odd[1039] = std::byte{1};
  EXPECT_FALSE(find_v1_packet(noise + odd).found);
}

TEST(V1Search, DataNeedsAMagicBeforeOrASecondPacket) {
  const Bytes noise(100, std::byte{0x33});
  V1Search search = find_v1_packet(noise + kData);
  EXPECT_FALSE(search.found);
  EXPECT_LE(search.at, 100u) << "it may be one yet";
  search = find_v1_packet(noise + kData + kData);
  EXPECT_TRUE(search.found);
  EXPECT_EQ(search.at, 100u);
  const Bytes magic(kData.end() - 4, kData.end());
  search = find_v1_packet(noise + magic + kData);
  EXPECT_TRUE(search.found);
  EXPECT_EQ(search.at, 104u);
  // Two magics at the right distance around something that is no packet.
  Bytes insane = kData;
  insane[13] = std::byte{5};  // 1280 bytes
  search = find_v1_packet(noise + magic + insane + Bytes(3000, std::byte{0}));
  EXPECT_FALSE(search.found);
}

TEST(V1Search, ControlPacketWithAnUnusedByteSetIsNotProvenAlone) {
  Bytes odd = kAck;
  odd[500] = std::byte{1};
  EXPECT_FALSE(find_v1_packet(odd).found);
  EXPECT_TRUE(find_v1_packet(odd + kAck).found);
}

TEST(V1Search, KeepsNoMoreThanItNeedsAndLosesNothing) {
  Random random(5);
  for (int round = 0; round < 300; ++round) {
    Bytes bytes(below(random, 4000));
    for (std::byte& b : bytes) b = static_cast<std::byte>(random());
    const size_t at = bytes.size();
    bytes = bytes + kData + kInit;
    // Fed in pieces: what a search gives up is never part of the first packet.
    size_t used = 0;
    size_t fed = 0;
    for (;;) {
      const V1Search search = find_v1_packet(std::span(bytes).subspan(used, fed - used));
      used += search.at;
      if (search.found) break;
      ASSERT_LE(fed - used, kV1SearchKeeps);
      ASSERT_LT(fed, bytes.size()) << "never found";
      fed = std::min(bytes.size(), fed + 1 + below(random, 700));
    }
    ASSERT_EQ(used, at);
  }
}

TEST(V1Search, HostileBytesCostNoMoreThanHonestOnes) {
  // Every possible head and magic: the search stays linear, or this would take minutes.
  Bytes bytes;
  for (int i = 0; i < 60'000; ++i) {
    for (const uint8_t b : kMagic) bytes.push_back(static_cast<std::byte>(b));
    for (const int b : {1, 0, 0, 0, 2, 0, 0, 0}) bytes.push_back(static_cast<std::byte>(b));
  }
  size_t used = 0;
  for (int i = 0; i < 1000; ++i)
    used += find_v1_packet(std::span(bytes).subspan(static_cast<size_t>(i))).at;
  EXPECT_GT(used, 0u);
}

}  // namespace
}  // namespace virtproxy::test
