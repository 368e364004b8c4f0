// Any configuration file of virtagent: it is either understood, and every rule is within its
// limits, or refused with one line, and adds nothing.

#include <cstdint>
#include <string_view>

#include "core/assert.h"
#include "uring/agent/options.h"

using namespace virtproxy;
using namespace virtproxy::agent;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Rules rules;
  const auto added = add_config({reinterpret_cast<const char*>(data), size}, "f", rules);
  if (!added) {
    VP_ASSERT(added.error().starts_with("f:"));
    for (const char c : added.error()) VP_ASSERT(c >= ' ' && c <= '~');
    VP_ASSERT(rules.read.empty() && rules.write.empty() && rules.hooks.empty());
    VP_ASSERT(rules.permissions.named.empty() && rules.max_freeze == Rules().max_freeze);
    return 0;
  }
  VP_ASSERT(rules.max_freeze >= 1 && rules.max_freeze <= 600);
  for (const auto* paths : {&rules.read, &rules.write}) {
    for (const std::string& path : *paths) VP_ASSERT(path.starts_with('/'));
  }
  for (const auto& [name, program] : rules.hooks) {
    VP_ASSERT(!name.empty() && name.size() <= 64 && program.starts_with('/'));
  }
  return 0;
}
