// Who may connect to a listener, by what the kernel says of the other side: a user or a group on a
// unix socket, a CID on vsock. TCP identifies no user.
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

  // Whether the other side of an accepted socket may stay. Where nothing is listed for its kind,
  // everybody may; where it cannot be told who it is and something is listed, nobody.
  bool admits(int fd, const PeerIdentity& identity) const;
};

}  // namespace virtproxy
