#include "uring/daemon/config_tree.h"

#include <algorithm>
#include <map>

namespace virtproxy {

std::string Problem::to_string() const {
  std::string line;
  if (origin.in_file()) {
    line += origin.file + ":";
    if (origin.line > 0) {
      line += std::to_string(origin.line) + ":" + std::to_string(origin.column) + ":";
    }
    line += " ";
  }
  line += what;
  if (!right.empty()) line += (origin.in_file() ? "; " : ": ") + right;
  return line;
}

const ConfigNode* ConfigNode::find(std::string_view name) const {
  const auto found = std::find_if(items.begin(), items.end(),
                                  [&](const ConfigNode& item) { return item.key == name; });
  return found == items.end() ? nullptr : &*found;
}

void merge(ConfigNode& tree, ConfigNode later) {
  std::map<std::string, size_t> places;
  for (size_t i = 0; i < tree.items.size(); ++i) places.emplace(tree.items[i].key, i);
  for (ConfigNode& item : later.items) {
    const auto place = places.find(item.key);
    ConfigNode* const earlier = place == places.end() ? nullptr : &tree.items[place->second];
    if (earlier == nullptr) {
      tree.items.push_back(std::move(item));
    } else if (earlier->type == ConfigNode::Type::kTable && item.type == ConfigNode::Type::kTable) {
      merge(*earlier, std::move(item));
    } else {
      *earlier = std::move(item);
    }
  }
}

}  // namespace virtproxy
