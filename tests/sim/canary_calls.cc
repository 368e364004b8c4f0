// Defects that only the daemons' own code could have, for the canaries.
#include <unistd.h>

#include <cerrno>

#include "core/flow/limits.h"
#include "core/wire/frame.h"
#include "core/wire/v1_packet.h"
#include "tests/sim/process.h"
#include "uring/buffers/receive_pool.h"

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

// ChannelReader::recheck()
bool __real__ZN9virtproxy13ChannelReader7recheckEv(void* reader);
bool __wrap__ZN9virtproxy13ChannelReader7recheckEv(void* reader) {
  if (World::current().canary() == Canary::kNeverRecheck) return true;
  return __real__ZN9virtproxy13ChannelReader7recheckEv(reader);
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
void __real__ZN9virtproxy11ReceivePool7releaseEPNS_6BufferE(void* pool, virtproxy::Buffer* buffer);
void __wrap__ZN9virtproxy11ReceivePool7releaseEPNS_6BufferE(void* pool, virtproxy::Buffer* buffer) {
  World& world = World::current();
  if (world.canary_strikes(Canary::kLeakBuffer, 0.01)) return;
  if (buffer->references == 1 && world.canary_strikes(Canary::kReleaseTwice, 0.01)) {
    __real__ZN9virtproxy11ReceivePool7releaseEPNS_6BufferE(pool, buffer);
  }
  __real__ZN9virtproxy11ReceivePool7releaseEPNS_6BufferE(pool, buffer);
}

// Connection::finish(), when both directions of its stream are over
void __real__ZN9virtproxy10Connection6finishEv(void* connection);
void __wrap__ZN9virtproxy10Connection6finishEv(void* connection) {
  if (World::current().canary_strikes(Canary::kLeakSlot, 0.1)) return;
  __real__ZN9virtproxy10Connection6finishEv(connection);
}

// Channel::on_opened(), and Channel::admit_clients(), which is to be called when no event is left
void _ZN9virtproxy7Channel13admit_clientsEv(void* channel);
void __real__ZN9virtproxy7Channel9on_openedERKNS_5EventE(void* channel, const void* event);
void __wrap__ZN9virtproxy7Channel9on_openedERKNS_5EventE(void* channel, const void* event) {
  if (World::current().canary() == Canary::kAdmitEarly) {
    _ZN9virtproxy7Channel13admit_clientsEv(channel);
  }
  __real__ZN9virtproxy7Channel9on_openedERKNS_5EventE(channel, event);
}

// Channel::let_go_of_ended(), once a turn
void __real__ZN9virtproxy7Channel15let_go_of_endedEv(void* channel);
void __wrap__ZN9virtproxy7Channel15let_go_of_endedEv(void* channel) {
  if (World::current().canary() == Canary::kKeepEnded) return;
  __real__ZN9virtproxy7Channel15let_go_of_endedEv(channel);
}

// Connection::send_failed(), which goes on receiving after some errors and not after others
void __real__ZN9virtproxy10Connection11send_failedEi(void* connection, int error);
void __wrap__ZN9virtproxy10Connection11send_failedEi(void* connection, int error) {
  const bool leave = World::current().canary_strikes(Canary::kLeaveRest, 0.5);
  __real__ZN9virtproxy10Connection11send_failedEi(connection, leave ? EIO : error);
}

// reset_on_close(), for all that is accepted or dialed
void __real__ZN9virtproxy14reset_on_closeEi(int fd);
void __wrap__ZN9virtproxy14reset_on_closeEi(int fd) {
  if (World::current().canary_strikes(Canary::kEndWhenKilled, 1)) return;
  __real__ZN9virtproxy14reset_on_closeEi(fd);
}

// Channel::close_lingering()
void __real__ZN9virtproxy7Channel15close_lingeringEi(void* channel, int fd);
void __wrap__ZN9virtproxy7Channel15close_lingeringEi(void* channel, int fd) {
  if (World::current().canary_strikes(Canary::kPartAtOnce, 0.5)) {
    close(fd);
    return;
  }
  __real__ZN9virtproxy7Channel15close_lingeringEi(channel, fd);
}

// TransportSource::lost(), when the channel has let go of its link
void __real__ZN9virtproxy15TransportSource4lostENSt6chrono8durationIlSt5ratioILl1ELl1000000000EEEE(
    void* link, virtproxy::Duration backoff);
void __wrap__ZN9virtproxy15TransportSource4lostENSt6chrono8durationIlSt5ratioILl1ELl1000000000EEEE(
    void* link, virtproxy::Duration backoff) {
  if (World::current().canary_strikes(Canary::kForgetLink, 0.3)) return;
  __real__ZN9virtproxy15TransportSource4lostENSt6chrono8durationIlSt5ratioILl1ELl1000000000EEEE(
      link, backoff);
}

// Listener::stop(), which is asked for several times
void __real__ZN9virtproxy8Listener4stopEv(void* listener);
void __wrap__ZN9virtproxy8Listener4stopEv(void* listener) {
  static const void* kept = nullptr;
  World& world = World::current();
  if (!Process::current()->dead() && world.canary_strikes(Canary::kKeepListening, 0.3)) {
    kept = listener;
  }
  if (world.canary() == Canary::kKeepListening && listener == kept) return;
  __real__ZN9virtproxy8Listener4stopEv(listener);
}

// encode_header()
void __real__ZN9virtproxy13encode_headerERKNS_11FrameHeaderENS_12DirectionKeyEPSt4byte(
    const virtproxy::FrameHeader& header, virtproxy::DirectionKey key, std::byte* out);
void __wrap__ZN9virtproxy13encode_headerERKNS_11FrameHeaderENS_12DirectionKeyEPSt4byte(
    const virtproxy::FrameHeader& header, virtproxy::DirectionKey key, std::byte* out) {
  virtproxy::FrameHeader written = header;
  if (header.type == virtproxy::FrameType::kDone &&
      World::current().canary_strikes(Canary::kWrongDone, 0.01)) {
    ++written.argument;
  }
  __real__ZN9virtproxy13encode_headerERKNS_11FrameHeaderENS_12DirectionKeyEPSt4byte(written, key,
                                                                                    out);
}

// encode_v1_data_head()
void __real__ZN9virtproxy19encode_v1_data_headENS_6V1TypeEiijPSt4byte(
    virtproxy::V1Type type, int32_t client, int32_t server, uint32_t bytes, std::byte* head);
void __wrap__ZN9virtproxy19encode_v1_data_headENS_6V1TypeEiijPSt4byte(
    virtproxy::V1Type type, int32_t client, int32_t server, uint32_t bytes, std::byte* head) {
  const int32_t off = World::current().canary_strikes(Canary::kMisdirect, 0.01) ? 1 << 20 : 0;
  __real__ZN9virtproxy19encode_v1_data_headENS_6V1TypeEiijPSt4byte(type, client + off, server + off,
                                                                   bytes, head);
}

}  // extern "C"
