// A peer that has greeted and then says anything: frames with a right check and arbitrary content,
// raw bytes, and whatever the driver may do in between. Oracles are the assertions of the core, the
// credit that the session granted, and the sanitizers.

#include <cstdint>
#include <map>
#include <vector>

#include "core/assert.h"
#include "core/hello.h"
#include "core/session_v2.h"

using namespace virtproxy;

namespace {

constexpr uint64_t kPeerEpoch = 0x1234567890abcdef;
constexpr uint64_t kBudget = 1u << 20;

class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  bool empty() const { return size_ == 0; }
  uint64_t number(size_t bytes) {
    uint64_t value = 0;
    for (size_t i = 0; i < bytes && size_ > 0; ++i, ++data_, --size_) {
      value |= uint64_t{*data_} << (8 * i);
    }
    return value;
  }

 private:
  const uint8_t* data_;
  size_t size_;
};

struct Held {
  uint64_t bytes = 0;
  bool ended = false;
  bool finished = false;
};

class World {
 public:
  World() : session_(config()) {
    session_.link_up(now_);
    greet();
  }

  void step(Input& in) {
    now_ += Duration(1000 * in.number(1));
    switch (in.number(1) % 8) {
      case 0:
      case 1:
      case 2:
        return send_frame(in);
      case 3:
        return send_raw(in);
      case 4:
        return drive(in);
      case 5:
        session_.plan(1 + in.number(2), now_, events_);
        return react();
      case 6:
        session_.tick(now_, events_);
        return react();
      default:
        if (!session_.up()) greet();
    }
  }

 private:
  static SessionConfig config() {
    SessionConfig config;
    config.limits = derive_limits(kBudget, 16, 65536, 4096);
    config.secret = 1;
    return config;
  }

  // Reads the session's greeting from what it writes and answers it.
  void greet() {
    const std::optional<Instant> due = session_.deadline();
    if (due) now_ = std::max(now_, *due);
    const Batch& batch = session_.plan(65536, now_, events_);
    if (batch.heads.size() < kHelloSize) return;
    const auto theirs = decode_hello(batch.heads.data());
    VP_ASSERT(theirs);
    Hello hello;
    hello.epoch = kPeerEpoch + ++greetings_;
    hello.echo = theirs->epoch;
    hello.max_streams = 16;
    hello.initial_window = 4096;
    hello.max_frame = 4096;
    key_ = direction_key(hello.epoch, theirs->epoch);
    std::byte bytes[kHelloSize];
    encode_hello(hello, bytes);
    give(bytes);
  }

  void send_frame(Input& in) {
    FrameHeader header;
    header.type = static_cast<FrameType>(0x10 + in.number(1) % 10);
    header.opened_by_sender = in.number(1) % 2 == 0;
    header.stream = stream_number(static_cast<uint32_t>(in.number(1) % 4),
                                  static_cast<uint32_t>(in.number(1) % 4));
    header.length = static_cast<uint32_t>(in.number(2) % 5000);
    header.argument = in.number(1 + in.number(1) % 8);
    std::vector<std::byte> bytes(kHeaderSize + header.length);
    encode_header(header, key_, bytes.data());
    if (header.type == FrameType::kOpen && header.length > 8) {
      bytes[kHeaderSize + 1] = static_cast<std::byte>(4);
      bytes[kHeaderSize + 2] = static_cast<std::byte>(header.length - 8);
    }
    give(bytes);
  }

  void send_raw(Input& in) {
    std::vector<std::byte> bytes(in.number(1));
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(in.number(1));
    give(bytes);
  }

  void drive(Input& in) {
    const uint64_t what = in.number(1) % 6;
    if (what == 0) {
      if (const auto key = session_.open("service", Priority::kNormal, {}))
        streams_[key->slot] = {*key, {}};
      return;
    }
    if (streams_.empty()) return;
    auto at = streams_.begin();
    std::advance(at, static_cast<long>(in.number(1) % streams_.size()));
    auto& [key, held] = at->second;
    const StreamKey stream = key;
    if (what == 1 && !held.finished) {
      const uint64_t bytes = std::min<uint64_t>(in.number(2), session_.credit(stream));
      if (bytes > 0) session_.queue(stream, bytes);
    } else if (what == 2 && !held.finished) {
      held.finished = true;
      session_.end(stream);
    } else if (what == 3) {
      streams_.erase(at);
      session_.reset(stream, Fault::kAborted, events_);
    } else if (what == 4 && held.bytes > 0) {
      const uint64_t bytes = 1 + in.number(2) % held.bytes;
      held.bytes -= bytes;
      session_.taken(stream, bytes);
    } else if (what == 5 && held.ended && held.bytes == 0) {
      held.ended = false;
      session_.delivered(stream, events_);
    }
    react();
  }

  void give(std::span<const std::byte> bytes) {
    pending_.insert(pending_.end(), bytes.begin(), bytes.end());
    const size_t used = session_.input(pending_, now_, events_);
    VP_ASSERT(used <= pending_.size());
    react();
    pending_.erase(pending_.begin(), pending_.begin() + static_cast<ptrdiff_t>(used));
    VP_ASSERT(pending_.size() <= kHelloSize + 4096 + 64);
  }

  void react() {
    for (const Event& event : events_) {
      const auto at = streams_.find(event.stream.slot);
      const bool known = at != streams_.end() && at->second.first == event.stream;
      switch (event.kind) {
        case Event::Kind::kDown:
          streams_.clear();
          break;
        case Event::Kind::kOpened:
          streams_[event.stream.slot] = {event.stream, {}};
          break;
        case Event::Kind::kData:
          if (known) at->second.second.bytes += event.bytes.size();
          break;
        case Event::Kind::kEnd:
          if (known) at->second.second.ended = true;
          break;
        case Event::Kind::kReset:
        case Event::Kind::kClosed:
          if (known) streams_.erase(at);
          break;
        default:
          break;
      }
    }
    events_.clear();
    uint64_t held = 0;
    for (const auto& [slot, stream] : streams_) held += stream.second.bytes;
    VP_ASSERT(held <= kBudget);
    VP_ASSERT(streams_.size() <= 16);
  }

  Instant now_{1};
  SessionV2 session_;
  Events events_;
  DirectionKey key_;
  uint64_t greetings_ = 0;
  std::vector<std::byte> pending_;
  std::map<uint32_t, std::pair<StreamKey, Held>> streams_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input in(data, size);
  World world;
  while (!in.empty()) world.step(in);
  return 0;
}
