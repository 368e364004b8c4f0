#include "tests/sim/canaries.h"

#include "core/v2/session.h"
#include "core/wire/little_endian.h"
#include "core/wire/v1_packet.h"

namespace virtproxy::sim {
namespace {

void break_pool(ReceivePool& pool) {
  World& world = World::current();
  if (world.canary() != Canary::kLeakBuffer && world.canary() != Canary::kReleaseTwice) return;
  Buffer* const buffer = pool.take(BufferSize::kSmall);
  if (buffer == nullptr || world.canary_strikes(Canary::kLeakBuffer, 0.01)) return;
  pool.release(buffer);
  if (world.canary_strikes(Canary::kReleaseTwice, 0.01)) pool.release(buffer);
}

void break_stream(Stream& stream) {
  World& world = World::current();
  if (stream.dead()) return;
  const bool waits_for_done = stream.end_sent && !stream.done_received;
  if (stream.blocked && stream.credit_left() == 0 &&
      world.canary_strikes(Canary::kKeepCredit, 0.01)) {
    stream.blocked = false;
  }
  // The session takes it for one that was reset, and tells nobody when it is over.
  if (waits_for_done && stream.end_received && stream.done_sent &&
      world.canary_strikes(Canary::kLeakSlot, 0.1)) {
    stream.reset_sent = true;
  }
  if (waits_for_done && stream.sent < stream.send_limit &&
      world.canary_strikes(Canary::kWrongDone, 0.01)) {
    ++stream.sent;
  }
  if (world.canary_strikes(Canary::kRaiseLimit, 0.001)) stream.send_limit += 1 << 20;
}

}  // namespace

void break_channel(Channel& channel) {
  if (World::current().canary() == Canary::kNone) return;
  break_pool(channel.buffers());
  const auto* session = dynamic_cast<const V2Session*>(&channel.session());
  if (session == nullptr || !session->up()) return;
  session->streams().for_each(
      [](StreamKey, const Stream& stream) { break_stream(const_cast<Stream&>(stream)); });
}

void break_turn(Channel& channel) {
  if (World::current().canary() != Canary::kAdmitEarly) return;
  ((Loop::Deferred&)channel).run_deferred();  // NOLINT: the base is private
}

void misdirect(const File& file, const iovec& bytes) {
  World& world = World::current();
  if (world.canary() != Canary::kMisdirect || !file.carries_channel) return;
  if (bytes.iov_len < kV1DataHead) return;
  auto* const packet = static_cast<std::byte*>(bytes.iov_base);
  const V1Head head = decode_v1_head(packet);
  const bool data = head.is_data() && head.bytes() > 0 && head.bytes() <= int32_t{kV1MostData};
  if (!data || !world.canary_strikes(Canary::kMisdirect, 0.01)) return;
  constexpr uint32_t kOff = 1 << 20;
  for (const size_t number : {0, 1}) {
    store_le(packet + 4 + 4 * number, head.word[number] + kOff);
  }
}

}  // namespace virtproxy::sim
