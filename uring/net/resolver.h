// Host names to addresses, without waiting: c-ares behind an interface that an event loop drives.
//
// The Resolver owns no loop and no thread. The owner starts look-ups, polls the descriptors in
// watches(), calls process() for those that are ready and process_timeouts() when timeout() has
// passed, and takes results with next():
//
//   const auto id = resolver.start("example.org", 80);
//   ...after start, process and process_timeouts alike...
//   while (auto done = resolver.next()) ...done->id, done->result...
//   ...bring the polls into line with watches(), set one timer to timeout()...
//
// Results never come out of start() itself, and never for a look-up that was cancelled. Literals,
// localhost and names in /etc/hosts need no network. Look-ups of the same name share one query, so
// the number of pending queries is bounded by the number of names, not of connections. A change of
// /etc/resolv.conf is picked up by the next look-up that starts while no other is pending. NSS is
// not used: works in a statically linked program.
//
// One thread at a time. Nothing here throws, save for want of memory. /etc/hosts and
// /etc/resolv.conf are read with plain blocking reads.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "uring/net/address.h"

namespace virtproxy {

struct ResolverConfig {
  // Name servers, separated by commas, each IP or IP:PORT. Empty: those of /etc/resolv.conf.
  std::string servers;
  // How long one server gets for the first try; doubled for the second.
  std::chrono::milliseconds try_timeout{2000};
  int tries = 2;
  // After this long a look-up has failed, whatever is still pending.
  std::chrono::milliseconds total_timeout{8000};
};

class Resolver {
 public:
  using Id = uint64_t;  // never 0, never used twice by one Resolver
  // At least one address, IPv6 and IPv4 in the order to try them (RFC 6724), at most kMaxAddresses;
  // or one line that names the host.
  using Result = tl::expected<std::vector<SocketAddress>, std::string>;

  static constexpr size_t kMaxAddresses = 16;

  struct Finished {
    Id id = 0;
    Result result;
  };

  // A socket of the resolver's own. It goes away without notice during process(),
  // process_timeouts(), start() and the destructor: then its key is gone from watches(), and a poll
  // for it is to be cancelled. The key tells it from a later socket that has the same number.
  struct Watch {
    uint64_t key = 0;
    int fd = -1;
    bool read = false;
    bool write = false;
  };

  explicit Resolver(ResolverConfig config = {});
  ~Resolver();
  Resolver(const Resolver&) = delete;
  Resolver& operator=(const Resolver&) = delete;

  // A host name or literal, without brackets.
  Id start(std::string_view host, uint16_t port);
  // Ids that are unknown or finished are ignored.
  void cancel(Id id);

  // Valid until the next call of anything that is not const.
  const std::vector<Watch>& watches() const;
  // A key that is no longer watched is ignored. An error or hang-up of the socket counts as both.
  void process(uint64_t key, bool readable, bool writable);
  // How long from now until process_timeouts() is due, rounded up; 0 while next() has results;
  // nothing when idle.
  std::optional<std::chrono::milliseconds> timeout() const;
  // May be called early.
  void process_timeouts();

  std::optional<Finished> next();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace virtproxy
