// What the client of a listener gets while the channel is down.
//
// An application that has connected may write at once, and what it has written to a connection that is
// reset is lost to it. One whose connection is refused knows that nothing was taken. So kClose refuses
// in the kernel: the socket stops listening, keeps its port, and listens again later. A unix socket
// cannot do that: its path or name would have to be given up and bound again.
#pragma once

#include <cstdint>

#include "core/time.h"

namespace virtproxy {

struct WhenDown {
  enum class Kind : uint8_t {
    kReset,  // accepted, and reset once it is known that the channel is down
    kClose,  // TCP: refused, as if nothing listened there
    kHold,   // accepted, and kept for a time
  };
  Kind kind = Kind::kReset;
  Duration hold{};  // of kHold

  friend bool operator==(const WhenDown&, const WhenDown&) = default;
};

}  // namespace virtproxy
