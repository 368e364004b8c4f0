#include "uring/net/resolver.h"

#include <ares.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <sys/time.h>

#include <algorithm>
#include <deque>
#include <fstream>
#include <map>
#include <mutex>
#include <sstream>
#include <unordered_map>
#include <utility>

namespace virtproxy {
namespace {

using Clock = std::chrono::steady_clock;

constexpr char kResolvConf[] = "/etc/resolv.conf";
constexpr char kHosts[] = "/etc/hosts";

std::string lower(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return result;
}

void set_port(SocketAddress& address, uint16_t port) {
  if (address.family() == AF_INET) {
    reinterpret_cast<sockaddr_in*>(&address.storage)->sin_port = htons(port);
  } else if (address.family() == AF_INET6) {
    reinterpret_cast<sockaddr_in6*>(&address.storage)->sin6_port = htons(port);
  }
}

struct FileStamp {
  bool exists = false;
  ino_t inode = 0;
  off_t size = 0;
  time_t seconds = 0;
  long nanoseconds = 0;

  friend bool operator==(const FileStamp&, const FileStamp&) = default;
};

FileStamp stamp_of(const char* path) {
  struct stat status {};
  if (stat(path, &status) != 0) return {};
  return {true, status.st_ino, status.st_size, status.st_mtim.tv_sec, status.st_mtim.tv_nsec};
}

// Used if c-ares cannot be set up at all.
std::vector<SocketAddress> find_in_hosts(const std::string& host) {
  std::vector<SocketAddress> found;
  std::ifstream file(kHosts);
  std::string line;
  while (found.size() < Resolver::kMaxAddresses && std::getline(file, line)) {
    line.resize(std::min(line.size(), line.find('#')));
    std::istringstream words(line);
    std::string literal;
    std::string name;
    words >> literal;
    const auto address = parse_ip(literal, 0);
    while (address && words >> name) {
      if (lower(name) != host) continue;
      found.push_back(*address);
      break;
    }
  }
  if (found.empty() && host == "localhost") {
    found.push_back(*parse_ip("::1", 0));
    found.push_back(*parse_ip("127.0.0.1", 0));
  }
  return found;
}

std::string describe_failure(const std::string& host, int status) {
  const std::string name = "host name '" + printable(host) + "'";
  switch (status) {
    case ARES_ENOTFOUND:
    case ARES_ENODATA:
    case ARES_EBADNAME:
      return name + " not found: check the name, or add it to " + kHosts;
    case ARES_ETIMEOUT:
      return name + " not resolved: no answer from the name servers in " + kResolvConf;
    default:
      return name + " not resolved: " + ares_strerror(status) + ": check " + kResolvConf;
  }
}

}  // namespace

struct Resolver::Impl {
  struct Waiter {
    uint16_t port = 0;
    Clock::time_point deadline;
  };

  // One query of c-ares and the look-ups that wait for it. It lives until c-ares calls back, even
  // if none waits any more, because c-ares cannot cancel a single query.
  struct Lookup {
    Impl* owner = nullptr;
    std::string host;
    std::map<Id, Waiter> waiters;  // ids ascend, and so do deadlines
  };

  explicit Impl(ResolverConfig settings) : config(std::move(settings)) {
    static std::once_flag once;
    std::call_once(once, [] { ares_library_init(ARES_LIB_INIT_ALL); });
    open_channel();
  }

  ~Impl() { close_channel(); }

  void open_channel() {
    stamp = stamp_of(kResolvConf);
    ares_options options{};
    options.timeout = static_cast<int>(config.try_timeout.count());
    options.tries = config.tries;
    options.sock_state_cb = &Impl::on_socket_state;
    options.sock_state_cb_data = this;
    char order[] = "fb";
    options.lookups = order;  // files, then the name servers
    const int mask =
        ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_SOCK_STATE_CB | ARES_OPT_LOOKUPS;
    init_status = ares_init_options(&channel, &options, mask);
    if (init_status == ARES_SUCCESS && !config.servers.empty()) {
      init_status = ares_set_servers_ports_csv(channel, config.servers.c_str());
      if (init_status != ARES_SUCCESS) ares_destroy(std::exchange(channel, nullptr));
    }
    if (init_status != ARES_SUCCESS) channel = nullptr;
  }

  void close_channel() {
    closing = true;
    if (channel != nullptr) ares_destroy(std::exchange(channel, nullptr));
    closing = false;
    lookups.clear();
    watches.clear();
  }

  void reopen_if_changed() {
    if (!lookups.empty()) return;
    const bool changed = config.servers.empty() && stamp_of(kResolvConf) != stamp;
    if (channel != nullptr && !changed) return;
    close_channel();
    open_channel();
  }

  void finish(Id id, Result result) {
    Finished& done = finished.emplace_back();
    done.id = id;
    done.result = std::move(result);
  }

  void finish_with(Id id, std::vector<SocketAddress> addresses, uint16_t port) {
    for (SocketAddress& address : addresses) set_port(address, port);
    finish(id, std::move(addresses));
  }

  void start(Id id, std::string_view text, uint16_t port) {
    if (const auto literal = parse_ip(text, port)) {
      finish(id, std::vector<SocketAddress>{*literal});
      return;
    }
    if (!is_host_name(text)) {
      finish(id, tl::unexpected<std::string>("'" + printable(text) +
                                             "' is neither an IP address nor a host name"));
      return;
    }
    const std::string host = lower(text);
    reopen_if_changed();
    if (channel == nullptr) {
      auto found = find_in_hosts(host);
      if (found.empty()) {
        finish(id, tl::unexpected<std::string>(describe_failure(host, init_status)));
      } else {
        finish_with(id, std::move(found), port);
      }
      return;
    }
    auto& lookup = lookups[host];
    const bool fresh = lookup == nullptr;
    if (fresh) {
      lookup = std::make_unique<Lookup>();
      lookup->owner = this;
      lookup->host = host;
    }
    lookup->waiters.emplace(id, Waiter{port, Clock::now() + config.total_timeout});
    where.emplace(id, lookup.get());
    if (!fresh) return;
    ares_addrinfo_hints hints{};
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    // May call back before it returns, which ends the look-up.
    ares_getaddrinfo(channel, host.c_str(), nullptr, &hints, &Impl::on_result, lookup.get());
  }

  void cancel(Id id) {
    const auto found = where.find(id);
    if (found != where.end()) {
      found->second->waiters.erase(id);
      where.erase(found);
      return;
    }
    std::erase_if(finished, [id](const Finished& entry) { return entry.id == id; });
  }

  void expire() {
    const Clock::time_point now = Clock::now();
    for (auto& [host, lookup] : lookups) {
      auto& waiters = lookup->waiters;
      while (!waiters.empty() && waiters.begin()->second.deadline <= now) {
        const Id id = waiters.begin()->first;
        finish(id, tl::unexpected<std::string>(describe_failure(host, ARES_ETIMEOUT)));
        where.erase(id);
        waiters.erase(waiters.begin());
      }
    }
  }

  static void on_socket_state(void* data, ares_socket_t fd, int readable, int writable) {
    auto* impl = static_cast<Impl*>(data);
    auto& watches = impl->watches;
    const auto watch =
        std::find_if(watches.begin(), watches.end(), [fd](const Watch& w) { return w.fd == fd; });
    if (readable == 0 && writable == 0) {
      if (watch != watches.end()) watches.erase(watch);
    } else if (watch != watches.end()) {
      watch->read = readable != 0;
      watch->write = writable != 0;
    } else {
      watches.push_back({++impl->last_key, fd, readable != 0, writable != 0});
    }
  }

  static void on_result(void* data, int status, int /*timeouts*/, ares_addrinfo* info) {
    auto* lookup = static_cast<Lookup*>(data);
    Impl* impl = lookup->owner;
    std::vector<SocketAddress> addresses;
    if (status == ARES_SUCCESS && info != nullptr) {
      for (const ares_addrinfo_node* node = info->nodes;
           node != nullptr && addresses.size() < kMaxAddresses; node = node->ai_next) {
        if (node->ai_family != AF_INET && node->ai_family != AF_INET6) continue;
        addresses.push_back(SocketAddress::from(node->ai_addr, node->ai_addrlen));
      }
      if (addresses.empty()) status = ARES_ENODATA;
    }
    if (info != nullptr) ares_freeaddrinfo(info);
    if (impl->closing) return;
    for (const auto& [id, waiter] : lookup->waiters) {
      impl->where.erase(id);
      if (addresses.empty()) {
        impl->finish(id, tl::unexpected<std::string>(describe_failure(lookup->host, status)));
      } else {
        impl->finish_with(id, addresses, waiter.port);
      }
    }
    const std::string host = std::move(lookup->host);
    impl->lookups.erase(host);
  }

  ResolverConfig config;
  ares_channel channel = nullptr;
  int init_status = ARES_ENOTINITIALIZED;
  bool closing = false;
  FileStamp stamp;
  Id last_id = 0;
  uint64_t last_key = 0;
  std::unordered_map<std::string, std::unique_ptr<Lookup>> lookups;
  std::unordered_map<Id, Lookup*> where;
  std::deque<Finished> finished;
  std::vector<Watch> watches;
};

Resolver::Resolver(ResolverConfig config) : impl_(std::make_unique<Impl>(std::move(config))) {}

Resolver::~Resolver() = default;

Resolver::Id Resolver::start(std::string_view host, uint16_t port) {
  const Id id = ++impl_->last_id;
  impl_->start(id, host, port);
  return id;
}

void Resolver::cancel(Id id) { impl_->cancel(id); }

const std::vector<Resolver::Watch>& Resolver::watches() const { return impl_->watches; }

void Resolver::process(uint64_t key, bool readable, bool writable) {
  const auto watch = std::find_if(impl_->watches.begin(), impl_->watches.end(),
                                  [key](const Watch& w) { return w.key == key; });
  if (watch == impl_->watches.end() || impl_->channel == nullptr) return;
  const int fd = watch->fd;
  ares_process_fd(impl_->channel, readable ? fd : ARES_SOCKET_BAD, writable ? fd : ARES_SOCKET_BAD);
}

std::optional<std::chrono::milliseconds> Resolver::timeout() const {
  using std::chrono::milliseconds;
  if (!impl_->finished.empty()) return milliseconds(0);
  if (impl_->lookups.empty()) return std::nullopt;
  std::optional<milliseconds> result;
  timeval buffer{};
  if (const timeval* wait = ares_timeout(impl_->channel, nullptr, &buffer)) {
    result = milliseconds(int64_t{wait->tv_sec} * 1000 + wait->tv_usec / 1000 + 1);
  }
  const Clock::time_point now = Clock::now();
  for (const auto& [host, lookup] : impl_->lookups) {
    if (lookup->waiters.empty()) continue;
    const auto left = lookup->waiters.begin()->second.deadline - now;
    const auto wait = std::max(std::chrono::ceil<milliseconds>(left), milliseconds(0));
    if (!result || wait < *result) result = wait;
  }
  return result;
}

void Resolver::process_timeouts() {
  if (impl_->channel != nullptr) {
    ares_process_fd(impl_->channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
  }
  impl_->expire();
}

std::optional<Resolver::Finished> Resolver::next() {
  if (impl_->finished.empty()) return std::nullopt;
  Finished first = std::move(impl_->finished.front());
  impl_->finished.pop_front();
  return first;
}

}  // namespace virtproxy
