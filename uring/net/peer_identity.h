// The identity of a socket's peer, and its text for logs. core/peer_identity.h has the format.
#pragma once

#include <span>
#include <string>

#include "core/peer_identity.h"

namespace virtproxy {

// The peer of an accepted socket; kUnknown of -1, or where the socket does not know it any more.
PeerIdentity peer_identity_of(int fd);

// For logs: 127.0.0.1:40112, uid 1000 gid 1000 pid 4711, vsock 2:9000, unknown.
std::string describe(const PeerIdentity& identity);
// The same, but empty where nothing is known.
std::string known_name(const PeerIdentity& identity);
// The user, the address or the CID alone: what all connections of one party have in common.
std::string describe_party(const PeerIdentity& identity);

}  // namespace virtproxy
