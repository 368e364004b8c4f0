// The kinds of channels. A kind is one row of the table in transport_table.cc.
//
// The row names what the rest of the daemon asks for: how a channel of the kind is written on the
// command line, its traits, and the TransportSource that gets its descriptor. Nothing outside of
// this folder names a kind; tests/structure enforces that.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "uring/net/address.h"
#include "uring/transport/traits.h"

namespace virtproxy {

class TransportSource;
struct TransportSetup;

struct TransportKind {
  // How a channel gets its descriptor. What depends on it is what the daemon prepares at the start:
  // listening sockets are bound before privileges are given up, devices are checked.
  enum class Way { kConnects, kListens, kOpens };

  std::string_view name;   // the METHOD of -c
  std::string_view alias;  // another name of the same; empty if there is none
  Way way;
  Address::Kind address;
  std::string_view form;  // of the address, for messages and --help: HOST:PORT
  std::string_view help;  // lines of --help
  // What a channel is set up for. A source may open something with other traits.
  const TransportTraits& traits;
  // What is wrong with an address that has the right form, as the rest of a message; may be null.
  std::optional<std::string> (*fault)(const Address& address);
  std::unique_ptr<TransportSource> (*make_source)(const TransportSetup& setup);
};

// The table, in the order of --help.
std::span<const TransportKind> transport_kinds();

// The kind that has this name or alias; null if there is none.
const TransportKind* find_transport(std::string_view name);

inline std::string_view transport_name(const TransportKind* kind) { return kind->name; }
inline bool transport_listens(const TransportKind* kind) {
  return kind->way == TransportKind::Way::kListens;
}
inline bool transport_is_device(const TransportKind* kind) {
  return kind->way == TransportKind::Way::kOpens;
}

}  // namespace virtproxy
