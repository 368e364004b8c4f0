#include "core/wire/frame.h"

#include <gtest/gtest.h>

#include <array>
#include <random>

#include "core/wire/little_endian.h"

namespace virtproxy {
namespace {

using Header = std::array<std::byte, kHeaderSize>;

const DirectionKey kKey = direction_key(0x0102030405060708, 0x1112131415161718);

FrameHeader random_header(std::mt19937_64& random) {
  FrameHeader header;
  header.type = static_cast<FrameType>(0x10 + random() % 10);
  header.opened_by_sender = random() % 2 != 0;
  header.stream = static_cast<uint32_t>(random());
  header.length = static_cast<uint32_t>(random());
  header.argument = random();
  return header;
}

TEST(Frame, HeaderSurvivesTheRoundTrip) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 1000; ++i) {
    const FrameHeader header = random_header(random);
    Header wire;
    encode_header(header, kKey, wire.data());
    FrameHeader decoded;
    ASSERT_EQ(decode_header(wire.data(), kKey, decoded), Fault::kNone);
    EXPECT_EQ(decoded, header);
  }
}

TEST(Frame, EverySingleBitFlipOfAHeaderIsRefused) {
  std::mt19937_64 random(2);
  for (int i = 0; i < 50; ++i) {
    Header wire;
    encode_header(random_header(random), kKey, wire.data());
    for (size_t bit = 0; bit < kHeaderSize * 8; ++bit) {
      wire[bit / 8] ^= std::byte{1} << (bit % 8);
      FrameHeader decoded;
      EXPECT_EQ(decode_header(wire.data(), kKey, decoded), Fault::kBadHeader) << bit;
      wire[bit / 8] ^= std::byte{1} << (bit % 8);
    }
  }
}

TEST(Frame, HeaderOfAnotherSessionOrDirectionIsRefused) {
  Header wire;
  encode_header({FrameType::kPing, false, 0, 0, 5}, direction_key(1, 2), wire.data());
  FrameHeader decoded;
  EXPECT_EQ(decode_header(wire.data(), direction_key(2, 1), decoded), Fault::kBadHeader);
  EXPECT_EQ(decode_header(wire.data(), direction_key(1, 3), decoded), Fault::kBadHeader);
  EXPECT_EQ(decode_header(wire.data(), direction_key(1, 2), decoded), Fault::kNone);
}

TEST(Frame, ValidCheckOverAnUnknownTypeNamesTheType) {
  for (int type = 0; type < 256; ++type) {
    Header wire;
    encode_header({static_cast<FrameType>(type), false, 0, 0, 0}, kKey, wire.data());
    FrameHeader decoded;
    const bool known = type >= 0x10 && type <= 0x1a;
    EXPECT_EQ(decode_header(wire.data(), kKey, decoded),
              known ? Fault::kNone : Fault::kUnknownFrame)
        << type;
  }
}

TEST(Frame, ChecksumTrailerSeesEveryBitAndCommitTrailerOnlyTheHeader) {
  std::vector<std::byte> frame(kHeaderSize + 100, std::byte{0x5a});
  encode_header({FrameType::kData, true, 3, 100, 0}, kKey, frame.data());
  const uint64_t checksum = frame_trailer(TrailerKind::kChecksum, frame, kKey);
  const uint64_t commit = frame_trailer(TrailerKind::kCommit, frame, kKey);
  EXPECT_NE(checksum, commit);
  for (size_t bit = 0; bit < frame.size() * 8; ++bit) {
    frame[bit / 8] ^= std::byte{1} << (bit % 8);
    EXPECT_NE(frame_trailer(TrailerKind::kChecksum, frame, kKey), checksum) << bit;
    const bool in_header = bit / 8 < kHeaderSize;
    EXPECT_EQ(frame_trailer(TrailerKind::kCommit, frame, kKey) != commit, in_header) << bit;
    frame[bit / 8] ^= std::byte{1} << (bit % 8);
  }
}

TEST(Frame, StreamNumberIsSlotAndGeneration) {
  EXPECT_EQ(stream_number(5, 1), 5u | 1u << 20);
  EXPECT_EQ(slot_of(stream_number(kMaxSlots - 1, 4095)), kMaxSlots - 1);
  EXPECT_EQ(generation_of(stream_number(7, 4097)), 1u);
}

TEST(Fault, EveryWireCodeHasARowAndUnknownOnesAreAborts) {
  for (uint64_t code = 1; code <= 10; ++code) {
    const Fault fault = fault_from_reset_code(code);
    EXPECT_EQ(static_cast<uint64_t>(fault), code);
    EXPECT_EQ(fault_row(fault).fault, fault);
    EXPECT_EQ(fault_row(fault).scope, FaultScope::kStream);
  }
  EXPECT_EQ(fault_from_reset_code(0), Fault::kAborted);
  EXPECT_EQ(fault_from_reset_code(11), Fault::kAborted);
  EXPECT_EQ(fault_from_reset_code(UINT64_MAX), Fault::kAborted);
  for (int f = 64; f <= static_cast<int>(Fault::kUpgraded); ++f) {
    EXPECT_EQ(fault_row(static_cast<Fault>(f)).fault, static_cast<Fault>(f));
    EXPECT_EQ(fault_row(static_cast<Fault>(f)).scope, FaultScope::kSession);
  }
}

}  // namespace
}  // namespace virtproxy
