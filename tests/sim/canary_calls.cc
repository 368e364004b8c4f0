// Two defects that only the daemons' own code could have, for the canaries.
#include <cstdint>

#include "core/slab.h"
#include "tests/sim/process.h"

using virtproxy::SlabKey;
using virtproxy::sim::Canary;
using virtproxy::sim::Process;
using virtproxy::sim::Socket;
using virtproxy::sim::World;

extern "C" {

// Session::taken()
void __real__ZN9virtproxy7Session5takenENS_7SlabKeyEm(void* session, SlabKey stream,
                                                      uint64_t bytes);
void __wrap__ZN9virtproxy7Session5takenENS_7SlabKeyEm(void* session, SlabKey stream,
                                                      uint64_t bytes) {
  static void* keeping = nullptr;
  static SlabKey kept;
  if (World::current().canary_strikes(Canary::kKeepCredit, 0.01)) {
    keeping = session;
    kept = stream;
  }
  if (World::current().canary() == Canary::kKeepCredit && keeping == session && kept == stream) {
    return;
  }
  __real__ZN9virtproxy7Session5takenENS_7SlabKeyEm(session, stream, bytes);
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

}  // extern "C"
