#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "uring/base/log.h"
#include "uring/daemon/daemon.h"
#include "uring/daemon/landlock.h"
#include "uring/daemon/options.h"
#include "uring/io/open_driver.h"

namespace {

int fail(const std::string& message, int code = 1) {
  std::fprintf(stderr, "virtproxy: %s\n", message.c_str());
  return code;
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

}  // namespace

int main(int argc, char** argv) {
  virtproxy::open_standard_descriptors();
  const auto parsed = virtproxy::parse_options(argc, argv);
  if (!parsed) {
    std::fputs(parsed.error().text.c_str(), parsed.error().to_stderr ? stderr : stdout);
    return parsed.error().code;
  }
  const virtproxy::Options& options = *parsed;
  virtproxy::set_log_level(options.process.log_level);
  virtproxy::set_log_format(options.process.log_format);

  virtproxy::DriverFeatures features;
  bool landlock = true;
  const int code =
      options.from_file || options.task == virtproxy::Task::kCheck ? virtproxy::kConfigError : 1;
  std::vector<std::string> disabled = options.process.disabled;
  if (const char* more = std::getenv("VIRTPROXY_DISABLE")) disabled.emplace_back(more);
  for (const std::string& list : disabled) {
    const auto done = virtproxy::disable(list, features, landlock);
    if (!done) return fail(done.error(), code);
  }
  switch (options.task) {
    case virtproxy::Task::kShowFeatures:
      return show_features(options.process.driver, features, landlock);
    case virtproxy::Task::kCheck:
    case virtproxy::Task::kPrintConfig:
      if (const auto checked = virtproxy::check_daemon(options); !checked) {
        return fail(checked.error(), code);
      }
      if (options.task == virtproxy::Task::kPrintConfig) {
        std::fputs(virtproxy::print_config(options).c_str(), stdout);
      }
      return 0;
    case virtproxy::Task::kRun:
      break;
  }
  return virtproxy::run_daemon(options, features, landlock,
                               [=] { return virtproxy::parse_options(argc, argv); });
}
