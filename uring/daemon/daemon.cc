#include "uring/daemon/daemon.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <numeric>
#include <set>
#include <system_error>
#include <utility>

#include "core/flow/limits.h"
#include "uring/base/log.h"
#include "uring/daemon/allocator.h"
#include "uring/daemon/control.h"
#include "uring/daemon/landlock.h"
#include "uring/daemon/listen_sockets.h"
#include "uring/daemon/listener_store.h"
#include "uring/daemon/privileges.h"
#include "uring/daemon/reload.h"
#include "uring/daemon/sandbox.h"
#include "uring/daemon/service_manager.h"
#include "uring/daemon/start_checks.h"
#include "uring/daemon/worker.h"
#include "uring/daemon/worker_configs.h"
#include "uring/net/local_ports.h"
#include "uring/service/logs/log_hub.h"

namespace virtproxy {
namespace {

// Streams that may be open at once, on all channels together.
uint64_t all_streams(const Options& options) {
  return std::accumulate(
      options.channels.begin(), options.channels.end(), uint64_t{0},
      [](uint64_t sum, const ChannelOptions& channel) { return sum + channel.max_streams; });
}

// Every client is a descriptor: take as many as the system lets us.
void raise_descriptor_limit(const Options& options) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  const uint64_t wanted = all_streams(options);
  if (limit.rlim_cur < wanted) {
    // One channel harms only itself.
    const LogLevel level = options.channels.size() > 1 ? LogLevel::kWarn : LogLevel::kDebug;
    log_at(level, "{} descriptors for up to {} streams (raise it: ulimit -n, LimitNOFILE=)",
           limit.rlim_cur, wanted);
  }
}

// Makes the kernel's table of descriptors as large as it will be needed. Where a table grows while
// the process has threads, the call that asked for the descriptor waits until no CPU reads the old
// one (synchronize_rcu()): 10 to 20 ms at 256 descriptors, at 512 and so on.
void reserve_descriptors(const Options& options) {
  constexpr uint64_t kBesideStreams = 1024;  // of a channel: pipes, sockets that are being closed
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  const uint64_t most = all_streams(options) + kBesideStreams * options.channels.size();
  const int fd = eventfd(0, EFD_CLOEXEC);
  const auto last = static_cast<int>(std::min<uint64_t>(most, limit.rlim_cur) - 1);
  if (const int at_end = fcntl(fd, F_DUPFD_CLOEXEC, last); at_end >= 0) close(at_end);
  if (fd >= 0) close(fd);
}

// The list of our own descriptors, opened once: a sandbox need not allow it later.
class DescriptorList {
 public:
  DescriptorList() : directory_(opendir("/proc/self/fd")) {}
  ~DescriptorList() {
    if (directory_ != nullptr) closedir(directory_);
  }
  DescriptorList(const DescriptorList&) = delete;
  DescriptorList& operator=(const DescriptorList&) = delete;

  size_t count() {
    if (directory_ == nullptr) return 0;
    // Since Linux 6.2 the size is the answer. To list thousands takes the kernel many milliseconds,
    // in which the processor may run nothing else.
    struct stat status {};
    if (fstat(dirfd(directory_), &status) == 0 && status.st_size > 0) {
      return static_cast<size_t>(status.st_size);
    }
    rewinddir(directory_);
    size_t entries = 0;
    while (readdir(directory_) != nullptr) ++entries;
    return entries - 2;  // "." and ".."
  }

 private:
  DIR* directory_;
};

// Whether a terminal can send this process signals: it was started from one and not detached.
bool has_controlling_terminal() {
  const int fd = open("/dev/tty", O_RDONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
  if (fd >= 0) close(fd);
  return fd >= 0;
}

// nohup(1) and others start a program with the signal ignored.
bool is_ignored(int signal) {
  struct sigaction action {};
  return sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

// The worker that has the channel which ships lines, and what it is to ship; nothing is opened yet.
WorkerConfig* shipping_worker(const Options& options, std::vector<WorkerConfig>& workers) {
  const ChannelOptions* const channel = shipping_channel(options);
  if (channel == nullptr) return nullptr;
  const auto place = static_cast<size_t>(channel - options.channels.data());
  WorkerConfig& worker = workers[place % workers.size()];
  worker.ship_channel = place / workers.size();
  return &worker;
}

logs::ShipConfig ship_config(const ProcessSettings& process) {
  logs::ShipConfig config{process.ship_sources, static_cast<size_t>(process.ship_memory),
                          process.ship_spool, to_duration(process.ship_flush_timeout)};
  if (process.user) config.owner = logs::FileOwner{process.user->uid, process.user->gid};
  return config;
}

// A worker that reports this often leaves room for a report that comes late by as much.
constexpr int kHeartbeatsPerWatchdog = 4;
// A loop has other work, however impatient the manager is.
constexpr Duration kShortestHeartbeat = std::chrono::milliseconds(1);

// Zero without a watchdog.
Duration heartbeat_interval(Duration watchdog) {
  if (watchdog == Duration::zero()) return watchdog;
  return std::max(watchdog / kHeartbeatsPerWatchdog, kShortestHeartbeat);
}

// How long the last resets and the end of requests to the kernel may take, after --drain-timeout:
// those of the workers, then those of the log hub.
constexpr Duration kEndLimit = std::chrono::seconds(5);
constexpr int kSlowness = 2;

// A service may have several listeners.
size_t services(const std::vector<ForwardSpec>& forwards) {
  std::set<std::pair<std::string_view, std::string_view>> names;
  for (const ForwardSpec& forward : forwards) names.emplace(forward.channel, forward.service);
  return names.size();
}

std::string ready_status(const Options& options) {
  return fmt::format("ready: channels {}, listening for {} services, offering {}",
                     options.channels.size(), services(options.oforwards),
                     services(options.iforwards));
}

class Daemon final : private Worker::Client {
 public:
  Daemon(const Options& options, ServiceManager manager)
      : options_(options), manager_(std::move(manager)), listeners_(manager_.stores()) {}
  ~Daemon() {
    if (signals_ >= 0) close(signals_);
  }

  int run(const DriverFeatures& features, bool landlock, Reloader::Read read) {
    prepare_allocator();
    const Options& options = options_;
    // Blocked before any thread starts, so that every thread inherits it.
    sigset_t set;
    sigemptyset(&set);
    for (const int signal : {SIGTERM, SIGINT, SIGUSR1, SIGUSR2}) sigaddset(&set, signal);
    if (!is_ignored(SIGHUP)) sigaddset(&set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGIO, SIG_IGN);
    signals_ = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (signals_ < 0) {
      log_error("cannot start: {}", std::strerror(errno));
      return 1;
    }
    log_debug("memory comes from {}", allocator_in_use());
    std::vector<WorkerConfig> configs = worker_configs(options, features);
    for (WorkerConfig& worker : configs) {
      worker.heartbeat = heartbeat_interval(manager_.watchdog());
      worker.events = &events_;
      worker.answer_far = [this](FarQuestion question) { answer_later(std::move(question)); };
    }
    set_end_limit();
    if (const auto checked = check_daemon(options); !checked) {
      log_error("{}", checked.error());
      return 1;
    }
    if (const auto prepared = prepare(options, landlock, configs); !prepared) {
      log_error("{}", prepared.error());
      return 1;
    }
    bool good = start_hub(options, features) && start(std::move(configs));
    if (good) {
      made_.keep();
      if (options.can_change()) {
        reloader_ = std::make_unique<Reloader>(options_, workers_, listeners_, manager_,
                                               std::move(read));
      }
      start_control(options);
      enter_sandbox(options);
      confinement_.filtered = sandboxed_;
      if (reloader_) reloader_->set_confinement(confinement_);
      log_info("ready");
      manager_.ready(ready_status(options));
    } else {
      request_drain();
    }
    if (hub_) hub_->go();
    for (const auto& worker : workers_) worker->go();
    if (good) good = wait_for_end();
    for (const auto& worker : workers_) worker->join();
    if (hub_) hub_->stop();
    if (good) log_info("stopped");
    return good ? 0 : 1;
  }

 private:
  // What needs privileges, and then the end of them. No other thread runs yet.
  tl::expected<void, std::string> prepare(const Options& options, bool landlock,
                                          std::vector<WorkerConfig>& configs) {
    prepare_log();
    keep_lockable_memory();
    LocalPorts::of_process();  // reads its range while the file system is in reach
    if (auto checked = check_paths(options); !checked) return checked;
    for (const std::string& line : unguarded(options)) log_warn("{}", line);
    for (const std::string& line : idle_modes(options)) log_warn("{}", line);
    for (const std::string& line : idle_channels(options)) log_warn("{}", line);
    auto kept = get_listen_sockets(configs, manager_, options.process.ship_sources);
    if (!kept) return tl::unexpected(kept.error());
    if (options.can_change()) {
      if (auto adopted = listeners_.adopt(configs); !adopted) return adopted;
    }
    if (auto bound = bind_control(options); !bound) return bound;
    if (WorkerConfig* worker = shipping_worker(options, configs)) {
      auto config = ship_config(options.process);
      if (manager_.stores()) config.sockets = logs::SocketEnd::kLeft;
      auto opened = logs::start_shipping(config, *std::move(kept), made_);
      if (!opened) return tl::unexpected(opened.error());
      worker->ship = *std::move(opened);
      manager_.store(ServiceManager::kSources, logs::sockets_of(*worker->ship), true);
    }
    const auto left = give_up_privileges(options);
    if (!left) return tl::unexpected(left.error());
    log_debug("running with {}", *left);
    listen_as_this_user(configs);
    if (geteuid() == 0) {
      log_warn(
          "running as root without --user: an intruder who takes over this process is root on all "
          "that the sandbox leaves open; give --user USER, a user that may use the "
          "devices and sockets of the command line");
    }
    if (auto checked = check_devices(options); !checked) return checked;
    if (auto opened = open_hub(options, configs); !opened) return opened;
    confine(options, landlock);
    return {};
  }

  // The sinks of --collect, by the user that writes to them later.
  tl::expected<void, std::string> open_hub(const Options& options,
                                           std::vector<WorkerConfig>& configs) {
    if (options.process.collect.empty()) return {};
    std::vector<std::string> vms;
    for (WorkerConfig& worker : configs) {
      for (const ChannelConfig& channel : worker.channels) {
        worker.vms.push_back(vms.size());
        vms.push_back(channel.spec.name);
      }
    }
    auto hub =
        LogHub::open(options.process.collect, options.process.collect_spool, std::move(vms), made_);
    if (!hub) return tl::unexpected(hub.error());
    hub_ = *std::move(hub);
    for (WorkerConfig& worker : configs) worker.log_hub = hub_.get();
    return {};
  }

  bool start_hub(const Options& options, const DriverFeatures& features) {
    if (!hub_) return true;
    try {
      const auto started = hub_->start(options.process.driver, features).get();
      if (!started) log_error("{}", started.error());
      return started.has_value();
    } catch (const std::system_error& error) {
      log_error("cannot start a thread: {} (raise ulimit -u)", error.what());
      return false;
    }
  }

  // Of the control socket and the metrics, while there are privileges for it.
  tl::expected<void, std::string> bind_control(const Options& options) {
    ListenRules rules;
    rules.mode = 0600;
    if (options.process.user) {
      rules.owner = options.process.user->uid;
      rules.group = options.process.user->gid;
    }
    for (const auto& [address, listening] :
         {std::pair(&options.process.control, &control_sockets_),
          std::pair(&options.process.metrics, &metrics_sockets_)}) {
      if (!*address) continue;
      auto bound = listen_on(**address, rules);
      if (!bound) return tl::unexpected(bound.error());
      *listening = *std::move(bound);
    }
    return {};
  }

  void start_control(const Options& options) {
    const bool is_asked = std::any_of(options.channels.begin(), options.channels.end(),
                                      [](const auto& each) { return each.settings.share_stats; });
    if (!options.process.metrics && !is_asked && !options.can_change()) return;
    control_ = std::make_unique<Control>(options, workers_, events_,
                                         Control::Actions{[this] { return facts(); },
                                                          [this](StatVisitor& visitor) {
                                                            if (hub_) hub_->visit_stats(visitor);
                                                          },
                                                          [this] { drain("the control socket"); },
                                                          [this] { stop_at_once(); },
                                                          [this](auto change, auto finish) {
                                                            make(change, finish);
                                                          }});
    if (options.process.control) control_->serve_commands(std::move(control_sockets_));
    if (options.process.metrics) control_->serve_metrics(std::move(metrics_sockets_));
  }

  // In a worker's thread.
  void answer_later(FarQuestion question) {
    mailbox_.post([this, question = std::move(question)] {
      if (control_) control_->answer_question(question);
    });
  }

  ProcessFacts facts() {
    std::string names;
    for (const DriverKind kind : drivers()) {
      names += (names.empty() ? "" : ", ") + std::string(driver_name(kind));
    }
    return {.driver = names,
            .sandbox = sandboxed_,
            .descriptors = descriptors_.count(),
            .log_lines_dropped = log_lines_dropped(),
            .log_lines_suppressed = log_lines_suppressed(),
            .state = stopping_ ? "draining" : "serving"};
  }

  // Rules of Landlock hold for the thread that sets them and those it starts: before the workers.
  void confine(const Options& options, bool landlock) {
    if (!options.process.sandbox || !Sandbox::available()) return;  // enter_sandbox() logs it
    if (!landlock) {
      log_info("files and ports are not confined: --disable landlock");
      return;
    }
    const auto abi = landlock_abi();
    if (!abi) {
      log_info("files and ports are not confined: {}", abi.error());
      return;
    }
    LandlockRules rules = landlock_rules(options, *abi);
    if (const auto done = apply_landlock(rules); !done) {
      log_warn("files and ports are not confined: {}", done.error());
      return;
    }
    confinement_.landlock = std::move(rules);
    if (const LandlockGap gap = landlock_gap(*abi); !gap.what.empty()) {
      log_at(gap.wide ? LogLevel::kInfo : LogLevel::kDebug,
             "files and ports are confined, but this kernel (Landlock ABI {}) leaves out {}", *abi,
             gap.what);
    }
  }

  // All threads are there and nothing from outside was read.
  void enter_sandbox(const Options& options) {
    if (!options.process.sandbox) {
      log_info("system calls are not filtered: --sandbox off");
      return;
    }
    if (!Sandbox::available()) {
      log_info("system calls are not filtered: this build has sanitizers");
      return;
    }
    const auto entered = sandbox_.enter(options, drivers());
    sandboxed_ = entered.has_value();
    if (!entered) log_warn("system calls are not filtered: {}", entered.error());
  }

  bool start(std::vector<WorkerConfig> configs) {
    bool good = true;
    std::vector<std::future<Worker::Started>> starting;
    for (WorkerConfig& config : configs) {
      try {
        workers_.push_back(std::make_unique<Worker>(std::move(config)));
        workers_.back()->report_to(mailbox_, this);
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
    std::set<std::string> warnings;  // of several workers the same
    for (const auto& worker : workers_) {
      warnings.insert(worker->warnings().begin(), worker->warnings().end());
    }
    for (const std::string& warning : warnings) log_warn("{}", warning);
    return good;
  }

  std::vector<DriverKind> drivers() const {
    std::set<DriverKind> used;
    for (const auto& worker : workers_) used.insert(worker->driver());
    if (hub_) used.insert(hub_->driver());
    return {used.begin(), used.end()};
  }

  // Until every worker has ended. False when one of them failed.
  bool wait_for_end() {
    while (ended_ < workers_.size()) {
      std::vector<pollfd> waits{
          {signals_, POLLIN, 0}, {mailbox_.fd(), POLLIN, 0}, {sandbox_.alarm(), POLLIN, 0}};
      if (reloader_) waits.push_back({reloader_->fd(), POLLIN, 0});
      if (control_) control_->add_to(waits);
      if (poll(waits.data(), waits.size(), -1) < 0) continue;
      if (reloader_ && (waits[3].revents & POLLIN) != 0) reloader_->run();
      if (control_) control_->handle(waits);
      if ((waits[2].revents & POLLIN) != 0) sandbox_.report();
      if ((waits[1].revents & POLLIN) != 0) {
        uint64_t count = 0;
        [[maybe_unused]] const ssize_t taken = read(mailbox_.fd(), &count, sizeof count);
        mailbox_.run();
      }
      signalfd_siginfo info{};
      while (read(signals_, &info, sizeof info) == sizeof info) on_signal(info.ssi_signo);
    }
    return !has_failed();
  }

  void channel_failed(const std::string& name) override { reloader_->forget(name); }

  bool has_failed() const {
    return std::any_of(workers_.begin(), workers_.end(),
                       [](const auto& worker) { return worker->failed(); });
  }

  void worker_ended() override {
    ++ended_;
    if (!has_failed() || std::exchange(stopping_, true)) return;
    manager_.stopping("stopping: a thread has failed", end_limit_);
    request_drain();
  }

  void request_drain() {
    listeners_.close_all();
    for (const auto& worker : workers_) worker->request_drain();
  }

  // The manager is told once every worker has reported: one that hangs stops it for all.
  void worker_beat() override {
    const auto reported = [](const auto& worker) { return worker->has_heartbeat(); };
    if (!std::all_of(workers_.begin(), workers_.end(), reported)) return;
    for (const auto& worker : workers_) worker->clear_heartbeat();
    manager_.alive();
  }

  void on_signal(uint32_t number) {
    if (number == SIGUSR1) {
      for (const auto& worker : workers_) worker->request_stats();
      log_answer("stats process descriptors={} log_lines_dropped={}", descriptors_.count(),
               log_lines_dropped());
      return;
    }
    if (number == SIGUSR2) {
      log_info("SIGUSR2 is ignored: it has no meaning here (SIGUSR1 logs stats)");
      return;
    }
    if (number == SIGHUP && options_.from_file) {
      if (!stopping_) make({}, [](const auto&) {});
      return;
    }
    if (number == SIGHUP && !has_terminal_) {
      log_info("SIGHUP is ignored: there is no --config FILE to read again");
      return;
    }
    if (!stopping_) return drain(number == SIGHUP ? "the terminal hung up" : "");
    // A terminal that goes away may send its signal twice.
    if (number == SIGHUP) return;
    stop_at_once();
  }

  // `reason` completes the line of the log; it may be empty. Does nothing the second time.
  void drain(std::string_view reason) {
    if (std::exchange(stopping_, true)) return;
    log_info("stopping: no new streams{}", reason.empty() ? "" : fmt::format(" ({})", reason));
    manager_.stopping("stopping: open streams may finish", end_limit_);
    request_drain();
  }

  // The service manager is told before and after.
  void make(const ChannelChange& change, const ChannelChange::Finish& finish) {
    if (stopping_) return finish(tl::unexpected<std::string>("the process is about to end"));
    manager_.reloading();
    reloader_->make(change, [this, finish](const ChannelChange::Result& result) {
      set_end_limit();
      if (!stopping_) manager_.ready(ready_status(options_));
      finish(result);
    });
  }

  void set_end_limit() {
    const ProcessSettings& process = options_.process;
    Duration limits = to_duration(process.drain_timeout);
    if (!process.ship_sources.empty()) {
      limits += to_duration(process.ship_flush_timeout) + logs::LogShipper::kSyncLimit;
    }
    // In real time, which limits of a loop that hardly gets to run may exceed.
    end_limit_ = kSlowness * (limits + kEndLimit);
  }

  void stop_at_once() {
    stopping_ = true;
    listeners_.close_all();
    log_info("stopping at once: open streams are reset");
    for (const auto& worker : workers_) worker->request_stop();
  }

  Options options_;
  Mailbox mailbox_;   // of this thread; workers report to it
  size_t ended_ = 0;  // workers
  int signals_ = -1;
  bool stopping_ = false;
  bool sandboxed_ = false;
  const bool has_terminal_ = has_controlling_terminal();
  Duration end_limit_{};
  DescriptorList descriptors_;
  ServiceManager manager_;
  MadeFiles made_;
  ListenerStore listeners_;
  Sandbox sandbox_;
  Confinement confinement_;
  Listening control_sockets_;
  Listening metrics_sockets_;
  std::unique_ptr<LogHub> hub_;  // outlives the workers
  EventRing events_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::unique_ptr<Reloader> reloader_;
  std::unique_ptr<Control> control_;
};

}  // namespace

tl::expected<void, std::string> check_daemon(const Options& options) {
  for (const ChannelOptions& channel : options.channels) {
    if (auto checked = check_config(channel_config(channel)); !checked) return checked;
  }
  return {};
}

int run_daemon(const Options& options, const DriverFeatures& features, bool landlock,
               std::function<ParseResult()> read) {
  raise_descriptor_limit(options);
  reserve_descriptors(options);
  auto manager = ServiceManager::from_environment();
  if (!manager) {
    log_error("{}", manager.error());
    return 1;
  }
  try {
    return Daemon(options, *std::move(manager)).run(features, landlock, std::move(read));
  } catch (const std::system_error& error) {
    // No descriptor is left for the mailbox of this thread: no worker has been started.
    log_error("cannot start: {}", error.code().message());
    return 1;
  }
}

}  // namespace virtproxy
