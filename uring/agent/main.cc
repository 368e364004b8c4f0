#include <csignal>
#include <cstdio>

#include "uring/agent/agent.h"
#include "uring/agent/client.h"
#include "uring/agent/drop_in.h"
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
  if (options->drop_in) {
    const auto text = virtproxy::agent::drop_in(*options->drop_in);
    if (!text) {
      std::fprintf(stderr, "virtagent: %s\n", text.error().c_str());
      return 1;
    }
    return std::fputs(text->c_str(), stdout) < 0 || std::fflush(stdout) != 0 ? 1 : 0;
  }
  virtproxy::prepare_log();
  return virtproxy::agent::Agent(std::move(*options->serve)).run();
}
