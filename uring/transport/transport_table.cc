// The table of kinds. This file has nothing else, so that a program may have a table of its own
// (tests/unit/transport_kind_test.cc).
#include "uring/transport/device_source.h"
#include "uring/transport/socket_connect_source.h"
#include "uring/transport/socket_listen_source.h"
#include "uring/transport/transport_kind.h"

namespace virtproxy {
namespace {

using Way = TransportKind::Way;
using transport_traits::kPort;
using transport_traits::kSocket;
using transport_traits::kTty;

constexpr TransportKind kKinds[] = {
    {"unix-connect", "", Way::kConnects, Address::Kind::kUnix, "PATH:-",
     "connect to a unix socket, again and again until it is there", kSocket, nullptr,
     make_source<SocketConnectSource>},
    {"unix-listen", "", Way::kListens, Address::Kind::kUnix, "PATH:-",
     "accept on a unix socket, one peer at a time: another one waits,\n"
     "or replaces one that has sent nothing; a stale path is removed",
     kSocket, nullptr, make_source<SocketListenSource>},
    {"tcp-connect", "", Way::kConnects, Address::Kind::kTcp, "HOST:PORT", "the same two over TCP",
     kSocket, nullptr, make_source<SocketConnectSource>},
    {"tcp-listen", "", Way::kListens, Address::Kind::kTcp, "HOST:PORT", "", kSocket, nullptr,
     make_source<SocketListenSource>},
    {"virtio-serial", "virtserial-open", Way::kOpens, Address::Kind::kDevice, "DEVICE:-",
     "open a virtio-serial port (also written virtserial-open)", kPort, port_fault,
     make_source<DeviceSource>},
    {"isa-serial", "", Way::kOpens, Address::Kind::kDevice, "DEVICE:BAUD",
     "open a serial port and make it raw; - leaves its speed alone", kTty, nullptr,
     make_source<DeviceSource>},
    {"vsock-connect", "", Way::kConnects, Address::Kind::kVsock, "CID:PORT",
     "vsock; CID is a number, host (2) or local (1)", kSocket, nullptr,
     make_source<SocketConnectSource>},
    {"vsock-listen", "", Way::kListens, Address::Kind::kVsock, "CID:PORT", "CID may also be any",
     kSocket, nullptr, make_source<SocketListenSource>},
};

}  // namespace

std::span<const TransportKind> transport_kinds() { return kKinds; }

}  // namespace virtproxy
