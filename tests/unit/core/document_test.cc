// The examples of core/PROTOCOL.md, made by the code that it describes.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <sstream>

#include "core/peer_identity.h"
#include "core/wire/frame.h"
#include "core/wire/hello.h"
#include "tests/unit/core/pair.h"
#include "tests/unit/core/puppet.h"

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
    hello.wanted = feature::kChecksumTrailer | feature::kReliableReset;
    hello.max_streams = 1024;
    hello.initial_window = 16384;
    hello.max_frame = 65536;
  } else {
    hello.wanted = feature::kReliableReset;
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

std::string metadata() {
  std::string text;
  const auto add = [&](const PeerIdentity& origin) {
    std::byte bytes[kMaxPeerIdentitySize];
    text += hex(std::span(bytes).first(encode_peer_identity(origin, bytes)));
  };
  PeerIdentity origin;
  origin.kind = PeerIdentity::Kind::kIpv4;
  origin.address = {127, 0, 0, 1};
  origin.port = 8080;
  add(origin);
  origin.kind = PeerIdentity::Kind::kIpv6;
  origin.address = {};
  origin.address[15] = 1;
  add(origin);
  origin.kind = PeerIdentity::Kind::kVsock;
  origin.cid = 2;
  origin.port = 1024;
  add(origin);
  return text;
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
  PeerIdentity origin;
  origin.kind = PeerIdentity::Kind::kUnix;
  origin.uid = origin.gid = 1000;
  origin.pid = 4242;
  EXPECT_EQ(encode_peer_identity(origin, open.data() + 8), 13u);
  blocks["open"] = hex(frame(a_to_b, {FrameType::kOpen, true, kStream, 21, 16384}, open));

  Bytes request(7);
  std::memcpy(request.data(), "GET /\r\n", 7);
  blocks["data"] = hex(frame(a_to_b, {FrameType::kData, true, kStream, 7, 0}, request));
  blocks["end"] = hex(frame(a_to_b, {FrameType::kEnd, true, kStream, 0, 7}));
  blocks["done"] = hex(frame(b_to_a, {FrameType::kDone, false, kStream, 0, 7}));
  blocks["reset"] = hex(frame(b_to_a, {FrameType::kReset, false, kStream, 0, 2}));
  blocks["reset-at"] = hex(frame(b_to_a, {FrameType::kResetAt, false, kStream, 0, 12}));
  open.resize(8);
  open[2] = std::byte{0};
  constexpr uint32_t k4096th = stream_number(0, 4096);
  blocks["open-4096"] = hex(frame(a_to_b, {FrameType::kOpen, true, k4096th, 8, 16384}, open));
  blocks["ping"] = hex(frame(a_to_b, {FrameType::kPing, false, 0, 0, 3}));
  blocks["metadata"] = metadata();
  return blocks;
}

// Fenced blocks "```KIND NAME" by their names, as lines; what follows a # is a comment.
using Lines = std::vector<std::string>;
std::map<std::string, Lines> blocks_of(const std::string& kind) {
  std::ifstream document(VIRTPROXY_SOURCE_DIR "/core/PROTOCOL.md");
  EXPECT_TRUE(document);
  const std::string begin = "```" + kind + " ";
  std::map<std::string, Lines> blocks;
  std::string name;
  for (std::string line; std::getline(document, line);) {
    if (line.starts_with(begin)) {
      name = line.substr(begin.size());
    } else if (line.starts_with("```")) {
      name.clear();
    } else if (!name.empty()) {
      line.resize(std::min(line.find('#'), line.size()));
      line.resize(line.find_last_not_of(' ') + 1);
      blocks[name].push_back(line);
    }
  }
  return blocks;
}

TEST(Document, ItsExampleIsWhatTheCodeWrites) {
  const auto written = blocks_of("hex");
  for (const auto& [name, bytes] : example()) {
    const auto found = written.find(name);
    ASSERT_NE(found, written.end()) << name << " should be " << bytes;
    std::string digits;
    for (const std::string& line : found->second) {
      std::copy_if(line.begin(), line.end(), std::back_inserter(digits),
                   [](char c) { return std::isxdigit(static_cast<unsigned char>(c)) != 0; });
    }
    EXPECT_EQ(digits, bytes) << name;
  }
  EXPECT_EQ(written.size(), example().size());
}

// --- conversations ----------------------------------------------------------------------------

struct Line {
  Instant at;
  bool ours;
  std::string greeting;
};

Line line_of(const std::string& text) {
  std::istringstream words(text);
  int64_t time = 0;
  std::string unit;
  std::string who;
  Line line{};
  words >> time >> unit >> who >> std::ws;
  std::getline(words, line.greeting);
  EXPECT_EQ(unit, "ms");
  line.at = seconds(1) + milliseconds(time);
  line.ours = who == "A";
  return line;
}

// The greeting of a line that B writes.
Hello hello_of(const std::string& greeting, const Puppet& puppet) {
  Hello hello = puppet.mine;
  hello.echo = greeting.find("echo a") != std::string::npos ? puppet.hellos.at(0).epoch : 0;
  const size_t versions = greeting.find("versions ");
  if (versions == std::string::npos) return hello;
  std::istringstream words(greeting.substr(versions + 9));
  std::string to;
  words >> hello.version_min >> to >> hello.version_max;
  return hello;
}

std::string text_of(const Hello& hello, const Puppet& puppet) {
  std::string text = hello.epoch == puppet.hellos.at(0).epoch ? "HELLO a" : "HELLO ?";
  text += hello.echo == 0 ? ", echo 0" : hello.echo == puppet.mine.epoch ? ", echo b" : ", echo ?";
  if (hello.probe) text += ", PROBE";
  if (hello.joined) text += ", JOINED, frames " + std::to_string(hello.frames);
  return text;
}

// A writes what the lines say at their time, and nothing before it.
TEST(Document, GreetingsAreWrittenWhenItSays) {
  const auto blocks = blocks_of("greetings");
  EXPECT_EQ(blocks.size(), 3u);
  for (const auto& [name, lines] : blocks) {
    SCOPED_TRACE(name);
    Puppet puppet;
    puppet.session.transport_up(puppet.now);
    size_t heard = 0;
    for (const std::string& text : lines) {
      SCOPED_TRACE(text);
      const Line line = line_of(text);
      if (line.at > puppet.now) {
        puppet.now = line.at - Duration(1);
        puppet.hear();
        ASSERT_EQ(puppet.hellos.size(), heard) << "A greets too early";
        puppet.now = line.at;
      }
      if (!line.ours) {
        puppet.say(hello_bytes(hello_of(line.greeting, puppet)));
        continue;
      }
      puppet.hear();
      ASSERT_EQ(puppet.hellos.size(), ++heard) << "A does not greet";
      EXPECT_EQ(text_of(puppet.hellos.back(), puppet), line.greeting);
    }
    puppet.hear();
    EXPECT_EQ(puppet.hellos.size(), heard) << "A says more";
  }
}

// --- OPEN -------------------------------------------------------------------------------------

const std::map<std::string, Fault> kFaults{{"none", Fault::kNone},
                                           {"BadOpen", Fault::kBadOpen},
                                           {"BadLength", Fault::kBadLength},
                                           {"BadStreamId", Fault::kBadStreamId},
                                           {"StreamInUse", Fault::kStreamInUse}};

TEST(Document, EachFaultOfAnOpenIsTheOneThatItNames) {
  SessionConfig config = config_with(7);
  config.limits = derive_limits(64 << 20, 1024, 4096, 65536);
  const Lines lines = blocks_of("opens")["faults"];
  EXPECT_EQ(lines.size(), 15u);
  for (const std::string& text : lines) {
    SCOPED_TRACE(text);
    std::istringstream words(text);
    std::string field;
    std::string value;
    std::string fault;
    words >> field >> value >> fault;
    Puppet puppet(config);
    puppet.establish();
    std::string service = "http";
    if (field == "name") {
      service.clear();
      for (size_t i = 0; i < value.size(); i += 2) {
        service += static_cast<char>(std::stoi(value.substr(i, 2), nullptr, 16));
      }
    }
    const auto number = field == "name" ? 0 : static_cast<uint32_t>(std::stoul(value));
    if (field == "service") service.assign(number, 's');
    Bytes payload = Puppet::open_payload(service, field == "metadata" ? number : 0);
    if (field == "priority") payload[0] = static_cast<std::byte>(number);
    if (field == "reserved") payload[3] = static_cast<std::byte>(number);
    if (field == "length") payload.resize(number);
    if (field == "excess") payload.resize(payload.size() + number);
    const uint32_t stream = stream_number(field == "slot" ? number : 0,
                                          field == "generation" ? number : 1);
    const FrameHeader header{FrameType::kOpen, true, stream, static_cast<uint32_t>(payload.size()),
                             field == "credit" ? number : 4096};
    if (field == "again") puppet.say(puppet.frame(header, payload));
    puppet.say(puppet.frame(header, payload));
    ASSERT_TRUE(kFaults.contains(fault));
    EXPECT_EQ(puppet.fault(), kFaults.at(fault));
    if (fault != "none") continue;
    const auto opened = puppet.event(Event::Kind::kOpened);
    ASSERT_TRUE(opened);
    EXPECT_EQ(opened->service, service);
  }
}

// Of 4096 streams one after another in slot 0 the last one has the number 0.
TEST(Document, Generation0Follows4095) {
  StreamIds numbers;
  for (uint32_t i = 1; i <= 2 * kGenerations; ++i) {
    const auto number = numbers.take(1);
    ASSERT_TRUE(number);
    EXPECT_EQ(*number, stream_number(0, i));
    EXPECT_EQ(*number == 0, i % kGenerations == 0);
    numbers.release(*number, true);
  }
}

}  // namespace
}  // namespace virtproxy::test
