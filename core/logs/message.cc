#include "core/logs/message.h"

#include <algorithm>
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/wire/little_endian.h"

namespace virtproxy::logs {
namespace {

constexpr size_t kHelloFixed = 48;
constexpr size_t kStateFixed = 16;
constexpr size_t kWantFixed = 24;
constexpr size_t kAckFixed = 24;
constexpr size_t kRejectFixed = 40;
constexpr size_t kMarkSize = 16;

constexpr uint32_t kFinal = 1;
constexpr uint32_t kKnown = 1;
constexpr uint32_t kFinished = 2;

// Writes one message: the fields in their order, then the check.
class Writer {
 public:
  Writer(MessageType type, size_t count, size_t length, std::vector<std::byte>& out)
      : out_(out), begin_(out.size()) {
    out.resize(begin_ + kMessageHeaderSize + length + kMessageCheckSize);
    at_ = out.data() + begin_;
    put(kMessageMagic);
    put(static_cast<uint32_t>(length));
    put(static_cast<uint16_t>(type));
    put(static_cast<uint16_t>(count));
    put(uint32_t{0});
  }
  ~Writer() {
    const size_t covered = out_.size() - begin_ - kMessageCheckSize;
    put<uint64_t>(XXH3_64bits(out_.data() + begin_, covered));
  }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  template <typename T>
  void put(T value) {
    store_le(at_, value);
    at_ += sizeof value;
  }
  void put(const Mark& mark) {
    put(mark.seq);
    put(mark.bytes);
  }
  void put(const LogId& id) {
    put(id.low);
    put(id.high);
  }
  void put_name(const std::string& name) {
    const size_t size = std::min(name.size(), kMaxName);
    put(static_cast<uint8_t>(size));
    if (size > 0) std::memcpy(at_, name.data(), size);
    at_ += kMaxName;
  }

 private:
  std::vector<std::byte>& out_;
  size_t begin_;
  std::byte* at_;
};

// Reads fields of a message whose length was judged with its header.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : at_(bytes.data() + kMessageHeaderSize) {}

  template <typename T>
  T get() {
    const T value = load_le<T>(at_);
    at_ += sizeof value;
    return value;
  }
  LogId id() {
    const auto low = get<uint64_t>();
    return {low, get<uint64_t>()};
  }
  uint64_t number() {
    const auto value = get<uint64_t>();
    sane_ = sane_ && value < kMaxNumber;
    return value;
  }
  Mark mark() {
    const uint64_t seq = number();
    return {seq, number()};
  }
  // Reserved bits are refused.
  uint32_t flags(uint32_t known) {
    const auto value = get<uint32_t>();
    sane_ = sane_ && (value & ~known) == 0;
    return value;
  }
  void zero() { sane_ = sane_ && get<uint32_t>() == 0; }
  std::string name() {
    const auto size = get<uint8_t>();
    std::string text(reinterpret_cast<const char*>(at_), kMaxName);
    at_ += kMaxName;
    sane_ = sane_ && size <= kMaxName && text.find_first_not_of('\0', size) == std::string::npos;
    text.resize(std::min<size_t>(size, kMaxName));
    return text;
  }
  std::vector<Mark> marks(size_t count) {
    std::vector<Mark> all(count);
    for (Mark& one : all) one = mark();
    return all;
  }
  void require(bool condition) { sane_ = sane_ && condition; }
  MessageFault fault() const { return sane_ ? MessageFault::kNone : MessageFault::kLimits; }

 private:
  const std::byte* at_;
  bool sane_ = true;
};

bool check_matches(std::span<const std::byte> bytes, const MessageHeader& header) {
  const size_t covered = kMessageHeaderSize + header.length;
  return load_le<uint64_t>(bytes.data() + covered) == XXH3_64bits(bytes.data(), covered);
}

}  // namespace

void encode(const Hello& hello, std::vector<std::byte>& out) {
  const size_t count = hello.sources.size();
  Writer writer(MessageType::kHello, count, kHelloFixed + count * kHelloSourceSize, out);
  writer.put(hello.version);
  writer.put(uint16_t{0});
  writer.put(uint32_t{0});
  writer.put(hello.log);
  writer.put(hello.boot);
  writer.put(hello.position);
  for (const HelloSource& source : hello.sources) {
    writer.put(source.acked);
    writer.put(source.start);
    writer.put_name(source.name);
  }
}

void encode(const State& state, std::vector<std::byte>& out) {
  const size_t count = state.marks.size();
  Writer writer(MessageType::kState, count, kStateFixed + count * kMarkSize, out);
  writer.put(state.log);
  writer.put(state.final ? kFinal : 0u);
  writer.put(uint32_t{0});
  for (const Mark& mark : state.marks) writer.put(mark);
}

void encode(const Want& want, std::vector<std::byte>& out) {
  const size_t count = want.marks.size();
  Writer writer(MessageType::kWant, count, kWantFixed + count * kMarkSize, out);
  writer.put(want.log);
  writer.put((want.known ? kKnown : 0u) | (want.finished ? kFinished : 0u));
  writer.put(uint32_t{0});
  writer.put(want.position);
  for (const Mark& mark : want.marks) writer.put(mark);
}

void encode(const Ack& ack, std::vector<std::byte>& out) {
  Writer writer(MessageType::kAck, 0, kAckFixed, out);
  writer.put(ack.log);
  writer.put(ack.position);
  writer.put(static_cast<uint32_t>(ack.level));
  writer.put(ack.final ? kFinal : 0u);
}

void encode(const Reject& reject, std::vector<std::byte>& out) {
  Writer writer(MessageType::kReject, 0, kRejectFixed, out);
  writer.put(reject.log);
  writer.put(uint32_t{reject.source});
  writer.put(uint32_t{0});
  writer.put(reject.first);
  writer.put(reject.count);
  writer.put(reject.bytes);
}

MessageFault decode_message_header(std::span<const std::byte> bytes, MessageHeader& header) {
  if (bytes.size() < kMessageHeaderSize) return MessageFault::kShort;
  if (load_le<uint32_t>(bytes.data()) != kMessageMagic) return MessageFault::kMagic;
  header.length = load_le<uint32_t>(bytes.data() + 4);
  header.type = static_cast<MessageType>(load_le<uint16_t>(bytes.data() + 8));
  header.count = load_le<uint16_t>(bytes.data() + 10);
  size_t length = 0;
  switch (header.type) {
    case MessageType::kHello:
      length = kHelloFixed + header.count * kHelloSourceSize;
      break;
    case MessageType::kState:
      length = kStateFixed + header.count * kMarkSize;
      break;
    case MessageType::kWant:
      length = kWantFixed + header.count * kMarkSize;
      break;
    case MessageType::kAck:
      length = kAckFixed;
      break;
    case MessageType::kReject:
      length = kRejectFixed;
      break;
    default:
      return MessageFault::kType;
  }
  const bool has_sources = header.type != MessageType::kAck && header.type != MessageType::kReject;
  const bool sane = header.count <= kMaxSources && has_sources == (header.count > 0) &&
                    header.length == length && load_le<uint32_t>(bytes.data() + 12) == 0;
  return sane ? MessageFault::kNone : MessageFault::kLimits;
}

MessageFault decode(std::span<const std::byte> bytes, const MessageHeader& header, Hello& hello) {
  if (!check_matches(bytes, header)) return MessageFault::kCheck;
  Reader reader(bytes);
  hello.version = reader.get<uint16_t>();
  reader.require(hello.version > 0 && reader.get<uint16_t>() == 0);
  reader.zero();
  hello.log = reader.id();
  hello.boot = reader.id();
  hello.position = reader.number();
  hello.sources.clear();
  for (size_t i = 0; i < header.count; ++i) {
    HelloSource source;
    source.acked = reader.mark();
    source.start = reader.mark();
    source.name = reader.name();
    reader.require(in_order(source.acked, source.start));
    hello.sources.push_back(std::move(source));
  }
  return reader.fault();
}

MessageFault decode(std::span<const std::byte> bytes, const MessageHeader& header, State& state) {
  if (!check_matches(bytes, header)) return MessageFault::kCheck;
  Reader reader(bytes);
  state.log = reader.get<uint64_t>();
  state.final = (reader.flags(kFinal) & kFinal) != 0;
  reader.zero();
  state.marks = reader.marks(header.count);
  return reader.fault();
}

MessageFault decode(std::span<const std::byte> bytes, const MessageHeader& header, Want& want) {
  if (!check_matches(bytes, header)) return MessageFault::kCheck;
  Reader reader(bytes);
  want.log = reader.get<uint64_t>();
  const uint32_t flags = reader.flags(kKnown | kFinished);
  want.known = (flags & kKnown) != 0;
  want.finished = (flags & kFinished) != 0;
  reader.zero();
  want.position = reader.number();
  want.marks = reader.marks(header.count);
  return reader.fault();
}

MessageFault decode(std::span<const std::byte> bytes, const MessageHeader& header, Ack& ack) {
  if (!check_matches(bytes, header)) return MessageFault::kCheck;
  Reader reader(bytes);
  ack.log = reader.get<uint64_t>();
  ack.position = reader.number();
  const auto level = reader.get<uint32_t>();
  reader.require(level >= static_cast<uint32_t>(AckLevel::kMemory) &&
                 level <= static_cast<uint32_t>(AckLevel::kSink));
  ack.level = static_cast<AckLevel>(level);
  ack.final = (reader.flags(kFinal) & kFinal) != 0;
  return reader.fault();
}

MessageFault decode(std::span<const std::byte> bytes, const MessageHeader& header, Reject& reject) {
  if (!check_matches(bytes, header)) return MessageFault::kCheck;
  Reader reader(bytes);
  reject.log = reader.get<uint64_t>();
  const auto source = reader.get<uint32_t>();
  reader.require(source < kMaxSources);
  reject.source = static_cast<uint16_t>(source);
  reader.zero();
  reject.first = reader.number();
  reject.count = reader.number();
  reject.bytes = reader.number();
  return reader.fault();
}

}  // namespace virtproxy::logs
