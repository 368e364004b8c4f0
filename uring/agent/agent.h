// The program that serves: `virtagent guest` and `virtagent host`. One thread, one poll(2) loop, no
// io_uring, so that it runs on any kernel.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/agent/rate_limiter.h"
#include "uring/agent/child.h"
#include "uring/agent/link.h"
#include "uring/agent/options.h"
#include "uring/base/log.h"
#include "uring/base/running_clock.h"

namespace virtproxy::agent {

WallTime wall_time();
// A number that another process at this place has not begun with.
uint64_t random_first_id();

class Agent {
 public:
  static constexpr ptrdiff_t kMostLinks = 128;  // streams, and as many of this machine's programs
  static constexpr const char* kFrozenLongEnough = "they were frozen for as long as is allowed";

  explicit Agent(ServeOptions options);
  // The exit code.
  int run();

 private:
  static constexpr Duration kShutdownLimit = std::chrono::seconds(30);
  enum class JobKind { kMethod, kHook, kFreeze, kShutdown };
  struct Job {
    uint64_t link;
    uint64_t token;
    JobKind kind;
    Child child;
    Instant deadline;
    bool ended = false;  // its output has
  };
  struct Listener {
    UniqueFd fd;
    std::string path;
    Source source;
  };
  // A guest-fsfreeze-thaw that is answered once the file systems are usable.
  struct ThawCall {
    uint64_t link;
    uint64_t token;
    Instant deadline;
  };
  // A call of a program of this machine that goes to the other end of the port.
  struct Forward {
    uint64_t link;
    uint64_t token;
    std::string method;
    Json arguments;
    Instant made_at;
    Instant deadline;
    uint64_t call = 0;  // 0 while it waits
  };

  // agent.cc: the loop.
  std::optional<std::string> start();
  bool turn();
  void on_signal();
  bool may_accept(const Listener& listener) const;
  void accept_from(Listener& listener);
  Link& add_stream(Source source, UniqueFd fd);
  void open_link(Link& link);
  void close_link(Link& link);
  void drop_transport(Link& link, const std::string& reason);
  void forget_peer(Link& link);
  void await_host(Link& link);
  void serve_link(Link& link, short revents);
  void take_requests(Link& link);
  void write_to(Link& link);
  void take_upload(Link& link);
  void end_download(Link& link);
  void run_timers();
  std::optional<Instant> next_timer() const;
  Link* find(uint64_t id);
  Link* port_at(const std::string& path) const;

  // calls.cc: requests, their answers, and what else conversations report.
  void act(Link& link);
  void on_request(Link& link, Notice notice);
  void on_event(Link& link, const Notice& notice);
  void answer(Link& link, uint64_t token, const Result& result);
  void log_call(const Link& link, const OpenCall& call, const Result& result);
  void abandon(Link& link, uint64_t token);
  void forward_next();
  Link* port_link() const;
  std::optional<Instant> unreachable_at(const Forward& forward) const;
  void refuse_unreachable();
  void end_forward(uint64_t call, const Result& result);
  void start_job(Link& link, uint64_t token, JobKind kind, tl::expected<Child, Error> child,
                 Duration limit);
  void finish_job(Job& job, int status);
  void shutdown_failed(const std::string& why);
  void emit(std::string_view event, const Json& data);

  // The methods: the result, or nothing if it comes later.
  using Reply = std::optional<Result>;
  Reply serve_guest(Link& link, uint64_t token, const std::string& method, const Json& arguments);
  Reply serve_files(Link& link, uint64_t token, const std::string& method, const Json& arguments);
  Reply serve_host(Link& link, const std::string& method, const Json& arguments);
  Reply start_shutdown(Link& link, uint64_t token, const std::string& method,
                       const Json& arguments);

  // freeze.cc: freezing the file systems. What becomes of them is guard_.file_systems alone: not
  // kUsable as long as the process of freezer_ runs.
  bool usable() const { return guard_.file_systems == FileSystems::kUsable; }
  Reply start_freeze(Link& link, uint64_t token);
  Result finish_freeze(const Child& child);
  Reply start_thaw(Link& link, uint64_t token);
  void thaw(const char* why);
  void begin_thaw(const char* why);
  void watch_freezer();
  void expire_thaw_calls();
  void close_file(UniqueFd file);
  void close_files(Link& link);

  const ServeOptions options_;
  Guard guard_;
  RunningClock clock_;
  Instant now_{};  // of the turn, by clock_
  UniqueFd signals_;
  std::vector<Listener> listeners_;
  std::vector<std::unique_ptr<Link>> links_;
  std::deque<Job> jobs_;
  std::deque<Forward> forwards_;
  uint64_t next_link_ = 1;
  std::optional<Instant> accept_at_;  // when descriptors had run out
  std::optional<Instant> stop_at_;    // after a signal
  RateLimit call_lines_{200};
  RateLimit bad_lines_{5};

  // Of a guest.
  AllowedDirectories read_;
  AllowedDirectories write_;
  Freezer freezer_;
  Instant thaw_at_{};                    // while frozen
  const char* thaw_reason_ = "";         // while being thawed
  std::optional<int64_t> frozen_count_;  // once they were frozen, until they are usable
  std::vector<ThawCall> thaw_calls_;
  std::vector<UniqueFd> unclosed_;  // files to close once they are usable
  std::optional<Instant> shutdown_at_;
  std::string shutdown_option_;
  bool shutting_down_ = false;

  // Of a host.
  AllowedDirectories metadata_;
  RateLimiter time_rate_{10, 10};
  RateLimiter log_rate_{100, 200};
  RateLimiter notify_rate_{20, 20};
  RateLimiter metadata_rate_{20, 20};
  uint64_t logs_dropped_ = 0;
};

}  // namespace virtproxy::agent
