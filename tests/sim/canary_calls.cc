// Defects that only the daemons' own code could have, for the canaries.
#include "core/limits.h"
#include "tests/sim/process.h"

using virtproxy::sim::Canary;
using virtproxy::sim::Process;
using virtproxy::sim::Socket;
using virtproxy::sim::World;

extern "C" {

// Connection::receive_more(), as the channel asks for it when there is credit
void __real__ZN9virtproxy10Connection12receive_moreEv(void* connection);
void __wrap__ZN9virtproxy10Connection12receive_moreEv(void* connection) {
  static void* deaf = nullptr;
  World& world = World::current();
  if (world.canary_strikes(Canary::kKeepCredit, 0.01)) deaf = connection;
  if (world.canary() == Canary::kKeepCredit && connection == deaf) return;
  __real__ZN9virtproxy10Connection12receive_moreEv(connection);
}

// ChannelReader::read_on()
void __real__ZN9virtproxy13ChannelReader7read_onEv(void* reader);
void __wrap__ZN9virtproxy13ChannelReader7read_onEv(void* reader) {
  if (World::current().canary() == Canary::kBlockReader &&
      Process::current()->find_socket([](const Socket& socket) {
        return socket.connected() && !socket.carries_channel && socket.room() == 0;
      })) {
    return;
  }
  __real__ZN9virtproxy13ChannelReader7read_onEv(reader);
}

// derive_limits()
virtproxy::SessionLimits __real__ZN9virtproxy13derive_limitsEmjjj(uint64_t memory, uint32_t streams,
                                                                  uint32_t window, uint32_t frame);
virtproxy::SessionLimits __wrap__ZN9virtproxy13derive_limitsEmjjj(uint64_t memory, uint32_t streams,
                                                                  uint32_t window, uint32_t frame) {
  const uint64_t factor = World::current().canary() == Canary::kOvercommit ? 16 : 1;
  return __real__ZN9virtproxy13derive_limitsEmjjj(factor * memory, streams, window, frame);
}

// ReceivePool::release()
void __real__ZN9virtproxy11ReceivePool7releaseEPNS_6BufferE(void* pool, void* buffer);
void __wrap__ZN9virtproxy11ReceivePool7releaseEPNS_6BufferE(void* pool, void* buffer) {
  if (World::current().canary_strikes(Canary::kLeakBuffer, 0.01)) return;
  __real__ZN9virtproxy11ReceivePool7releaseEPNS_6BufferE(pool, buffer);
}

// Connection::finish(), when both directions of its stream are over
void __real__ZN9virtproxy10Connection6finishEv(void* connection);
void __wrap__ZN9virtproxy10Connection6finishEv(void* connection) {
  if (World::current().canary_strikes(Canary::kLeakSlot, 0.1)) return;
  __real__ZN9virtproxy10Connection6finishEv(connection);
}

}  // extern "C"
