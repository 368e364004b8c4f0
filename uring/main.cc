#include <cstdio>
#include <cstdlib>

#include "uring/daemon.h"
#include "uring/log.h"
#include "uring/options.h"
#include "uring/ring.h"

namespace {

int fail(const std::string& message) {
  std::fprintf(stderr, "virtproxy: %s\n", message.c_str());
  return 1;
}

int show_features(const virtproxy::RingFeatures& wanted) {
  const auto ring = virtproxy::Ring::open(1, wanted);
  if (!ring) return fail(ring.error());
  for (const auto& [name, member] : virtproxy::RingFeatures::names()) {
    std::printf("%s %s\n", std::string(name).c_str(), (*ring)->features().*member ? "yes" : "no");
  }
  return 0;
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

  virtproxy::RingFeatures features;
  const char* from_environment = std::getenv("VIRTPROXY_DISABLE");
  for (const std::string_view list :
       {std::string_view(parsed->disabled),
        std::string_view(from_environment != nullptr ? from_environment : "")}) {
    if (const auto done = features.disable(list); !done) return fail(done.error());
  }
  if (parsed->show_features) return show_features(features);
  return virtproxy::run_daemon(*parsed, features);
}
