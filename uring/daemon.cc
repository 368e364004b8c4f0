#include "uring/daemon.h"

#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <system_error>
#include <utility>

#include "core/limits.h"
#include "uring/allocator.h"
#include "uring/log.h"
#include "uring/worker.h"

namespace virtproxy {
namespace {

Duration to_duration(double seconds) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

uint64_t random_number() {
  uint64_t number = 0;
  while (getrandom(&number, sizeof number, 0) != sizeof number) {
  }
  return number;
}

// Every client is a descriptor: take as many as the system lets us.
void raise_descriptor_limit(const Options& options) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  const uint64_t wanted = uint64_t{options.max_streams} * options.channels.size();
  if (limit.rlim_cur < wanted) {
    log_debug("{} descriptors for up to {} streams (raise it: ulimit -n, LimitNOFILE=)",
              limit.rlim_cur, wanted);
  }
}

size_t open_descriptors() {
  DIR* directory = opendir("/proc/self/fd");
  if (directory == nullptr) return 0;
  size_t count = 0;
  while (readdir(directory) != nullptr) ++count;
  closedir(directory);
  return count - 3;  // ".", ".." and the directory itself
}

ChannelConfig channel_config(const Options& options, const ChannelSpec& spec) {
  ChannelConfig config;
  config.spec = spec;
  const auto of_this = [&](const ForwardSpec& forward) { return forward.id == spec.id; };
  std::copy_if(options.oforwards.begin(), options.oforwards.end(),
               std::back_inserter(config.oforwards), of_this);
  std::copy_if(options.iforwards.begin(), options.iforwards.end(),
               std::back_inserter(config.iforwards), of_this);
  config.memory = options.memory / options.channels.size();
  config.max_streams = options.max_streams;
  config.window = static_cast<uint32_t>(options.window);
  config.seal = options.seal;
  config.protocol = options.protocol;
  config.old.hold = options.hold;
  config.old.stall_timeout = to_duration(options.stall_timeout);
  config.old.ack_timeout = to_duration(options.ack_timeout);
  config.dial_timeout = to_duration(options.dial_timeout);
  config.secret = random_number();
  config.release_memory = release_free_memory;
  return config;
}

std::vector<WorkerConfig> worker_configs(const Options& options, const RingFeatures& features) {
  const size_t count = std::min<size_t>(options.threads, options.channels.size());
  std::vector<WorkerConfig> workers(count);
  for (WorkerConfig& worker : workers) {
    worker.features = features;
    worker.drain_timeout = to_duration(options.drain_timeout);
  }
  for (size_t i = 0; i < options.channels.size(); ++i) {
    WorkerConfig& worker = workers[i % count];
    ChannelConfig channel = channel_config(options, options.channels[i]);
    channel.first_buffer_group = static_cast<uint16_t>(2 * worker.channels.size());
    worker.channels.push_back(std::move(channel));
  }
  return workers;
}

class Daemon {
 public:
  Daemon() : ended_(eventfd(0, EFD_CLOEXEC)) {}
  ~Daemon() {
    if (ended_ >= 0) close(ended_);
    if (signals_ >= 0) close(signals_);
  }

  int run(const Options& options, const RingFeatures& features) {
    // Blocked before any thread starts, so that every thread inherits it.
    sigset_t set;
    sigemptyset(&set);
    for (const int signal : {SIGTERM, SIGINT, SIGUSR1}) sigaddset(&set, signal);
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGIO, SIG_IGN);
    signals_ = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (signals_ < 0 || ended_ < 0) {
      log_error("cannot start: {}", std::strerror(errno));
      return 1;
    }
    log_debug("memory comes from {}", allocator_in_use());
    std::vector<WorkerConfig> configs = worker_configs(options, features);
    if (const auto checked = Channel::check(configs.front().channels.front()); !checked) {
      log_error("{}", checked.error());
      return 1;
    }
    bool good = start(std::move(configs));
    if (good) {
      log_info("ready");
      good = wait_for_end();
    } else {
      request_drain();
    }
    for (const auto& worker : workers_) worker->join();
    if (good) log_info("stopped");
    return good ? 0 : 1;
  }

 private:
  bool start(std::vector<WorkerConfig> configs) {
    bool good = true;
    std::vector<std::future<Worker::Started>> starting;
    for (WorkerConfig& config : configs) {
      workers_.push_back(std::make_unique<Worker>(std::move(config)));
      workers_.back()->set_end_signal(ended_);
      try {
        starting.push_back(workers_.back()->start());
      } catch (const std::system_error& error) {
        log_error("cannot start a thread: {} (use fewer --threads, or raise ulimit -u)",
                  error.what());
        good = false;
        break;
      }
    }
    for (auto& started : starting) {
      if (const auto result = started.get(); !result) {
        log_error("{}", result.error());
        good = false;
      }
    }
    return good;
  }

  // Until every worker has ended. False when one of them failed.
  bool wait_for_end() {
    bool good = true;
    for (size_t running = workers_.size(); running > 0;) {
      pollfd waits[] = {{signals_, POLLIN, 0}, {ended_, POLLIN, 0}};
      if (poll(waits, 2, -1) < 0) continue;
      uint64_t ended = 0;
      if ((waits[1].revents & POLLIN) != 0 && read(ended_, &ended, sizeof ended) > 0) {
        running -= ended;
        good = std::none_of(workers_.begin(), workers_.end(),
                            [](const auto& worker) { return worker->failed(); });
        if (!good && !std::exchange(stopping_, true)) request_drain();
      }
      signalfd_siginfo info{};
      while (read(signals_, &info, sizeof info) == sizeof info) on_signal(info.ssi_signo);
    }
    return good;
  }

  void request_drain() {
    for (const auto& worker : workers_) worker->request_drain();
  }

  void on_signal(uint32_t number) {
    if (number == SIGUSR1) {
      for (const auto& worker : workers_) worker->request_figures();
      log_info("stats process descriptors={} log_lines_dropped={}", open_descriptors(),
               log_lines_dropped());
      return;
    }
    log_info("stopping: no new streams{}", stopping_ ? ", and no more patience" : "");
    stopping_ = true;
    request_drain();
  }

  int ended_;
  int signals_ = -1;
  bool stopping_ = false;
  std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace

int run_daemon(const Options& options, const RingFeatures& features) {
  raise_descriptor_limit(options);
  return Daemon().run(options, features);
}

}  // namespace virtproxy
