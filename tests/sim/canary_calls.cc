// Two defects that only the daemons' own code could have, for the canaries.
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

}  // extern "C"
