#include "uring/daemon/listen_sockets.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <string_view>
#include <utility>

#include "uring/base/log.h"
#include "uring/base/take_variable.h"
#include "uring/transport/transport_kind.h"

namespace virtproxy {
namespace {

using Failure = tl::unexpected<std::string>;

constexpr int kFirstPassed = 3;  // SD_LISTEN_FDS_START
constexpr int kMostPassed = 65536;

struct Passed {
  int fd = -1;
  std::string name;
  SocketAddress address;
  int type = SOCK_STREAM;

  bool of_source() const { return name == ServiceManager::kSources; }
  bool stored() const { return name == ServiceManager::kStored; }
  bool named_by_default() const { return name == "unknown" || name.ends_with(".socket"); }
};

// A listener of the command line.
struct Wanted {
  std::string service;  // empty for the channel's own
  std::string channel;  // its name
  std::string text;     // the option
  const Address* address = nullptr;
  const ListenRules* rules = nullptr;
  Listening* listening = nullptr;
  std::vector<SocketAddress> addresses;

  bool is_named(std::string_view name) const {
    return (!service.empty() && name == service) || name == fmt::format("{}@{}", service, channel);
  }
};

template <typename T>
const T& as(const SocketAddress& address) {
  return reinterpret_cast<const T&>(address.storage);
}

bool same(const SocketAddress& one, const SocketAddress& other) {
  if (one.family() != other.family()) return false;
  switch (one.family()) {
    case AF_INET:
      return as<sockaddr_in>(one).sin_port == as<sockaddr_in>(other).sin_port &&
             as<sockaddr_in>(one).sin_addr.s_addr == as<sockaddr_in>(other).sin_addr.s_addr;
    case AF_INET6:
      return as<sockaddr_in6>(one).sin6_port == as<sockaddr_in6>(other).sin6_port &&
             as<sockaddr_in6>(one).sin6_scope_id == as<sockaddr_in6>(other).sin6_scope_id &&
             std::memcmp(&as<sockaddr_in6>(one).sin6_addr, &as<sockaddr_in6>(other).sin6_addr,
                         sizeof(in6_addr)) == 0;
    case AF_VSOCK:
      return as<sockaddr_vm>(one).svm_cid == as<sockaddr_vm>(other).svm_cid &&
             as<sockaddr_vm>(one).svm_port == as<sockaddr_vm>(other).svm_port;
    default:
      // The kernel counts the zero at the end of a path, and programs may leave it out.
      return one.to_string() == other.to_string();
  }
}

bool has_address(const Wanted& wanted, const SocketAddress& address) {
  return std::any_of(wanted.addresses.begin(), wanted.addresses.end(),
                     [&](const SocketAddress& own) { return same(own, address); });
}

// True if clients can still find it: the path of a unix socket may have been removed meanwhile.
bool reachable(const Address& address) {
  struct stat status {};
  return address.kind != Address::Kind::kUnix || address.host.starts_with('@') ||
         (lstat(address.host.c_str(), &status) == 0 && S_ISSOCK(status.st_mode));
}

int socket_option(int fd, int option) {
  int value = -1;
  socklen_t length = sizeof value;
  return getsockopt(fd, SOL_SOCKET, option, &value, &length) == 0 ? value : -1;
}

tl::expected<Passed, std::string> inspect(int fd, std::string name) {
  Passed passed{fd, std::move(name), {}};
  const auto fault = [&](std::string_view what) {
    return Failure(
        fmt::format("the passed descriptor {} ({}) {}", fd, printable(passed.name), what));
  };
  if (fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) return fault("is not open: see LISTEN_FDS");
  passed.address.length = sizeof passed.address.storage;
  auto* const address = reinterpret_cast<sockaddr*>(&passed.address.storage);
  // A process that was killed may leave one that did not listen just then: when-down.
  if (passed.stored()) listen_again(fd);
  passed.type = socket_option(fd, SO_TYPE);
  const bool datagrams = passed.of_source() && passed.type == SOCK_DGRAM;
  const bool listens = passed.type == SOCK_STREAM && socket_option(fd, SO_ACCEPTCONN) == 1;
  if (!(datagrams || listens) || getsockname(fd, address, &passed.address.length) != 0) {
    return fault("is no listening stream socket: use ListenStream= with Accept=no");
  }
  // Listener wants it blocking; what another process did to it stays with the socket.
  const int flags = fcntl(fd, F_GETFL);
  fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
  return passed;
}

tl::expected<std::vector<Passed>, std::string> passed_sockets() {
  const auto process = take_variable("LISTEN_PID");
  const std::string count = take_variable("LISTEN_FDS").value_or("");
  std::string names = take_variable("LISTEN_FDNAMES").value_or("");
  std::vector<Passed> all;
  if (process != std::to_string(getpid())) return all;
  int number = -1;
  const char* const end = count.data() + count.size();
  const auto [stop, error] = std::from_chars(count.data(), end, number);
  if (error != std::errc() || stop != end || number < 0 || number > kMostPassed) {
    return Failure(fmt::format("LISTEN_FDS={} is no number of descriptors from 0 to {}",
                               printable(count), kMostPassed));
  }
  const bool has_names = !names.empty();
  for (int i = 0; i < number; ++i) {
    std::string name = "unknown";
    if (has_names) {
      const size_t colon = std::min(names.find(':'), names.size());
      name = names.substr(0, colon);
      names.erase(0, colon + 1);
    }
    auto passed = inspect(kFirstPassed + i, std::move(name));
    if (!passed) return Failure(passed.error());
    all.push_back(*std::move(passed));
  }
  return all;
}

std::vector<Wanted> wanted_listeners(std::vector<WorkerConfig>& workers) {
  std::vector<Wanted> all;
  for (WorkerConfig& worker : workers) {
    worker.listen_sockets.resize(worker.channels.size());
    for (size_t i = 0; i < worker.channels.size(); ++i) {
      const ChannelConfig& channel = worker.channels[i];
      ChannelListenSockets& sockets = worker.listen_sockets[i];
      sockets.forwards.resize(worker.forwards[i].oforwards.size());
      for (size_t j = 0; j < worker.forwards[i].oforwards.size(); ++j) {
        const ForwardSpec& forward = worker.forwards[i].oforwards[j];
        all.push_back({forward.service,
                       channel.spec.name,
                       "-o " + forward.text,
                       &forward.address,
                       &forward.listen,
                       &sockets.forwards[j],
                       {}});
      }
      if (!transport_listens(channel.spec.transport)) continue;
      all.push_back({"",
                     channel.spec.name,
                     "-c " + channel.spec.text,
                     &channel.spec.address,
                     &channel.spec.listen,
                     &sockets.transport,
                     {}});
    }
  }
  return all;
}

// Gives a socket of a socket unit to its listener.
tl::expected<void, std::string> assign(const Passed& passed, std::vector<Wanted>& all) {
  const Wanted* named = nullptr;
  for (Wanted& wanted : all) {
    if (!passed.named_by_default() && !wanted.is_named(passed.name)) continue;
    if (has_address(wanted, passed.address)) {
      wanted.listening->sockets.push_back(passed.fd);
      wanted.listening->from_manager = true;
      return {};
    }
    named = &wanted;
  }
  const std::string what = fmt::format("the passed socket {} listens on {}", printable(passed.name),
                                       passed.address.to_string());
  if (passed.named_by_default()) {
    return Failure(what +
                   ", which is the address of no -o and no listening -c: give one of them that "
                   "address");
  }
  if (named == nullptr) {
    return Failure(what +
                   ", and there is nothing of that name: FileDescriptorName= is SERVICE of "
                   "an -o, SERVICE@CHANNEL, or @CHANNEL of a channel that listens");
  }
  return Failure(
      fmt::format("{}, and {} says otherwise: give both the same address", what, named->text));
}

// Takes back what an earlier process had stored. True if something was stored that is of no use.
bool take_back(const std::vector<Passed>& all_passed, std::vector<Wanted>& all,
               const std::vector<bool>& from_unit) {
  bool stale = false;
  for (const Passed& passed : all_passed) {
    if (!passed.stored()) continue;
    bool taken = false;
    for (size_t i = 0; i < all.size() && !taken; ++i) {
      if (from_unit[i] || !has_address(all[i], passed.address) || !reachable(*all[i].address))
        continue;
      all[i].listening->sockets.push_back(passed.fd);
      taken = true;
    }
    if (taken) continue;
    log_info("the listener on {} of an earlier process is closed: it is not wanted any more",
             passed.address.to_string());
    close(passed.fd);
    stale = true;
  }
  return stale;
}

bool fits(const logs::SourceSpec& source, const std::vector<SocketAddress>& addresses,
          const Passed& passed) {
  using Kind = logs::SourceKind;
  const bool datagrams = source.kind == Kind::kUnixDgram || source.kind == Kind::kUdp;
  return passed.type == (datagrams ? SOCK_DGRAM : SOCK_STREAM) && reachable(source.address) &&
         std::any_of(addresses.begin(), addresses.end(),
                     [&](const SocketAddress& own) { return same(own, passed.address); });
}

// Of each source what an earlier process had stored for it.
tl::expected<std::vector<Listening>, std::string> stored_sources(
    std::vector<Passed> passed, const std::vector<logs::SourceSpec>& sources,
    ServiceManager& manager) {
  std::erase_if(passed, [](const Passed& one) { return !one.of_source(); });
  std::vector<Listening> all(sources.size());
  for (size_t i = 0; i < sources.size() && !passed.empty(); ++i) {
    if (sources[i].address.host.empty()) continue;
    ListenRules rules;
    rules.allow_remote = sources[i].remote;
    const auto addresses = listen_addresses(sources[i].address, rules);
    if (!addresses) return Failure(addresses.error());
    std::erase_if(passed, [&](const Passed& one) {
      if (!fits(sources[i], *addresses, one)) return false;
      all[i].sockets.push_back(one.fd);
      return true;
    });
  }
  for (const Passed& one : passed) {
    log_info(
        "the socket of a source on {} of an earlier process is closed: it is not wanted any more",
        one.address.to_string());
    close(one.fd);
  }
  if (!passed.empty()) manager.store(ServiceManager::kSources, {}, true);
  return all;
}

}  // namespace

tl::expected<std::vector<Listening>, std::string> get_listen_sockets(
    std::vector<WorkerConfig>& workers, ServiceManager& manager,
    const std::vector<logs::SourceSpec>& sources) {
  const auto passed = passed_sockets();
  if (!passed) return Failure(passed.error());
  std::vector<Wanted> all = wanted_listeners(workers);
  for (Wanted& wanted : all) {
    if (passed->empty()) break;
    auto addresses = listen_addresses(*wanted.address, *wanted.rules);
    if (!addresses) return Failure(addresses.error());
    wanted.addresses = *std::move(addresses);
  }
  for (const Passed& one : *passed) {
    if (one.stored() || one.of_source()) continue;
    if (const auto done = assign(one, all); !done) return Failure(done.error());
  }
  std::vector<bool> from_unit;
  for (const Wanted& wanted : all) from_unit.push_back(!wanted.listening->sockets.empty());
  const bool stale = take_back(*passed, all, from_unit);

  std::vector<int> to_store;
  for (size_t i = 0; i < all.size(); ++i) {
    if (from_unit[i]) continue;
    Listening& listening = *all[i].listening;
    const bool bound_now = listening.sockets.empty();
    if (bound_now) {
      auto bound = listen_on(*all[i].address, *all[i].rules);
      if (!bound) return Failure(bound.error());
      listening = *std::move(bound);
      if (manager.stores()) listening.path.release();
    }
    if (bound_now || stale) {
      to_store.insert(to_store.end(), listening.sockets.begin(), listening.sockets.end());
    }
  }
  manager.store(ServiceManager::kStored, to_store, stale);
  return stored_sources(*passed, sources, manager);
}

void listen_as_this_user(const std::vector<WorkerConfig>& workers) {
  const auto renew = [](const Listening& listening) {
    for (const int fd : listening.sockets) {
      if (socket_option(fd, SO_DOMAIN) == AF_UNIX && !listen_again(fd)) {
        log_debug("a listener keeps the user who made it: {}", std::strerror(errno));
      }
    }
  };
  for (const WorkerConfig& worker : workers) {
    for (const ChannelListenSockets& sockets : worker.listen_sockets) {
      renew(sockets.transport);
      for (const Listening& forward : sockets.forwards) renew(forward);
    }
  }
}

}  // namespace virtproxy
