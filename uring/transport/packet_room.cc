#include "uring/transport/packet_room.h"

#include <linux/sock_diag.h>
#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstdint>

#include "core/wire/v1_packet.h"
#include "uring/net/sockets.h"

namespace virtproxy {
namespace {

// Below 32 KiB, which is what a port takes in one write and what the kernel is sure to find one
// buffer of a unix socket for.
constexpr size_t kMostPackets = 31;
// Of a unix socket: what the kernel counts for it is less than a quarter of the buffer below.
constexpr size_t kMostUnixPackets = 15;
// Of a unix socket, towards a peer of protocol 1, bytes. The kernel doubles it, for what its
// buffers cost beside their bytes.
constexpr int kSendBuffer = 48 * 1024;
// What the kernel keeps of that for itself, bytes.
constexpr size_t kUnixReserve = 64;
// What a TCP socket may count beside the bytes of one call.
constexpr size_t kTcpReserve = 4096;

}  // namespace

void PacketRoom::attach(int fd, const TransportTraits& traits) {
  fd_ = fd;
  asks_for_room_ = traits.has_line_speed;
  packets_ = shrunk_ = false;
  family_ = Family::kOther;
  most_ = most_batch_ = kMostPackets * kV1PacketSize;
  quarter_ = SIZE_MAX;
  if (asks_for_room_) most_ = kV1PacketSize;
  if (!traits.is_socket) return;
  int domain = AF_UNSPEC;
  socklen_t size = sizeof domain;
  if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) != 0) return;
  if (domain == AF_INET || domain == AF_INET6) family_ = Family::kTcp;
  if (domain == AF_UNIX) family_ = Family::kUnix;
}

void PacketRoom::speak_packets(bool packets, bool up) {
  packets_ = packets;
  if (family_ != Family::kUnix || !up || packets == shrunk_) return;
  shrunk_ = packets;
  if (packets) {
    socklen_t size = sizeof send_buffer_;
    getsockopt(fd_, SOL_SOCKET, SO_SNDBUF, &send_buffer_, &size);
  }
  const int wanted = packets ? kSendBuffer : send_buffer_ / 2;
  setsockopt(fd_, SOL_SOCKET, SO_SNDBUF, &wanted, sizeof wanted);
  int got = 0;
  socklen_t size = sizeof got;
  if (getsockopt(fd_, SOL_SOCKET, SO_SNDBUF, &got, &size) != 0) return;
  const size_t half = static_cast<size_t>(std::max(got, 0)) / 2;
  const size_t one_buffer = half - std::min(half, kUnixReserve);
  most_ = std::clamp<size_t>(one_buffer / kV1PacketSize, 1, kMostPackets) * kV1PacketSize;
  most_batch_ = (packets ? kMostUnixPackets : kMostPackets) * kV1PacketSize;
  quarter_ = static_cast<size_t>(std::max(got, 0)) / 4;
}

bool PacketRoom::has_room() const {
  pollfd state{fd_, POLLOUT, 0};
  return poll(&state, 1, 0) == 1;
}

bool PacketRoom::is_drained() const {
  int unread = 0;
  return ioctl(fd_, SIOCOUTQ, &unread) == 0 && unread == 0;
}

size_t PacketRoom::arrived() const {
  int bytes = 0;
  return ioctl(fd_, FIONREAD, &bytes) == 0 ? static_cast<size_t>(std::max(bytes, 0)) : 0;
}

size_t PacketRoom::next(size_t left, bool polled) const {
  // Whatever cut it, what was begun is finished.
  if (left % kV1PacketSize != 0) return left % kV1PacketSize;
  size_t room = most_;
  if (family_ == Family::kTcp) room = std::min(room, tcp_room());
  if (asks_for_room_ && !polled) {
    pollfd state{fd_, POLLOUT, 0};
    if (poll(&state, 1, 0) != 1 || (state.revents & POLLOUT) == 0) return 0;
  }
  if (polled) room = std::max(room, kV1PacketSize);
  return std::min(left, room / kV1PacketSize * kV1PacketSize);
}

// The kernel takes all of what is less than both: the room in the send buffer, and what may wait
// there without having been sent (see prepare_tcp).
size_t PacketRoom::tcp_room() const {
  std::array<uint32_t, SK_MEMINFO_VARS> memory{};
  socklen_t size = sizeof memory;
  if (getsockopt(fd_, SOL_SOCKET, SO_MEMINFO, memory.data(), &size) != 0) return most_;
  int unsent = 0;
  if (ioctl(fd_, SIOCOUTQNSD, &unsent) != 0) return most_;
  const uint64_t used = uint64_t{memory[SK_MEMINFO_WMEM_QUEUED]} + kTcpReserve;
  const uint64_t buffer = memory[SK_MEMINFO_SNDBUF];
  const auto waiting = static_cast<uint64_t>(std::max(unsent, 0));
  return static_cast<size_t>(
      std::min(buffer - std::min(buffer, used), kMostUnsent - std::min(kMostUnsent, waiting)));
}

}  // namespace virtproxy
