// The same bytes of an established session, cut in every way, must mean the same: whole, one at a
// time, and in two parts at each of many places. And a header that decodes encodes to itself.

#include <array>
#include <map>

#include "tests/fuzz/peer.h"

using namespace virtproxy;
using namespace virtproxy::fuzz;

namespace {

// What the session told its driver: everything but how the bytes of a stream were cut.
class Account {
 public:
  void add(const Events& events) {
    for (const Event& event : events) {
      Fault fault = event.fault;
      // Which of the two is seen first depends on how much of the frame was there.
      if (fault == Fault::kBadTrailer) fault = Fault::kFrameLost;
      if (event.kind == Event::Kind::kData) {
        Bytes& all = data_[{event.stream.slot, event.stream.generation}];
        all.insert(all.end(), event.bytes.begin(), event.bytes.end());
        continue;
      }
      entries_.push_back({static_cast<uint32_t>(event.kind), static_cast<uint32_t>(fault),
                          event.stream.slot, event.stream.generation,
                          static_cast<uint32_t>(event.bytes.size())});
    }
  }
  bool operator==(const Account&) const = default;

 private:
  std::vector<std::array<uint32_t, 5>> entries_;
  std::map<std::pair<uint32_t, uint32_t>, Bytes> data_;
};

class Reader {
 public:
  explicit Reader(uint64_t features) : session_(small_config(features)) {
    session_.transport_up(now_);
    peer.hear(session_.plan(8192, now_, events_));
    give(peer.greet());
    VP_ASSERT(session_.up());
  }

  void give(std::span<const std::byte> bytes) {
    pending_.insert(pending_.end(), bytes.begin(), bytes.end());
    const size_t used = feed(session_, pending_, now_, events_, [] { return true; });
    VP_ASSERT(used <= pending_.size());
    account.add(events_);
    events_.clear();
    pending_.erase(pending_.begin(), pending_.begin() + static_cast<ptrdiff_t>(used));
  }

  bool sealed() const { return session_.uses_trailers(); }

  Peer peer;
  Account account;

 private:
  Instant now_{1};
  V2Session session_;
  Events events_;
  Bytes pending_;
};

Bytes compose(Input& in, Reader& reader, uint64_t features) {
  Bytes all;
  while (!in.empty() && all.size() < 2 * kFrame) {
    const uint64_t what = in.number(1);
    Bytes piece = reader.peer.frame(in, reader.sealed(), (features & 2) != 0);
    if (what % 8 == 1) {
      const auto raw = in.bytes(what / 8);
      piece.assign(raw.begin(), raw.end());
    } else if (what % 8 == 2) {
      piece.resize(piece.size() * (what / 8) / 32);  // torn
    } else if (what % 8 == 3 && !piece.empty()) {
      piece[in.number(2) % piece.size()] ^= static_cast<std::byte>(1u << (what / 32));
    }
    all.insert(all.end(), piece.begin(), piece.end());
  }
  return all;
}

void check_header(Input in) {
  const DirectionKey key{in.number(8)};
  FrameHeader header;
  const auto type = static_cast<uint8_t>(in.number(1));
  header.type = static_cast<FrameType>(type);
  header.opened_by_sender = in.number(1) % 2 == 0;
  header.stream = static_cast<uint32_t>(in.number(4));
  header.length = static_cast<uint32_t>(in.number(4));
  header.argument = in.number(8);
  Bytes bytes(kHeaderSize);
  encode_header(header, key, bytes.data());
  FrameHeader again;
  const Fault fault = decode_header(bytes.data(), key, again);
  VP_ASSERT(fault == (type >= 0x10 && type <= 0x1a ? Fault::kNone : Fault::kUnknownFrame));
  if (fault == Fault::kNone) VP_ASSERT(header == again);
  const auto change = static_cast<std::byte>(1 + in.number(1) % 255);
  for (std::byte& byte : bytes) {
    byte ^= change;
    VP_ASSERT(decode_header(bytes.data(), key, again) == Fault::kBadHeader);
    byte ^= change;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  check_header(Input(data, size));
  Input in(data, size);
  const uint64_t features = in.number(1);
  const size_t stride = 1 + in.number(1);
  Reader whole(features);
  const Bytes bytes = compose(in, whole, features);
  whole.give(bytes);

  Reader single(features);
  for (const std::byte& one : bytes) single.give({&one, 1});
  VP_ASSERT(single.account == whole.account);

  const size_t step = std::max(stride, bytes.size() / 16);
  for (size_t cut = stride; cut < bytes.size(); cut += step) {
    Reader parts(features);
    parts.give(std::span(bytes).first(cut));
    parts.give(std::span(bytes).subspan(cut));
    VP_ASSERT(parts.account == whole.account);
  }
  return 0;
}
