// A peer of one session that says what the input tells it to: greetings and frames whose checks are
// right and whose contents are anything, and raw bytes.
#pragma once

#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "core/assert.h"
#include "core/v2/session.h"
#include "core/wire/frame.h"
#include "core/wire/hello.h"
#include "core/wire/little_endian.h"
#include "tests/fuzz/input.h"

namespace virtproxy::fuzz {

using Bytes = std::vector<std::byte>;

inline constexpr uint64_t kBudget = 64 << 10;
inline constexpr uint32_t kStreams = 16;
inline constexpr uint32_t kFrame = 1024;

inline SessionConfig small_config(uint64_t features) {
  SessionConfig config;
  config.limits = derive_limits(kBudget, kStreams, 65536, kFrame);
  config.wanted_features = features & feature::kAll;
  config.epoch_key = {1, 0};
  return config;
}

class Peer {
 public:
  // What the session's last greeting said, from the bytes that it wrote.
  void hear(const Batch& batch) {
    std::span<const std::byte> rest = batch.heads;
    for (;;) {
      const HelloSearch search = find_hello(rest);
      if (!search.hello) return;
      if (!search.hello->probe) theirs_ = search.hello;
      if (search.hello->probe) probe_ = search.hello;
      rest = rest.subspan(search.at + kHelloSize);
    }
  }
  bool heard() const { return theirs_.has_value(); }

  // A greeting that establishes a session, with a new epoch.
  Bytes greet() {
    epoch_ += 0x9e3779b97f4a7c15;
    return say(greeting());
  }

  // Any valid greeting.
  Bytes greeting(Input& in) {
    Hello hello = greeting();
    const uint64_t what = in.number(1);
    if ((what & 1) != 0) hello.echo = in.number(2);
    if ((what & 2) != 0) hello.epoch = 1 + in.number(1);
    if ((what & 4) != 0) hello.probe = true;
    if ((what & 8) != 0) hello.joined = true;
    if ((what & 16) != 0) hello.frames = in.number(1);
    if ((what & 32) != 0) hello.version_max = static_cast<uint16_t>(2 + in.number(1));
    if ((what & 64) != 0)
      hello.max_frame = protocol_limits::kMinFrame + static_cast<uint32_t>(in.number(2));
    // As the answer to a question.
    if ((what & 128) != 0 && probe_) {
      hello.epoch = probe_->echo;
      hello.echo = probe_->epoch;
    }
    hello.wanted = in.number(1) % 8;
    return say(hello);
  }

  // Any frame with a right check and trailer. Unless the input says otherwise, its argument is one
  // that makes sense.
  Bytes frame(Input& in, bool has_trailer, bool checksum) {
    FrameHeader header;
    const uint64_t what = in.number(1);
    header.type = static_cast<FrameType>(0x10 + (what & 15));
    header.opened_by_sender = (what & 16) != 0;
    const uint64_t number = in.number(1);
    header.stream =
        stream_number(static_cast<uint32_t>(number % 4), static_cast<uint32_t>(number / 4 % 16));
    if ((what & 32) != 0) header.length = static_cast<uint32_t>(in.number(2) % (kFrame + 100));
    if (header.type == FrameType::kOpen) header.length = 5 + static_cast<uint32_t>(number / 64);
    header.argument = argument_of(header);
    if ((what & 64) != 0) header.argument = in.number(1 + in.number(1) % 8);
    Bytes bytes(kHeaderSize + header.length);
    encode_header(header, key_, bytes.data());
    if (header.type == FrameType::kOpen) {
      bytes[kHeaderSize + 1] = std::byte{1};
      bytes[kHeaderSize + 2] = static_cast<std::byte>(header.length - 5);
    }
    if ((what & 128) != 0) {
      const auto payload = in.bytes(header.length);
      std::copy(payload.begin(), payload.end(), bytes.begin() + kHeaderSize);
    }
    if (has_trailer && header.length > 0) {
      const TrailerKind kind = checksum ? TrailerKind::kChecksum : TrailerKind::kCommit;
      const uint64_t trailer = frame_trailer(kind, bytes, key_);
      bytes.resize(bytes.size() + kTrailerSize);
      store_le(bytes.data() + bytes.size() - kTrailerSize, trailer);
    }
    return bytes;
  }

 private:
  uint64_t argument_of(const FrameHeader& header) {
    const std::pair stream{header.opened_by_sender, header.stream};
    ++frames_;
    switch (header.type) {
      case FrameType::kOpen:
        said_[stream] = 0;
        return 4096;
      case FrameType::kData:
        said_[stream] += header.length;
        return said_[stream] - header.length;
      case FrameType::kEnd:
      case FrameType::kResetAt:
        return said_[stream];
      case FrameType::kCredit:
        return 8192;
      case FrameType::kPing:
        return frames_ - 1;
      default:
        return 0;
    }
  }

  Hello greeting() const {
    Hello hello;
    hello.epoch = epoch_;
    hello.echo = theirs_ ? theirs_->epoch : 0;
    hello.max_streams = kStreams;
    hello.initial_window = 4096;
    hello.max_frame = kFrame;
    return hello;
  }
  Bytes say(const Hello& hello) {
    if (theirs_) key_ = direction_key(hello.epoch, theirs_->epoch);
    if (!hello.joined && !hello.probe) {
      frames_ = 0;
      said_.clear();
    }
    Bytes bytes(kHelloSize);
    encode_hello(hello, bytes.data());
    return bytes;
  }

  uint64_t epoch_ = 0x1234567890abcdef;
  std::optional<Hello> theirs_;
  std::optional<Hello> probe_;
  DirectionKey key_;
  uint64_t frames_ = 0;
  std::map<std::pair<bool, uint32_t>, uint64_t> said_;  // bytes
};

}  // namespace virtproxy::fuzz
