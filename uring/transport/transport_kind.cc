#include "uring/transport/transport_kind.h"

#include <algorithm>

namespace virtproxy {

const TransportKind* find_transport(std::string_view name) {
  const std::span<const TransportKind> kinds = transport_kinds();
  const auto found = std::find_if(kinds.begin(), kinds.end(), [&](const TransportKind& kind) {
    return !name.empty() && (kind.name == name || kind.alias == name);
  });
  return found == kinds.end() ? nullptr : &*found;
}

}  // namespace virtproxy
