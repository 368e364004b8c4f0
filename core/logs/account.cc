#include "core/logs/account.h"

namespace virtproxy::logs {

std::string_view name_of(DropReason reason) {
  constexpr std::array<std::string_view, kDropReasons> kNames{
      "newest",  "oldest",           "rate",    "too-large", "kernel-overflow",
      "corrupt", "rejected-by-sink", "shutdown"};
  const auto index = static_cast<size_t>(reason);
  return index < kNames.size() ? kNames[index] : "unknown";
}

}  // namespace virtproxy::logs
