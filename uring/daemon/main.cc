#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "uring/base/log.h"
#include "uring/daemon/daemon.h"
#include "uring/daemon/landlock.h"
#include "uring/daemon/options.h"
#include "uring/io/open_driver.h"

namespace {

int fail(const std::string& message) {
  std::fprintf(stderr, "virtproxy: %s\n", message.c_str());
  return 1;
}

int show_features(virtproxy::DriverChoice choice, const virtproxy::DriverFeatures& wanted,
                  bool landlock) {
  const auto opened = virtproxy::open_driver(choice, 1, wanted);
  if (!opened) return fail(opened.error());
  for (const std::string& warning : opened->warnings) {
    std::fprintf(stderr, "virtproxy: %s\n", warning.c_str());
  }
  std::printf("driver %s\n", std::string(virtproxy::driver_name(opened->kind)).c_str());
  for (const auto& [name, member] : virtproxy::DriverFeatures::names()) {
    std::printf("%s %s\n", std::string(name).c_str(),
                opened->driver->features().*member ? "yes" : "no");
  }
  std::printf("landlock %s\n", landlock && virtproxy::landlock_abi() ? "yes" : "no");
  return 0;
}

// Landlock is switched off like a feature of a driver, in the same list. Takes it out of there.
std::string without_landlock(std::string_view list, bool& landlock) {
  std::string rest;
  while (!list.empty()) {
    const size_t comma = std::min(list.find(','), list.size());
    const std::string_view name = list.substr(0, comma);
    list.remove_prefix(std::min(comma + 1, list.size()));
    if (name == "landlock") {
      landlock = false;
    } else {
      rest.append(name).append(",");
    }
  }
  return rest;
}

}  // namespace

int main(int argc, char** argv) {
  virtproxy::open_standard_descriptors();
  const auto parsed = virtproxy::parse_options(argc, argv);
  if (!parsed) {
    std::fputs(parsed.error().text.c_str(), parsed.error().to_stderr ? stderr : stdout);
    return parsed.error().code;
  }
  virtproxy::set_log_level(parsed->log_level);

  virtproxy::DriverFeatures features;
  bool landlock = true;
  const char* from_environment = std::getenv("VIRTPROXY_DISABLE");
  for (const std::string_view list :
       {std::string_view(parsed->disabled),
        std::string_view(from_environment != nullptr ? from_environment : "")}) {
    const auto done = features.disable(without_landlock(list, landlock));
    if (!done) return fail(done.error() + "; besides those: landlock");
  }
  if (parsed->show_features) return show_features(parsed->driver, features, landlock);
  return virtproxy::run_daemon(*parsed, features, landlock);
}
