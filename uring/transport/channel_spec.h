// What a channel runs over, as the command line names it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "uring/net/address.h"
#include "uring/net/sockets.h"

namespace virtproxy {

enum class TransportKind {
  kUnixConnect,
  kUnixListen,
  kTcpConnect,
  kTcpListen,
  kVirtioSerial,  // also written virtserial-open
  kIsaSerial,
  kVsockConnect,
  kVsockListen,
};

// One row for each name of a kind.
struct TransportEntry {
  std::string_view name;
  TransportKind transport;
  Address::Kind kind;
  std::string_view form;
};

// The first name of a kind is the one that messages use.
inline constexpr TransportEntry kTransports[] = {
    {"unix-connect", TransportKind::kUnixConnect, Address::Kind::kUnix, "PATH:-"},
    {"unix-listen", TransportKind::kUnixListen, Address::Kind::kUnix, "PATH:-"},
    {"tcp-connect", TransportKind::kTcpConnect, Address::Kind::kTcp, "HOST:PORT"},
    {"tcp-listen", TransportKind::kTcpListen, Address::Kind::kTcp, "HOST:PORT"},
    {"virtio-serial", TransportKind::kVirtioSerial, Address::Kind::kDevice, "DEVICE:-"},
    {"virtserial-open", TransportKind::kVirtioSerial, Address::Kind::kDevice, "DEVICE:-"},
    {"isa-serial", TransportKind::kIsaSerial, Address::Kind::kDevice, "DEVICE:BAUD"},
    {"vsock-connect", TransportKind::kVsockConnect, Address::Kind::kVsock, "CID:PORT"},
    {"vsock-listen", TransportKind::kVsockListen, Address::Kind::kVsock, "CID:PORT"},
};

// The name as --help has it: unix-connect, virtio-serial, isa-serial.
std::string_view transport_name(TransportKind transport);
constexpr bool transport_listens(TransportKind transport) {
  return transport == TransportKind::kUnixListen || transport == TransportKind::kTcpListen ||
         transport == TransportKind::kVsockListen;
}
constexpr bool transport_is_device(TransportKind transport) {
  return transport == TransportKind::kVirtioSerial || transport == TransportKind::kIsaSerial;
}

// How the frames of a channel are protected (core/PROTOCOL.md, trailers). kAuto: as the method
// needs it.
enum class Integrity { kAuto, kCommit, kChecksum };

struct ChannelSpec {
  // Long enough for a route to change and a switch to start again, short enough for a machine that
  // is gone.
  static constexpr double kDefaultPeerTimeout = 60.0;  // seconds

  TransportKind transport = TransportKind::kUnixConnect;
  Address address;
  unsigned id = 0;   // unique among the channels
  std::string name;  // unique among the channels; the number where none was given
  std::string text;  // the argument as given, made printable
  // Of a TCP channel: seconds without an answer of the other machine; 0 for never.
  double peer_timeout = kDefaultPeerTimeout;
  ListenRules listen;  // of a method that listens
};

}  // namespace virtproxy
