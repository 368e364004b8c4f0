// Control messages of a log stream: HELLO and STATE from the sender, WANT, ACK and REJECT from the
// receiver. PROTOCOL.md section 4 specifies them; this is their codec.
//
//   0       4        8      10      12                16 + length
//   +-------+--------+------+-------+---------+-------+-------+
//   | magic | length | type | count | 0       | …     | check |
//   +-------+--------+------+-------+---------+-------+-------+
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/logs/account.h"
#include "core/logs/limits.h"

namespace virtproxy::logs {

inline constexpr uint32_t kMessageMagic = 0x31434c56;  // "VLC1"
inline constexpr size_t kMessageHeaderSize = 16;
inline constexpr size_t kMessageCheckSize = 8;

enum class MessageType : uint16_t { kHello = 1, kState = 2, kWant = 3, kAck = 4, kReject = 5 };

// Where the line is safe that an ACK covers.
enum class AckLevel : uint8_t { kMemory = 1, kSpool = 2, kSink = 3 };

struct HelloSource {
  std::string name;  // at most kMaxName bytes
  Mark acked;        // a receiver has acknowledged what comes before
  Mark start;  // not before `acked`: the first number that the sender still has, dropped or not
  bool operator==(const HelloSource&) const = default;
};

// Begins a log on the stream.
struct Hello {
  uint16_t version = kVersion;
  LogId log;
  LogId boot;  // of the sender's machine; a log does not outlive its sender's start, a boot does
  uint64_t position = 0;  // of the first batch that the sender still has
  std::vector<HelloSource> sources;
  bool operator==(const Hello&) const = default;
};

// How far the sender has numbered its sources, sent when there is nothing else to send.
struct State {
  uint64_t log = 0;
  bool final = false;  // no number follows, and all of them were sent or explained
  std::vector<Mark> marks;
  bool operator==(const State&) const = default;
};

// Answers HELLO: what the receiver needs next.
struct Want {
  uint64_t log = 0;
  bool known = false;  // false: the receiver has no account of this log, and begins one at `acked`
  bool finished = false;  // the log's final STATE is already accounted for
  uint64_t position = 0;
  std::vector<Mark> marks;
  bool operator==(const Want&) const = default;
};

// Everything that lies before `position` is safe as `level` says.
struct Ack {
  uint64_t log = 0;
  uint64_t position = 0;
  AckLevel level = AckLevel::kMemory;
  bool final = false;  // the final STATE and all before it
  bool operator==(const Ack&) const = default;
};

// The sink refuses these lines for good. The receiver has accounted for them as dropped.
struct Reject {
  uint64_t log = 0;
  uint16_t source = 0;
  uint64_t first = 0;
  uint64_t count = 0;
  uint64_t bytes = 0;
  bool operator==(const Reject&) const = default;
};

// Appends the message to `out`. The names of a Hello are cut to kMaxName bytes.
void encode(const Hello& hello, std::vector<std::byte>& out);
void encode(const State& state, std::vector<std::byte>& out);
void encode(const Want& want, std::vector<std::byte>& out);
void encode(const Ack& ack, std::vector<std::byte>& out);
void encode(const Reject& reject, std::vector<std::byte>& out);

// The largest message of all, check included.
inline constexpr size_t kHelloSourceSize = 32 + 1 + kMaxName;
inline constexpr size_t kMaxMessage =
    kMessageHeaderSize + 48 + kMaxSources * kHelloSourceSize + kMessageCheckSize;

struct MessageHeader {
  uint32_t length = 0;  // bytes between header and check
  MessageType type = MessageType::kHello;
  uint16_t count = 0;  // sources

  size_t size() const { return kMessageHeaderSize + length + kMessageCheckSize; }
};

enum class MessageFault : uint8_t {
  kNone,
  kShort,   // more bytes are needed
  kMagic,   // no message begins here
  kType,    // a type that this version does not know
  kLimits,  // a field outside of its limits
  kCheck    // the check does not match
};

// Decodes the first kMessageHeaderSize bytes: type, and that length and count fit it.
MessageFault decode_message_header(std::span<const std::byte> bytes, MessageHeader& header);

// Each decodes a whole message whose header is `header`. kNone, kLimits or kCheck.
MessageFault decode(std::span<const std::byte> bytes, const MessageHeader& header, Hello& hello);
MessageFault decode(std::span<const std::byte> bytes, const MessageHeader& header, State& state);
MessageFault decode(std::span<const std::byte> bytes, const MessageHeader& header, Want& want);
MessageFault decode(std::span<const std::byte> bytes, const MessageHeader& header, Ack& ack);
MessageFault decode(std::span<const std::byte> bytes, const MessageHeader& header, Reject& reject);

}  // namespace virtproxy::logs
