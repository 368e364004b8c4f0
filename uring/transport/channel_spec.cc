#include "uring/transport/channel_spec.h"

namespace virtproxy {

std::string_view transport_name(TransportKind transport) {
  for (const TransportEntry& entry : kTransports) {
    if (entry.transport == transport) return entry.name;
  }
  return {};
}

}  // namespace virtproxy
