#include "uring/net/acl.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "uring/net/peer_identity.h"

namespace virtproxy {
namespace {

template <typename T>
bool lists(const std::vector<T>& list, T id) {
  return std::find(list.begin(), list.end(), id) != list.end();
}

// The supplementary groups of a unix socket's other side, as they were when it connected.
std::vector<gid_t> groups_of(int fd) {
  std::vector<gid_t> groups(64);
  for (;;) {
    auto size = static_cast<socklen_t>(groups.size() * sizeof(gid_t));
    if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &size) == 0) {
      groups.resize(size / sizeof(gid_t));
      return groups;
    }
    // The space was too small; the kernel has returned the size that is needed.
    if (errno != ERANGE || size <= groups.size() * sizeof(gid_t)) return {};
    groups.resize(size / sizeof(gid_t));
  }
}

}  // namespace

bool Acl::admits(int fd, const PeerIdentity& identity) const {
  switch (identity.kind) {
    case PeerIdentity::Kind::kUnix: {
      if (!guards_unix() || lists(uids, identity.uid) || lists(gids, identity.gid)) return true;
      if (gids.empty()) return false;
      const std::vector<gid_t> groups = groups_of(fd);
      return std::any_of(groups.begin(), groups.end(),
                         [this](gid_t group) { return lists(gids, group); });
    }
    case PeerIdentity::Kind::kVsock:
      return !guards_vsock() || lists(cids, identity.cid);
    case PeerIdentity::Kind::kIpv4:
    case PeerIdentity::Kind::kIpv6:
      return true;
    case PeerIdentity::Kind::kUnknown:
      break;
  }
  return !guards_unix() && !guards_vsock();
}

}  // namespace virtproxy
