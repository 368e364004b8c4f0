#include "uring/mux/service_registry.h"

namespace virtproxy {

Service* ServiceRegistry::find(std::string_view name) const {
  const auto found = services_.find(name);
  return found == services_.end() ? nullptr : found->second;
}

void ServiceRegistry::visit_stats(StatVisitor& visitor) const {
  for (const auto& [name, service] : services_) service->visit_stats(visitor);
}

}  // namespace virtproxy
