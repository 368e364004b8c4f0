#include "uring/net/peer_identity.h"

#include <arpa/inet.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstring>

#include "uring/net/address.h"

namespace virtproxy {

Origin origin_of(int fd) {
  Origin origin;
  sockaddr_storage peer{};
  socklen_t size = sizeof peer;
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &size) != 0) return origin;
  switch (peer.ss_family) {
    case AF_UNIX: {
      ucred credentials{};
      socklen_t length = sizeof credentials;
      if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0) break;
      origin.kind = Origin::Kind::kUnix;
      origin.uid = credentials.uid;
      origin.gid = credentials.gid;
      origin.pid = static_cast<uint32_t>(credentials.pid);
      break;
    }
    case AF_INET: {
      sockaddr_in in{};
      std::memcpy(&in, &peer, sizeof in);
      origin.kind = Origin::Kind::kIpv4;
      std::memcpy(origin.address.data(), &in.sin_addr, 4);
      origin.port = ntohs(in.sin_port);
      break;
    }
    case AF_INET6: {
      sockaddr_in6 in6{};
      std::memcpy(&in6, &peer, sizeof in6);
      origin.kind = Origin::Kind::kIpv6;
      std::memcpy(origin.address.data(), &in6.sin6_addr, 16);
      origin.port = ntohs(in6.sin6_port);
      break;
    }
    case AF_VSOCK: {
      sockaddr_vm vm{};
      std::memcpy(&vm, &peer, sizeof vm);
      origin.kind = Origin::Kind::kVsock;
      origin.cid = vm.svm_cid;
      origin.port = vm.svm_port;
      break;
    }
    default:
      break;
  }
  return origin;
}

std::string describe(const Origin& origin) {
  char text[INET6_ADDRSTRLEN] = "";
  switch (origin.kind) {
    case Origin::Kind::kUnknown:
      break;
    case Origin::Kind::kUnix:
      return "uid " + std::to_string(origin.uid) + " gid " + std::to_string(origin.gid) + " pid " +
             std::to_string(origin.pid);
    case Origin::Kind::kIpv4:
      inet_ntop(AF_INET, origin.address.data(), text, sizeof text);
      return std::string(text) + ":" + std::to_string(origin.port);
    case Origin::Kind::kIpv6:
      inet_ntop(AF_INET6, origin.address.data(), text, sizeof text);
      return "[" + std::string(text) + "]:" + std::to_string(origin.port);
    case Origin::Kind::kVsock:
      return "vsock " + std::to_string(origin.cid) + ":" + std::to_string(origin.port);
  }
  return "unknown";
}

}  // namespace virtproxy
