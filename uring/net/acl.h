// Access list of a listener, by the identity that the kernel reports for the other side: a user or
// a group on a unix socket, a CID on vsock. TCP identifies no user.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <vector>

#include "uring/net/peer_identity.h"

namespace virtproxy {

struct Acl {
  std::vector<uid_t> uids;
  std::vector<gid_t> gids;  // primary or supplementary
  std::vector<uint32_t> cids;

  friend bool operator==(const Acl&, const Acl&) = default;

  bool guards_unix() const { return !uids.empty() || !gids.empty(); }
  bool guards_vsock() const { return !cids.empty(); }

  // True if the other side of an accepted socket is allowed. If nothing is listed for its kind, all
  // are. If something is listed and the identity is unknown, none is.
  bool admits(int fd, const PeerIdentity& identity) const;
};

}  // namespace virtproxy
