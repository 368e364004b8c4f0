#include "environment.h"

#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include "failure.h"
#include "sink.h"

namespace virtproxy::bench {
namespace {

std::atomic<bool> g_interrupted{false};
std::atomic<Sink*> g_served{nullptr};

void on_signal(int) {
  g_interrupted.store(true);
  if (Sink* sink = g_served.load()) sink->stop();
}

}  // namespace

bool interrupted() { return g_interrupted.load(); }

void install_signals(Sink* served) {
  g_served.store(served);
  struct sigaction action {};
  action.sa_handler = on_signal;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  ::sigaction(SIGALRM, &action, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
}

void pin_thread(const std::vector<int>& cpus, size_t index) {
  if (cpus.empty()) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpus[index % cpus.size()], &set);
  if (::sched_setaffinity(0, sizeof(set), &set) != 0) {
    throw Failure(Outcome::kUsage, fmt::format("cannot pin to CPU {}: {}",
                                               cpus[index % cpus.size()], std::strerror(errno)));
  }
}

void allow_descriptors(size_t wanted) {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_max < wanted) {
    // Only root may; the check below tells.
    const rlimit raised{wanted, wanted};
    if (::setrlimit(RLIMIT_NOFILE, &raised) == 0) return;
  }
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_cur < wanted) {
    throw Failure(
        Outcome::kUsage,
        fmt::format("{} descriptors are needed but only {} allowed: raise ulimit -n, or let "
                    "`serve` hold the sinks",
                    wanted, limit.rlim_cur));
  }
}

}  // namespace virtproxy::bench
