// Duplicates of everything that the workers listen on, in the main thread, and the paths of it.
//
// A listener whose channel or worker changes stays open in between: clients wait in its backlog instead
// of being refused. Workers close what they are given; an address is free once it is dropped here as
// well. Only for processes whose channels and forwards may change while they run.
#pragma once

#include <cstdint>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "uring/daemon/worker.h"
#include "uring/net/address.h"
#include "uring/net/sockets.h"

namespace virtproxy {

// Whose listener it is: that of a channel does not block.
enum class ListenerOf : uint8_t { kChannel, kForward };

class ListenerStore {
 public:
  // `stored`: the service manager keeps the sockets for the next process, and so the paths stay.
  explicit ListenerStore(bool stored) : stored_(stored) {}
  ~ListenerStore() { close_all(); }
  ListenerStore(const ListenerStore&) = delete;
  ListenerStore& operator=(const ListenerStore&) = delete;

  // Takes the paths of what was bound for the workers, and duplicates of the sockets. An error when
  // descriptors are scarce.
  tl::expected<void, std::string> adopt(std::vector<WorkerConfig>& workers);

  // Addresses that are in use are tried until then: a worker may be about to close one.
  void set_deadline(Instant deadline) { deadline_ = deadline; }
  // Sockets for a worker that is to listen there: of what is open, or bound now. keep_only() decides
  // what becomes of the latter.
  tl::expected<Listening, std::string> get(ListenerOf of, const Address& address,
                                           const ListenRules& rules);
  // Drops what is on none of the addresses. True if anything was dropped or bound since the last call.
  bool keep_only(const std::vector<const Address*>& addresses);
  // What this process bound, for the service manager.
  std::vector<int> own_sockets() const;
  // No address is in use from here. Paths are removed, unless the manager keeps the sockets.
  void close_all();

 private:
  struct Entry {
    ListenerOf of;
    Address address;
    ListenRules rules;
    std::vector<int> sockets;
    BoundPath path;
    bool from_manager = false;
  };
  tl::expected<void, std::string> adopt(ListenerOf of, const Address& address,
                                        const ListenRules& rules, Listening& listening);

  const bool stored_;
  Instant deadline_{};
  bool bound_ = false;  // something, since the last keep_only()
  std::vector<Entry> entries_;
};

}  // namespace virtproxy
