#include "uring/io/driver_features.h"

#include <algorithm>

namespace virtproxy {

const std::vector<DriverFeatures::Name>& DriverFeatures::names() {
  static const std::vector<Name> names{
      {"single-issuer", &DriverFeatures::single_issuer},
      {"coop-taskrun", &DriverFeatures::coop_taskrun},
      {"defer-taskrun", &DriverFeatures::defer_taskrun},
      {"registered-ring", &DriverFeatures::registered_ring},
      {"registered-files", &DriverFeatures::registered_files},
      {"provided-buffers", &DriverFeatures::provided_buffers},
      {"poll-first", &DriverFeatures::poll_first},
      {"multishot-accept", &DriverFeatures::multishot_accept},
      {"skip-success", &DriverFeatures::skip_success},
      {"busy-poll", &DriverFeatures::busy_poll},
      {"splice", &DriverFeatures::splice},
      {"no-iowait", &DriverFeatures::no_iowait},
      {"restrictions", &DriverFeatures::restrictions},
  };
  return names;
}

tl::expected<void, std::string> DriverFeatures::disable(std::string_view list) {
  while (!list.empty()) {
    const size_t comma = std::min(list.find(','), list.size());
    std::string_view name = list.substr(0, comma);
    if (name == "quiet-sends") name = "skip-success";  // its earlier name
    list.remove_prefix(std::min(comma + 1, list.size()));
    if (name.empty()) continue;
    const auto& all = names();
    const auto found =
        std::find_if(all.begin(), all.end(), [&](const Name& each) { return each.name == name; });
    if (found == all.end()) return tl::unexpected(std::string(name));
    this->*(found->member) = false;
  }
  return {};
}

}  // namespace virtproxy
