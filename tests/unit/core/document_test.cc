// The worked example of core/PROTOCOL.md, made by the code that it describes.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <sstream>

#include "core/frame.h"
#include "core/hello.h"
#include "core/origin.h"
#include "tests/unit/core/pair.h"

namespace virtproxy::test {
namespace {

constexpr uint64_t kA = 0x1122334455667788;
constexpr uint64_t kB = 0x99aabbccddeeff01;
constexpr uint32_t kStream = stream_number(0, 1);

std::string hex(std::span<const std::byte> bytes) {
  std::string text;
  for (const std::byte b : bytes) {
    constexpr char kDigits[] = "0123456789abcdef";
    text += kDigits[static_cast<int>(b) >> 4];
    text += kDigits[static_cast<int>(b) & 15];
  }
  return text;
}

Hello hello_of(uint64_t epoch, uint64_t echo) {
  Hello hello;
  hello.epoch = epoch;
  hello.echo = echo;
  if (epoch == kA) {
    hello.wanted = feature::kChecksumTrailer;
    hello.max_streams = 1024;
    hello.initial_window = 16384;
    hello.max_frame = 65536;
  } else {
    hello.max_streams = 256;
    hello.initial_window = 4096;
    hello.max_frame = 32768;
  }
  return hello;
}

Bytes frame(DirectionKey key, const FrameHeader& header, std::span<const std::byte> payload = {}) {
  Bytes bytes(kHeaderSize);
  encode_header(header, key, bytes.data());
  if (payload.empty()) return bytes;
  bytes.insert(bytes.end(), payload.begin(), payload.end());
  const uint64_t trailer = frame_trailer(TrailerKind::kChecksum, bytes, key);
  bytes.resize(bytes.size() + kTrailerSize);
  store_le(bytes.data() + bytes.size() - kTrailerSize, trailer);
  return bytes;
}

std::map<std::string, std::string> example() {
  std::map<std::string, std::string> blocks;
  const auto add_hello = [&](const std::string& name, const Hello& hello) {
    const Bytes bytes = hello_bytes(hello);
    EXPECT_EQ(hex(std::span(bytes).subspan(80, 1032 - 80)), std::string(2 * (1032 - 80), '0'));
    blocks[name] = hex(std::span(bytes).first(80)) + hex(std::span(bytes).last(12));
  };
  add_hello("hello-1", hello_of(kA, 0));
  add_hello("hello-2", hello_of(kB, kA));
  Hello answer = hello_of(kA, kB);
  answer.joined = true;
  add_hello("hello-3", answer);

  const DirectionKey a_to_b = direction_key(kA, kB);
  const DirectionKey b_to_a = direction_key(kB, kA);
  Bytes keys(16);
  store_le(keys.data(), a_to_b.value);
  store_le(keys.data() + 8, b_to_a.value);
  blocks["keys"] = hex(keys);

  Bytes open(8 + 13);
  open[0] = std::byte{1};
  open[1] = std::byte{4};
  open[2] = std::byte{13};
  std::memcpy(open.data() + 4, "http", 4);
  Origin origin;
  origin.kind = Origin::Kind::kUnix;
  origin.uid = origin.gid = 1000;
  origin.pid = 4242;
  EXPECT_EQ(encode_origin(origin, open.data() + 8), 13u);
  blocks["open"] = hex(frame(a_to_b, {FrameType::kOpen, true, kStream, 21, 16384}, open));

  Bytes request(7);
  std::memcpy(request.data(), "GET /\r\n", 7);
  blocks["data"] = hex(frame(a_to_b, {FrameType::kData, true, kStream, 7, 0}, request));
  blocks["end"] = hex(frame(a_to_b, {FrameType::kEnd, true, kStream, 0, 7}));
  blocks["done"] = hex(frame(b_to_a, {FrameType::kDone, false, kStream, 0, 7}));
  blocks["reset"] = hex(frame(b_to_a, {FrameType::kReset, false, kStream, 0, 2}));
  blocks["ping"] = hex(frame(a_to_b, {FrameType::kPing, false, 0, 0, 3}));
  return blocks;
}

// Fenced blocks "```hex NAME"; what follows a # is a comment.
std::map<std::string, std::string> blocks_of(std::istream& document) {
  std::map<std::string, std::string> blocks;
  std::string name;
  for (std::string line; std::getline(document, line);) {
    if (line.starts_with("```hex ")) {
      name = line.substr(7);
    } else if (line.starts_with("```")) {
      name.clear();
    } else if (!name.empty()) {
      for (const char c : line.substr(0, line.find('#'))) {
        if (std::isxdigit(static_cast<unsigned char>(c)) != 0) blocks[name] += c;
      }
    }
  }
  return blocks;
}

TEST(Document, ItsExampleIsWhatTheCodeWrites) {
  const std::string here = __FILE__;
  const size_t tests = here.rfind("tests/unit/core/");
  ASSERT_NE(tests, std::string::npos);
  std::ifstream document(here.substr(0, tests) + "core/PROTOCOL.md");
  ASSERT_TRUE(document);
  const auto written = blocks_of(document);
  for (const auto& [name, bytes] : example()) {
    const auto found = written.find(name);
    ASSERT_NE(found, written.end()) << name << " should be " << bytes;
    EXPECT_EQ(found->second, bytes) << name;
  }
  EXPECT_EQ(written.size(), example().size());
}

}  // namespace
}  // namespace virtproxy::test
