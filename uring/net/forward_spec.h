// A service that is offered at one end of a channel and connected to at the other.
#pragma once

#include <optional>
#include <string>

#include "core/flow/priority.h"
#include "core/time.h"
#include "uring/net/acl.h"
#include "uring/net/address.h"
#include "uring/net/sockets.h"
#include "uring/net/when_down.h"

namespace virtproxy {

struct ForwardSpec {
  std::string service;
  Address address;
  unsigned id = 0;      // of an existing channel
  std::string channel;  // its name
  std::string text;     // the argument as given, made printable

  // Of -o forwards: the end that opens the stream decides.
  Priority priority = Priority::kNormal;
  Acl clients;         // who may connect
  ListenRules listen;  // of its socket
  WhenDown when_down;

  // Of -i forwards.
  std::optional<Duration> connect_timeout;  // else that of the channel

  // True if the other one listens for the same service at the same address.
  bool is_same_listener(const ForwardSpec& other) const {
    return service == other.service && address == other.address;
  }
};

}  // namespace virtproxy
