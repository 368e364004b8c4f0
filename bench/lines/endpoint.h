// Where lines are written to and where they are read: an address with its kind.
#pragma once

#include <string>
#include <string_view>

#include "address.h"

namespace virtproxy::bench::lines {

enum class EndpointKind { kUnixDatagram, kUdp, kUnixStream, kTcp, kPipe, kFile };

struct Endpoint {
  EndpointKind kind = EndpointKind::kPipe;
  std::string text;
  Address address;   // of sockets
  std::string path;  // of kPipe ("-": standard output or input) and kFile

  bool datagram() const {
    return kind == EndpointKind::kUnixDatagram || kind == EndpointKind::kUdp;
  }
};

// unix-dgram:/path, unix:/path, udp:host:port, tcp:host:port, pipe:/path (a FIFO), pipe:- (standard
// output). Throws Failure(kUsage).
Endpoint parse_source(std::string_view text);
// file:/path (followed as it grows), the sockets (it listens there), pipe:/path, pipe:- (standard
// input).
Endpoint parse_sink(std::string_view text);

}  // namespace virtproxy::bench::lines
