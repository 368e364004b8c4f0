// A service that is offered at one end of a channel and connected to at the other.
#pragma once

#include <string>

#include "core/flow/priority.h"
#include "uring/net/address.h"

namespace virtproxy {

struct ForwardSpec {
  std::string service;
  Address address;
  unsigned id = 0;                        // of an existing channel
  std::string text;                       // the argument as given, made printable
  Priority priority = Priority::kNormal;  // of -o forwards: the side that opens the stream decides
};

}  // namespace virtproxy
