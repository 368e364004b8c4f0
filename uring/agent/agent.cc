#include "uring/agent/agent.h"

#include <poll.h>
#include <signal.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <utility>

namespace virtproxy::agent {
namespace {

constexpr Duration kRetry = std::chrono::milliseconds(250);
// For the last events, after a signal to stop.
constexpr Duration kLastWords = std::chrono::milliseconds(500);
// A virtio port that nobody has opened at the other end cannot be waited for.
constexpr Duration kLookAgain = std::chrono::milliseconds(250);
// A device that is lost sooner than kLasting after each opening is opened after twice the time, up
// to kLongestRetry.
constexpr Duration kLasting = std::chrono::seconds(10);
constexpr Duration kLongestRetry = std::chrono::seconds(8);
constexpr const char* kPeerGone = "the other end is gone";
constexpr const char* kDeviceGone = "the device is gone or has hung up";

std::string peer_of(int fd) {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return "unix";
  return "uid=" + std::to_string(peer.uid) + " pid=" + std::to_string(peer.pid);
}

}  // namespace

WallTime wall_time() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return {now.tv_sec, now.tv_nsec / 1000};
}

uint64_t random_first_id() {
  uint64_t value = 0;
  if (getrandom(&value, sizeof value, GRND_NONBLOCK) != sizeof value) {
    value = static_cast<uint64_t>(monotonic_now().count());
  }
  return value >> 12;
}

Agent::Agent(ServeOptions options) : options_(std::move(options)) {
  guard_.role = options_.role;
  guard_.permissions = options_.rules.permissions;
}

std::optional<std::string> Agent::start() {
  now_ = clock_.now();
  const auto open = [](const std::vector<std::string>& paths, AllowedDirectories& to) {
    auto opened = AllowedDirectories::open(paths);
    if (!opened) return std::optional(opened.error());
    to = std::move(*opened);
    return std::optional<std::string>();
  };
  if (auto error = open(options_.rules.read, read_)) return error;
  if (auto error = open(options_.rules.write, write_)) return error;
  if (!options_.rules.metadata.empty()) {
    if (auto error = open({options_.rules.metadata}, metadata_)) return error;
  }
  for (const auto& [name, program] : options_.rules.hooks) {
    if (auto fault = program_fault(program)) return "hook " + name + ": " + *fault;
  }
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGCHLD}) sigaddset(&set, signal);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  signals_ = UniqueFd(signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC));
  const auto add_listener = [&](const std::string& path, Source source) {
    auto fd = listen_unix(path);
    if (!fd) return std::optional(fd.error());
    listeners_.push_back({std::move(*fd), path, source});
    return std::optional<std::string>();
  };
  for (const PortSpec& port : options_.ports) {
    if (port.method == PortSpec::Method::kUnixListen) {
      if (auto error = add_listener(port.path, Source::kPort)) return error;
    }
    ConversationConfig config;
    config.hello = hello_of(guard_, VIRTPROXY_VERSION, Source::kPort);
    config.needs_hello = options_.role == Role::kGuest;
    config.first_id = random_first_id();
    auto link = std::make_unique<Link>(next_link_++, Source::kPort, config,
                                       options_.role == Role::kGuest ? guest_pace : host_pace);
    link->port = port;
    link->who = "port=" + port.path;
    link->alone_since = now_;
    if (port.method != PortSpec::Method::kUnixListen) link->retry_at = now_;
    links_.push_back(std::move(link));
  }
  for (const std::string& path : options_.listen) {
    if (auto error = add_listener(path, Source::kStream)) return error;
  }
  for (const std::string& path : options_.local) {
    if (auto error = add_listener(path, Source::kLocal)) return error;
  }
  return std::nullopt;
}

int Agent::run() {
  if (const auto error = start()) {
    log_error("{}", *error);
    return 1;
  }
  log_info("virtagent {} ready, {}", VIRTPROXY_VERSION,
           options_.role == Role::kGuest ? "guest" : "host");
  while (turn()) {
  }
  // May wait for the thaw, which needs this process no more.
  set_log_file(LogFile::kWritten);
  for (const Listener& listener : listeners_) unlink(listener.path.c_str());
  return 0;
}

Link* Agent::find(uint64_t id) {
  const auto found =
      std::find_if(links_.begin(), links_.end(), [&](const auto& link) { return link->id == id; });
  return found == links_.end() ? nullptr : found->get();
}

bool Agent::turn() {
  std::vector<pollfd> polls{{signals_.get(), POLLIN, 0}};
  if (accept_at_ && now_ >= *accept_at_) accept_at_.reset();
  for (const Listener& listener : listeners_) {
    polls.push_back({may_accept(listener) ? listener.fd.get() : -1, POLLIN, 0});
  }
  std::vector<uint64_t> polled;
  for (const auto& link : links_) {
    if (!link->fd || link->retry_at) continue;
    polled.push_back(link->id);
    polls.push_back({link->fd.get(), link->events(), 0});
  }
  const size_t first_job = polls.size();
  for (const Job& job : jobs_) polls.push_back({job.ended ? -1 : job.child.output(), POLLIN, 0});
  const size_t last_job = polls.size();
  // While it freezes, its end is that of its job.
  if (guard_.file_systems == FileSystems::kFrozen || guard_.file_systems == FileSystems::kThawing) {
    polls.push_back({freezer_.process(), 0, 0});
  }

  timespec limit{};
  std::optional<Instant> until;
  if (const auto next = next_timer()) {
    until = clock_.sleep_until(*next);
    const Duration left = std::max(Duration(0), *until - monotonic_now());
    limit = {left.count() / 1000000000, left.count() % 1000000000};
  }
  if (ppoll(polls.data(), polls.size(), until ? &limit : nullptr, nullptr) < 0 && errno != EINTR) {
    log_error("poll failed with errno {}", errno);
    return false;
  }
  clock_.woke(until);
  now_ = clock_.now();
  size_t at = 0;
  if (polls[at++].revents != 0) on_signal();
  const size_t listeners = listeners_.size();
  for (size_t i = 0; i < listeners; ++i) {
    if (polls[at++].revents != 0) accept_from(listeners_[i]);
  }
  for (const uint64_t id : polled) {
    const short revents = polls[at++].revents;
    Link* const link = find(id);
    if (link != nullptr && revents != 0) serve_link(*link, revents);
  }
  for (size_t i = 0; first_job + i < last_job; ++i) {
    if (polls[first_job + i].revents != 0) jobs_[i].ended = !jobs_[i].child.read_some();
  }
  for (Job& job : jobs_) {
    if (!job.ended) continue;
    if (const auto status = job.child.try_wait()) {
      finish_job(job, *status);
      job.link = job.token = 0;
      job.deadline = {};
    }
  }
  std::erase_if(jobs_, [](const Job& job) { return job.deadline == Instant{}; });
  watch_freezer();
  // What has come counts before the time that has passed: this process may have been stopped.
  for (const auto& link : links_) {
    if (link->fd && !link->retry_at) take_requests(*link);
  }
  run_timers();
  // Whatever has come to be written is tried at once, and a file's next slice when the answers are
  // gone.
  for (const bool of_files : {false, true}) {
    for (const auto& link : links_) {
      if (!link->fd || link->retry_at || link->download.has_value() != of_files) continue;
      write_to(*link);
    }
  }
  // The loop above may have ended a call or the greeting of the port. The next waiting call goes
  // out now: nothing else would wake poll(2) for it.
  forward_next();
  std::erase_if(links_, [](const auto& link) { return !link->fd && !link->port; });
  if (!stop_at_) return true;
  // What the other ends of ports are to know of it has been written, or they do not read.
  const bool written = std::all_of(links_.begin(), links_.end(), [](const auto& link) {
    return !link->fd || !link->port || link->conversation.pending().empty();
  });
  // va-thawed is among it.
  return !(written && usable()) && now_ < *stop_at_;
}

void Agent::on_signal() {
  signalfd_siginfo info{};
  while (read(signals_.get(), &info, sizeof info) == sizeof info) {
    if (info.ssi_signo == SIGCHLD) {
      reap_killed();
    } else if (!stop_at_) {
      log_info("stopping, signal {}", info.ssi_signo);
      thaw("the agent stops");
      if (options_.role == Role::kGuest) emit("va-stopping", Json::object());
      stop_at_ = now_ + kLastWords;
    } else {
      _exit(0);
    }
  }
}

bool Agent::may_accept(const Listener& listener) const {
  if (accept_at_) return false;
  if (listener.source == Source::kPort) {
    // A port has one other end. The next one waits in the backlog until that is gone.
    const Link* const port = port_at(listener.path);
    return port == nullptr || !port->fd;
  }
  // Streams, which the other end opens, do not take the places of this machine's programs.
  return std::count_if(links_.begin(), links_.end(), [&](const auto& link) {
           return !link->port && link->source == listener.source;
         }) < kMostLinks;
}

// All that wait, and what they have said already: otherwise each call would wait for two turns,
// which are long while files are sent.
void Agent::accept_from(Listener& listener) {
  while (may_accept(listener)) {
    UniqueFd fd(accept4(listener.fd.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!fd) {
      // Out of descriptors, the listener would stay readable.
      if (errno != EAGAIN) accept_at_ = now_ + kRetry;
      return;
    }
    if (listener.source == Source::kPort) {
      Link* const port = port_at(listener.path);
      if (port == nullptr) return;
      port->fd = std::move(fd);
      open_link(*port);
    } else {
      serve_link(add_stream(listener.source, std::move(fd)), POLLIN);
    }
  }
}

Link* Agent::port_at(const std::string& path) const {
  const auto port = std::find_if(links_.begin(), links_.end(), [&](const auto& link) {
    return link->port && link->port->path == path;
  });
  return port == links_.end() ? nullptr : port->get();
}

Link& Agent::add_stream(Source source, UniqueFd fd) {
  ConversationConfig config;
  config.transport = ConversationConfig::Transport::kStream;
  config.max_answer = kMaxStreamAnswer;
  config.sync_first = false;
  config.first_id = random_first_id();
  auto link = std::make_unique<Link>(next_link_++, source, config,
                                     options_.role == Role::kGuest ? guest_pace : host_pace);
  link->who = (source == Source::kLocal ? "local " : "stream ") + peer_of(fd.get());
  link->fd = std::move(fd);
  links_.push_back(std::move(link));
  return *links_.back();
}

void Agent::open_link(Link& link) {
  link.retry_at.reset();
  link.complained = false;
  link.alone_since.reset();
  link.conversation.restart(now_);
  log_info("{}: open", link.who);
  if (options_.role == Role::kHost) {
    link.conversation.greet(now_);
  } else {
    link.conversation.post_event(
        encode_event("va-started", {{"version", VIRTPROXY_VERSION}}, wall_time()), now_);
  }
}

void Agent::close_link(Link& link) {
  link.fd.reset();
  link.upload.reset();
  close_files(link);
  const Error gone = io_error("ECONNRESET", "the caller is gone");
  for (const auto& [token, call] : link.calls) log_call(link, call, tl::unexpected(gone));
  std::vector<uint64_t> tokens;
  for (const auto& [token, call] : link.calls) tokens.push_back(token);
  for (const uint64_t token : tokens) abandon(link, token);
}

void Agent::drop_transport(Link& link, const std::string& reason) {
  close_link(link);
  if (!link.port) return;
  log_info("{}: closed, {}", link.who, reason);
  forget_peer(link);
  if (link.port->method == PortSpec::Method::kUnixListen) return;
  const bool lasted = !link.port->is_device() || now_ - link.opened_at >= kLasting;
  link.reopen_after = lasted ? kRetry : std::clamp(2 * link.reopen_after, kRetry, kLongestRetry);
  link.retry_at = now_ + link.reopen_after;
}

// Nothing that was under way on a port concerns the peer that comes next.
void Agent::forget_peer(Link& link) {
  link.unread.clear();
  close_files(link);
  if (!link.alone_since) link.alone_since = now_;
  link.conversation.restart(now_);
  act(link);
}

// The program at the other end of a device has closed it. The descriptor stays.
void Agent::await_host(Link& link) {
  forget_peer(link);
  link.retry_at = now_ + kLookAgain;
}

void Agent::serve_link(Link& link, short revents) {
  const bool device = link.port && link.port->is_device();
  if (device && (revents & (POLLHUP | POLLERR)) != 0) {
    const PortState state = port_state(*link.port, link.fd.get());
    if (state == PortState::kGone) return drop_transport(link, kDeviceGone);
    // Another program may have opened the other end since.
    return await_host(link);
  }
  if ((revents & (POLLIN | POLLHUP | POLLERR)) != 0) {
    const bool gone = !link.read_some() || (revents & POLLERR) != 0;
    // Both directions of a socket are closed: its client has cancelled.
    const bool cancelled = (revents & POLLHUP) != 0 && (revents & POLLIN) == 0;
    // The host may have closed its end after poll(2) looked.
    if (gone && device && port_state(*link.port, link.fd.get()) == PortState::kNoPeer) {
      return await_host(link);
    }
    if (gone || cancelled) return drop_transport(link, kPeerGone);
  }
  take_upload(link);
}

void Agent::take_requests(Link& link) {
  while (link.parse(now_)) act(link);
  act(link);
}

// What was read is looked at before, so that its answer leaves in the same turn, and after, because
// the next request may have waited for this.
void Agent::write_to(Link& link) {
  take_requests(link);
  if (!link.fd) return;
  if (!link.write_some(now_)) return drop_transport(link, kPeerGone);
  end_download(link);
  take_requests(link);
  take_upload(link);
  if (link.fd && !link.port && link.finished()) close_link(link);
}

void Agent::take_upload(Link& link) {
  if (!link.upload) return;
  const size_t size = std::min<uint64_t>(link.unread.size(), link.upload->left());
  std::optional<Error> error = link.upload->add(std::string_view(link.unread).substr(0, size));
  link.unread.erase(0, size);
  if (!error && link.upload->left() > 0) {
    if (link.input == Link::Input::kOpen) return;
    if (link.peer_closed()) return drop_transport(link, kPeerGone);
    error = error_of(ErrorCode::kBadArgument, "the file ended before its size");
  }
  const Result result = error ? Result(tl::unexpected(*error)) : link.upload->finish();
  const uint64_t token = link.upload_token;
  link.upload.reset();
  answer(link, token, result);
}

void Agent::end_download(Link& link) {
  if (!link.download || !link.conversation.pending().empty()) return;
  if (link.download->left > 0) return;
  const auto call = link.calls.find(link.download->token);
  if (call != link.calls.end()) {
    log_call(link, call->second, Json{{"count", link.download->sent}});
    link.calls.erase(call);
  }
  close_file(std::move(link.download->fd));
  link.download.reset();
  link.after = Link::After::kClose;
}

std::optional<Instant> Agent::next_timer() const {
  std::optional<Instant> next;
  const auto at = [&](std::optional<Instant> when) {
    if (when) next = std::min(next.value_or(*when), *when);
  };
  for (const auto& link : links_) {
    at(link->retry_at);
    at(link->conversation.next_deadline());
    if (usable()) at(link->files.next_deadline());
  }
  for (const Job& job : jobs_) at(job.deadline);
  for (const Forward& forward : forwards_) {
    if (forward.call == 0) at(forward.deadline);
    at(unreachable_at(forward));
  }
  at(accept_at_);
  if (guard_.file_systems == FileSystems::kFrozen) at(thaw_at_);
  for (const ThawCall& call : thaw_calls_) at(call.deadline);
  at(shutdown_at_);
  at(stop_at_);
  return next;
}

void Agent::run_timers() {
  for (const auto& link : links_) {
    // A close may have to write; close_file() has the reason.
    if (usable()) link->files.expire(now_);
    if (link->conversation.next_deadline() && *link->conversation.next_deadline() <= now_) {
      link->conversation.tick(now_);
      act(*link);
    }
    if (!link->retry_at || *link->retry_at > now_) continue;
    if (link->fd) {
      switch (port_state(*link->port, link->fd.get())) {
        case PortState::kOpen:
          open_link(*link);
          break;
        case PortState::kNoPeer:
          link->retry_at = now_ + kLookAgain;
          break;
        case PortState::kGone:
          drop_transport(*link, kDeviceGone);
          break;
      }
      continue;
    }
    auto fd = open_port(*link->port);
    if (fd) {
      link->fd = std::move(*fd);
      link->opened_at = now_;
      open_link(*link);
      continue;
    }
    if (!link->complained) log_warn("{}; trying again", fd.error());
    link->complained = true;
    link->retry_at = now_ + kRetry;
  }
  for (Job& job : jobs_) {
    if (job.deadline > now_ || job.deadline == Instant{}) continue;
    job.child.kill();
    job.deadline = {};
    if (job.kind == JobKind::kShutdown) shutdown_failed("it took too long");
    Link* const link = find(std::exchange(job.link, 0));
    if (link == nullptr) continue;
    answer(*link, job.token,
           tl::unexpected(error_of(ErrorCode::kTimeout, "the method took too long")));
    if (job.kind == JobKind::kFreeze) thaw("the freeze took too long");
  }
  std::erase_if(jobs_, [](const Job& job) { return job.deadline == Instant{}; });
  if (guard_.file_systems == FileSystems::kFrozen && now_ >= thaw_at_) thaw(kFrozenLongEnough);
  expire_thaw_calls();
  if (shutdown_at_ && now_ >= *shutdown_at_) {
    shutdown_at_.reset();
    auto child = Child::execute("/sbin/shutdown", {shutdown_option_, "+0"});
    if (child) {
      jobs_.push_back({0, 0, JobKind::kShutdown, std::move(*child), now_ + kShutdownLimit});
    } else {
      shutdown_failed(child.error().text);
    }
  }
}

}  // namespace virtproxy::agent
