#include "uring/mux/service_registry.h"

namespace virtproxy {

Service* ServiceRegistry::find(std::string_view name) const {
  const auto found = services_.find(name);
  return found == services_.end() ? nullptr : found->second;
}

}  // namespace virtproxy
