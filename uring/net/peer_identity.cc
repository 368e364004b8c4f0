#include "uring/net/peer_identity.h"

#include <arpa/inet.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstring>

#include "uring/net/address.h"

namespace virtproxy {

PeerIdentity peer_identity_of(int fd) {
  PeerIdentity identity;
  sockaddr_storage peer{};
  socklen_t size = sizeof peer;
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &size) != 0) return identity;
  switch (peer.ss_family) {
    case AF_UNIX: {
      ucred credentials{};
      socklen_t length = sizeof credentials;
      if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0) break;
      identity.kind = PeerIdentity::Kind::kUnix;
      identity.uid = credentials.uid;
      identity.gid = credentials.gid;
      identity.pid = static_cast<uint32_t>(credentials.pid);
      break;
    }
    case AF_INET: {
      sockaddr_in in{};
      std::memcpy(&in, &peer, sizeof in);
      identity.kind = PeerIdentity::Kind::kIpv4;
      std::memcpy(identity.address.data(), &in.sin_addr, 4);
      identity.port = ntohs(in.sin_port);
      break;
    }
    case AF_INET6: {
      sockaddr_in6 in6{};
      std::memcpy(&in6, &peer, sizeof in6);
      identity.kind = PeerIdentity::Kind::kIpv6;
      std::memcpy(identity.address.data(), &in6.sin6_addr, 16);
      identity.port = ntohs(in6.sin6_port);
      break;
    }
    case AF_VSOCK: {
      sockaddr_vm vm{};
      std::memcpy(&vm, &peer, sizeof vm);
      identity.kind = PeerIdentity::Kind::kVsock;
      identity.cid = vm.svm_cid;
      identity.port = vm.svm_port;
      break;
    }
    default:
      break;
  }
  return identity;
}

std::string describe(const PeerIdentity& identity) {
  char text[INET6_ADDRSTRLEN] = "";
  switch (identity.kind) {
    case PeerIdentity::Kind::kUnknown:
      break;
    case PeerIdentity::Kind::kUnix:
      return "uid " + std::to_string(identity.uid) + " gid " + std::to_string(identity.gid) +
             " pid " + std::to_string(identity.pid);
    case PeerIdentity::Kind::kIpv4:
      inet_ntop(AF_INET, identity.address.data(), text, sizeof text);
      return std::string(text) + ":" + std::to_string(identity.port);
    case PeerIdentity::Kind::kIpv6:
      inet_ntop(AF_INET6, identity.address.data(), text, sizeof text);
      return "[" + std::string(text) + "]:" + std::to_string(identity.port);
    case PeerIdentity::Kind::kVsock:
      return "vsock " + std::to_string(identity.cid) + ":" + std::to_string(identity.port);
  }
  return "unknown";
}

std::string known_name(const PeerIdentity& identity) {
  return identity.kind == PeerIdentity::Kind::kUnknown ? "" : describe(identity);
}

std::string describe_party(const PeerIdentity& identity) {
  if (identity.kind == PeerIdentity::Kind::kUnix) return "uid " + std::to_string(identity.uid);
  const std::string text = describe(identity);
  return text.substr(0, text.rfind(':'));
}

}  // namespace virtproxy
