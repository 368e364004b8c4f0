#include <csignal>
#include <cstdio>

#include "uring/agent/agent.h"
#include "uring/agent/client.h"
#include "uring/agent/options.h"

int main(int argc, char** argv) {
  virtproxy::open_standard_descriptors();
  // sendfile(2) has no flag against it.
  std::signal(SIGPIPE, SIG_IGN);
  auto options = virtproxy::agent::parse_options(argc, argv);
  if (!options) {
    std::fputs(options.error().text.c_str(), options.error().code == 0 ? stdout : stderr);
    return options.error().code;
  }
  virtproxy::set_log_level(options->log_level);
  if (options->client) return virtproxy::agent::run_client(*options->client);
  virtproxy::prepare_log();
  return virtproxy::agent::Agent(std::move(*options->serve)).run();
}
