// Any bytes at all to a session that waits for a greeting, whole and cut in two: it must use the
// same number of bytes either way and never fail an assertion.

#include <cstdint>

#include "core/assert.h"
#include "core/session_v2.h"

using namespace virtproxy;

namespace {

SessionConfig config() {
  SessionConfig config;
  config.limits = derive_limits(1u << 20, 16, 65536, 4096);
  config.secret = 1;
  return config;
}

size_t feed(std::span<const std::byte> bytes, size_t cut) {
  SessionV2 session(config());
  Events events;
  session.link_up(Instant(1));
  size_t used = session.input(bytes.first(cut), Instant(1), events);
  used += session.input(bytes.subspan(used), Instant(2), events);
  return used;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  const size_t cut = data[0] % size;
  VP_ASSERT(feed(bytes, size) == feed(bytes, cut));
  return 0;
}
