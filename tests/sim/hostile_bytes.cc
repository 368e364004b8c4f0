#include "tests/sim/hostile_bytes.h"

#include <algorithm>

#include "core/flow/limits.h"
#include "core/wire/little_endian.h"
#include "core/wire/v1_packet.h"

namespace virtproxy::sim {
namespace {

constexpr size_t kMostItems = 12;
constexpr size_t kMany = 8;
constexpr int32_t kNumbers = 6;  // of protocol 1: few, so that they come again
constexpr size_t kMostPayload = 600;
constexpr unsigned kMostDraws = 4096;  // by one daemon

}  // namespace

void HostileBytes::on_connected() {
  unread_.clear();
  session_over();
  epochs_ahead_ = 0;
  its_clients_.clear();
  its_servers_.clear();
}

void HostileBytes::session_over() {
  established_ = false;
  streams_.clear();
}

void HostileBytes::on_bytes(std::span<const std::byte> bytes) {
  unread_.insert(unread_.end(), bytes.begin(), bytes.end());
  size_t used = 0;
  for (;;) {
    const auto rest = std::span(unread_).subspan(used);
    const HelloSearch search = find_hello(rest);
    if (!search.hello) break;
    if (epochs_.empty() || epochs_.back() != search.hello->epoch) {
      epochs_.push_back(search.hello->epoch);
      epochs_ahead_ = 0;
    }
    features_ = search.hello->wanted;
    used += search.at + kHelloSize;
  }
  for (size_t at = 0; at + kV1PacketSize <= unread_.size(); ++at) {
    const std::byte* packet = unread_.data() + at;
    if (unread_[at] != std::byte{1} || !has_v1_magic(packet)) continue;
    const V1Head head = decode_v1_head(packet);
    const auto message = static_cast<V1Message>(head.message());
    if (message == V1Message::kInit) its_clients_.push_back(head.control_client());
    if (message == V1Message::kAck) its_servers_.push_back(head.control_server());
    if (message == V1Message::kInit || message == V1Message::kAck) {
      used = std::max(used, at + kV1PacketSize);
    }
  }
  const size_t kept = std::min(unread_.size() - used, kV1PacketSize - 1);
  unread_.erase(unread_.begin(), unread_.end() - static_cast<std::ptrdiff_t>(kept));
}

// As core/v2/handshake.cc derives them.
std::optional<uint64_t> HostileBytes::predicted(unsigned draws) const {
  if (epochs_.empty()) return std::nullopt;
  const auto epoch = [key = target_.epoch_key()](uint64_t number) {
    return siphash<2, 4>(key, number);
  };
  for (uint64_t number = 1; number <= kMostDraws; ++number) {
    if (epoch(number) == epochs_.back()) return epoch(number + draws);
  }
  return std::nullopt;
}

std::optional<uint64_t> HostileBytes::expected() const {
  if (epochs_ahead_ > 0) return predicted(epochs_ahead_);
  return epochs_.empty() ? std::nullopt : std::optional(epochs_.back());
}

// --- a segment --------------------------------------------------------------------------------

HostileBytes::Bytes HostileBytes::segment() {
  Random& random = World::current().random();
  Bytes bytes;
  const size_t items = random.between(1, kMostItems);
  double share_of_new = random.chance(0.5) ? 1 : 0;
  if (random.chance(0.2)) {
    share_of_new = 0.5;
    count(Mishap::kMindChanged);
  }
  if (items >= kMany) count(Mishap::kManyInOne);
  for (size_t i = 0; i < items; ++i) {
    if (!random.chance(share_of_new)) {
      add_packet(bytes);
    } else if (!established_ || random.chance(0.1)) {
      add_greeting(bytes);
    } else {
      add_frame(bytes);
    }
  }
  return bytes;
}

void HostileBytes::add_noise(Bytes& to, size_t most) {
  Random& random = World::current().random();
  for (uint64_t left = random.between(1, most); left > 0; --left) {
    to.push_back(static_cast<std::byte>(random.below(256)));
  }
}

std::string HostileBytes::draw_service() {
  Random& random = World::current().random();
  if (target_.services.empty() || random.chance(0.1)) return "nobody";
  return target_.services[random.below(target_.services.size())];
}

// --- protocol 2 -------------------------------------------------------------------------------

Hello HostileBytes::draw_identity() {
  Random& random = World::current().random();
  Hello hello;
  hello.epoch = std::max<uint64_t>(random.next(), 1);
  hello.max_streams = static_cast<uint32_t>(random.magnitude(1, 1024));
  hello.initial_window = static_cast<uint32_t>(random.magnitude(1, 1 << 20));
  hello.max_frame = static_cast<uint32_t>(
      random.magnitude(protocol_limits::kMinFrame, protocol_limits::kMaxFrame));
  if (random.chance(0.2)) hello.wanted = random.below(4);
  if (random.chance(0.2)) hello.supported = random.next();
  if (random.chance(0.05)) hello.version_min = hello.version_max = 3;
  hello.probe = random.chance(0.05);
  hello.joined = random.chance(0.15);
  if (random.chance(hello.joined ? 0.5 : 0.05)) hello.frames = random.magnitude(1, 1000);
  return hello;
}

void HostileBytes::add_greeting(Bytes& to) {
  Random& random = World::current().random();
  Hello hello = draw_identity();
  const auto now = expected();
  bool right = false;
  if (now && random.chance(0.7)) {
    hello.echo = *now;
    right = true;
    count(epochs_ahead_ > 0 ? Mishap::kEpochPredicted : Mishap::kGreetingRight);
  } else if (!earlier_.empty() && random.chance(0.4)) {
    hello = random.pick(earlier_);
    count(Mishap::kGreetingOfEarlierLife);
  } else if (!epochs_.empty() && random.chance(0.3)) {
    hello.echo = random.pick(epochs_);
  } else if (!epochs_.empty() && random.chance(0.2)) {
    hello.epoch = random.pick(epochs_);
  } else if (random.chance(0.3)) {
    hello.echo = random.next();
  }
  if (established_ && !hello.probe && hello.epoch != epoch_) {
    ++epochs_ahead_;
    session_over();
  }
  to.resize(to.size() + kHelloSize);
  encode_hello(hello, to.data() + to.size() - kHelloSize);
  if (earlier_.size() < 16) earlier_.push_back(hello);
  if (established_ || !right || hello.probe || hello.frames > 0 || !speaks_our_version(hello)) {
    return;
  }
  established_ = true;
  epoch_ = hello.epoch;
  key_ = direction_key(hello.epoch, hello.echo);
  const uint64_t features = (features_ | hello.wanted) & feature::kAll & hello.supported;
  trailer_ = (features & feature::kChecksumTrailer) != 0 ? TrailerKind::kChecksum
             : (features & feature::kCommitTrailer) != 0 ? TrailerKind::kCommit
                                                         : TrailerKind::kNone;
  frames_ = 0;
  streams_.clear();
  if (random.chance(0.7)) {
    count(Mishap::kOpenBehindGreeting);
    add_open(to);
    if (random.chance(0.3)) add_fault(to);
  }
}

void HostileBytes::add_frame(Bytes& to, FrameHeader header, std::span<const std::byte> payload) {
  header.length = static_cast<uint32_t>(payload.size());
  Bytes frame(kHeaderSize);
  encode_header(header, key_, frame.data());
  frame.insert(frame.end(), payload.begin(), payload.end());
  if (trailer_ != TrailerKind::kNone && !payload.empty()) {
    const uint64_t trailer = frame_trailer(trailer_, frame, key_);
    frame.resize(frame.size() + kTrailerSize);
    store_le(frame.data() + frame.size() - kTrailerSize, trailer);
  }
  ++frames_;
  to.insert(to.end(), frame.begin(), frame.end());
}

void HostileBytes::add_open(Bytes& to) {
  Random& random = World::current().random();
  const std::string service = draw_service();
  Bytes payload(4 + service.size());
  payload[0] = static_cast<std::byte>(random.below(3));
  payload[1] = static_cast<std::byte>(service.size());
  std::transform(service.begin(), service.end(), payload.begin() + 4,
                 [](char c) { return static_cast<std::byte>(c); });
  const auto slot = static_cast<uint32_t>(streams_.size());
  streams_.push_back({stream_number(slot, 1)});
  add_frame(to,
            {.type = FrameType::kOpen,
             .opened_by_sender = true,
             .stream = streams_.back().number,
             .argument = random.magnitude(1, 1 << 20)},
            payload);
}

// Ends the session, one way or another; the attacked end draws a new epoch.
void HostileBytes::add_fault(Bytes& to) {
  Random& random = World::current().random();
  FrameHeader header{.type = FrameType::kEnd, .opened_by_sender = true, .stream = 77};
  if (random.chance(0.3)) header = {.type = FrameType::kPing, .argument = frames_ + 1};
  if (random.chance(0.3)) header = {.type = FrameType::kAck, .argument = uint64_t{1} << 50};
  add_frame(to, header, {});
  if (random.chance(0.3)) to.back() ^= std::byte{1};
  ++epochs_ahead_;
  session_over();
}

void HostileBytes::add_frame(Bytes& to) {
  Random& random = World::current().random();
  if (streams_.empty() || random.chance(0.3)) return add_open(to);
  if (random.chance(0.15)) return add_fault(to);
  Stream& stream = random.pick(streams_);
  FrameHeader header{.opened_by_sender = true, .stream = stream.number};
  Bytes payload;
  switch (random.below(8)) {
    case 0:
    case 1:
      if (stream.ended) return;
      header.type = FrameType::kData;
      header.argument = stream.sent;
      add_noise(payload, kMostPayload);
      stream.sent += payload.size();
      break;
    case 2:
      if (stream.ended) return;
      header.type = FrameType::kEnd;
      header.argument = stream.sent;
      stream.ended = true;
      break;
    case 3:
      header.type = FrameType::kReset;
      header.argument = random.between(1, 12);
      break;
    case 4:
      header.type = FrameType::kCredit;
      header.argument = random.magnitude(1 << 10, 1 << 30);
      break;
    case 5:
      header = {.type = FrameType::kPing, .argument = frames_};
      break;
    case 6:
      header = {.type = random.chance(0.1) ? FrameType::kGoingAway : FrameType::kPong};
      break;
    default:
      // Of a stream that the other end opened, or of none.
      header.type = random.chance(0.5) ? FrameType::kReset : FrameType::kDone;
      header.opened_by_sender = false;
      header.stream = stream_number(static_cast<uint32_t>(random.below(4)), 1);
      break;
  }
  add_frame(to, header, payload);
}

// --- protocol 1 -------------------------------------------------------------------------------

int32_t HostileBytes::draw_number(const std::vector<int32_t>& known) {
  Random& random = World::current().random();
  if (!known.empty() && random.chance(0.8)) return known[random.below(known.size())];
  return static_cast<int32_t>(random.between(1, kNumbers));
}

void HostileBytes::add_init(Bytes& to, int32_t client) {
  to.resize(to.size() + kV1PacketSize);
  encode_v1_init(client, draw_service(), to.data() + to.size() - kV1PacketSize);
}

void HostileBytes::add_data(Bytes& to, int32_t client, int32_t server) {
  Random& random = World::current().random();
  Bytes payload;
  add_noise(payload, kV1MostData);
  const auto size = static_cast<uint32_t>(payload.size());
  const V1Type type = random.chance(0.7) ? V1Type::kClient : V1Type::kServer;
  Bytes packet(kV1DataHead);
  encode_v1_data_head(type, client, server, random.chance(0.03) ? 5000 : size, packet.data());
  packet.insert(packet.end(), payload.begin(), payload.end());
  packet.resize(kV1PacketSize);
  encode_v1_tail(std::span(packet).last(v1_tail_size(size)));
  to.insert(to.end(), packet.begin(), packet.end());
}

void HostileBytes::add_packet(Bytes& to) {
  Random& random = World::current().random();
  const auto client = static_cast<int32_t>(random.between(1, kNumbers));
  const auto add_control = [&](V1Message message, int32_t one, int32_t other) {
    to.resize(to.size() + kV1PacketSize);
    encode_v1_control(message, one, other, to.data() + to.size() - kV1PacketSize);
  };
  switch (random.below(10)) {
    case 0:
    case 1:
    case 2:
      add_init(to, client);
      if (random.chance(0.5)) return;
      // Before the answer: its stream is closed, as soon as it is there.
      count(Mishap::kDataBehindInit);
      return add_data(to, client, 0);
    case 3:
      add_init(to, client);
      to[to.size() - kV1PacketSize + 12] = std::byte{0};
      return;
    case 4:
      return add_data(to, client, draw_number(its_servers_));
    case 5:
      return add_data(to, draw_number(its_clients_), client);
    case 6:
      return add_control(V1Message::kAck, draw_number(its_clients_), client);
    case 7:
      return random.chance(0.5) ? add_control(V1Message::kClose, draw_number(its_clients_), -1)
                                : add_control(V1Message::kClose, -1, draw_number(its_servers_));
    case 8:
      if (random.chance(0.5)) add_noise(to, 32);
      if (random.chance(0.3)) to.resize(to.size() - std::min<size_t>(to.size(), 500));
      return;
    default:
      return add_control(static_cast<V1Message>(random.below(6)), client, client);
  }
}

}  // namespace virtproxy::sim
