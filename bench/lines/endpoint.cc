#include "lines/endpoint.h"

#include <fmt/format.h>

namespace virtproxy::bench::lines {
namespace {

bool parse_common(std::string_view text, Endpoint& endpoint) {
  endpoint.text = text;
  if (text.starts_with("unix-dgram:")) {
    endpoint.kind = EndpointKind::kUnixDatagram;
    endpoint.address = parse_unix_address(text);
  } else if (text.starts_with("udp:")) {
    endpoint.kind = EndpointKind::kUdp;
    endpoint.address = parse_inet_address(text);
  } else if (text.starts_with("unix:")) {
    endpoint.kind = EndpointKind::kUnixStream;
    endpoint.address = parse_address(text);
  } else if (text.starts_with("tcp:")) {
    endpoint.kind = EndpointKind::kTcp;
    endpoint.address = parse_address(text);
  } else if (text.starts_with("pipe:") && text.size() > 5) {
    endpoint.kind = EndpointKind::kPipe;
    endpoint.path = text.substr(5);
  } else {
    return false;
  }
  return true;
}

}  // namespace

Endpoint parse_source(std::string_view text) {
  Endpoint endpoint;
  if (parse_common(text, endpoint)) return endpoint;
  throw Failure(
      Outcome::kUsage,
      fmt::format("bad address '{}' for lines (use unix-dgram:/path, unix:/path, udp:host:port, "
                  "tcp:host:port, pipe:/path or pipe:-)",
                  text));
}

Endpoint parse_sink(std::string_view text) {
  Endpoint endpoint;
  if (parse_common(text, endpoint)) return endpoint;
  if (text.starts_with("file:") && text.size() > 5) {
    endpoint.kind = EndpointKind::kFile;
    endpoint.path = text.substr(5);
    return endpoint;
  }
  throw Failure(
      Outcome::kUsage,
      fmt::format("bad sink '{}' (use file:/path, unix:/path, tcp:host:port, unix-dgram:/path, "
                  "udp:host:port, pipe:/path or pipe:-)",
                  text));
}

}  // namespace virtproxy::bench::lines
