// What a channel runs over, as the command line names it.
#pragma once

#include <string>

#include "uring/net/address.h"
#include "uring/net/sockets.h"

namespace virtproxy {

struct TransportKind;

// How the frames of a channel are protected (core/PROTOCOL.md, trailers). kAuto: as the transport
// needs it.
enum class Integrity { kAuto, kCommit, kChecksum };

struct ChannelSpec {
  // Long enough for a route to change and a switch to start again, short enough for a machine that
  // is gone.
  static constexpr double kDefaultPeerTimeout = 60.0;  // seconds

  const TransportKind* transport = nullptr;  // a row of the table; never null once it is read
  Address address;
  unsigned id = 0;   // unique among the channels
  std::string name;  // unique among the channels; the number where none was given
  std::string text;  // the argument as given, made printable
  // Of a TCP channel: seconds without an answer of the other machine; 0 for never.
  double peer_timeout = kDefaultPeerTimeout;
  ListenRules listen;  // of a transport that listens
};

}  // namespace virtproxy
