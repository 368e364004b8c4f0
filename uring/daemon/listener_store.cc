#include "uring/daemon/listener_store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "uring/base/clock.h"

namespace virtproxy {
namespace {

using Failure = tl::unexpected<std::string>;

void close_all_of(std::vector<int>& sockets) {
  for (const int fd : std::exchange(sockets, {})) close(fd);
}

tl::expected<std::vector<int>, std::string> duplicates(const std::vector<int>& sockets) {
  std::vector<int> copies;
  for (const int fd : sockets) {
    copies.push_back(fcntl(fd, F_DUPFD_CLOEXEC, 0));
    if (copies.back() >= 0) continue;
    const int error = errno;
    copies.pop_back();
    close_all_of(copies);
    return Failure(fmt::format("a listener cannot be kept: {} (raise the limit: LimitNOFILE=)",
                               std::strerror(error)));
  }
  return copies;
}

// The mode of a path is that of the umask where the rules have none.
std::string_view differing_rule(const Address& address, const ListenRules& one,
                                const ListenRules& other) {
  if (address.kind != Address::Kind::kUnix || address.host.starts_with('@')) return {};
  if (one.mode != other.mode) return "mode";
  return one.owner != other.owner || one.group != other.group ? "owner" : "";
}

}  // namespace

tl::expected<void, std::string> ListenerStore::adopt(ListenerOf of, const Address& address,
                                                     const ListenRules& rules,
                                                     Listening& listening) {
  auto copies = duplicates(listening.sockets);
  if (!copies) return Failure(copies.error());
  Entry& entry = entries_.emplace_back(Entry{of, address, rules, *std::move(copies),
                                             std::move(listening.path), listening.from_manager});
  // Of a socket that an earlier process bound.
  if (!entry.from_manager && stored_) entry.path = BoundPath(address);
  return {};
}

tl::expected<void, std::string> ListenerStore::adopt(std::vector<WorkerConfig>& workers) {
  for (WorkerConfig& worker : workers) {
    for (size_t i = 0; i < worker.channels.size(); ++i) {
      ChannelListenSockets& sockets = worker.listen_sockets[i];
      for (size_t j = 0; j < sockets.forwards.size(); ++j) {
        const ForwardSpec& forward = worker.forwards[i].oforwards[j];
        auto done =
            adopt(ListenerOf::kForward, forward.address, forward.listen, sockets.forwards[j]);
        if (!done) return done;
      }
      const ChannelSpec& spec = worker.channels[i].spec;
      if (!transport_listens(spec.transport)) continue;
      auto done = adopt(ListenerOf::kChannel, spec.address, spec.listen, sockets.transport);
      if (!done) return done;
    }
  }
  return {};
}

tl::expected<Listening, std::string> ListenerStore::get(ListenerOf of, const Address& address,
                                                        const ListenRules& rules) {
  auto found = std::find_if(entries_.begin(), entries_.end(),
                            [&](const Entry& entry) { return entry.address == address; });
  if (found == entries_.end()) {
    const Duration patience = std::max(deadline_ - monotonic_now(), Duration::zero());
    auto bound = listen_on(address, rules, patience);
    if (!bound) return Failure(bound.error());
    bound_ = true;
    entries_.push_back({of, address, rules, std::move(bound->sockets), std::move(bound->path), false});
    found = entries_.end() - 1;
  } else if (found->of != of) {
    return Failure(fmt::format(
        "{} is listened on by a channel or by a forward, and cannot change from one to the other "
        "while it is: reload without it in between, or restart",
        address.to_string()));
  } else if (const auto key = differing_rule(address, found->rules, rules); !key.empty()) {
    return Failure(fmt::format(
        "{} of {} cannot change while it listens there: remove the listener, reload, and add it "
        "again, or restart",
        key, address.to_string()));
  }
  auto copies = duplicates(found->sockets);
  if (!copies) return Failure(copies.error());
  Listening listening;
  listening.sockets = *std::move(copies);
  return listening;
}

bool ListenerStore::keep_only(const std::vector<const Address*>& addresses) {
  bool changed = std::exchange(bound_, false);
  std::erase_if(entries_, [&](Entry& entry) {
    const bool wanted = std::any_of(addresses.begin(), addresses.end(), [&](const Address* each) {
      return *each == entry.address;
    });
    if (wanted) return false;
    entry.path.remove();
    close_all_of(entry.sockets);
    changed = true;
    return true;
  });
  return changed;
}

std::vector<int> ListenerStore::own_sockets() const {
  std::vector<int> all;
  for (const Entry& entry : entries_) {
    if (!entry.from_manager) all.insert(all.end(), entry.sockets.begin(), entry.sockets.end());
  }
  return all;
}

void ListenerStore::close_all() {
  for (Entry& entry : entries_) {
    // Before the socket is closed: another process may take over a path without a listener.
    stored_ ? entry.path.release() : entry.path.remove();
    close_all_of(entry.sockets);
  }
  entries_.clear();
}

}  // namespace virtproxy
