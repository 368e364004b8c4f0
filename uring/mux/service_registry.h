// Who makes the endpoints of streams.
//
//   Service    for streams that the peer opens: one for each name that this end offers
//   Opener     for streams that this end opens, on behalf of its clients
//
// A socket forward of the command line is one or the other (uring/service/socket_forwards.h). A
// part of this process may be either, with endpoints of its own.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <unordered_map>

#include "core/assert.h"
#include "core/fault.h"
#include "core/flow/priority.h"
#include "core/wire/protocol_limits.h"
#include "uring/mux/endpoint.h"
#include "uring/net/address.h"

namespace virtproxy {

// Names that begin like this belong to services that are built in. No forward may have one.
inline constexpr std::string_view kReservedServicePrefix = "virtproxy.";

class Service {
 public:
  virtual ~Service() = default;

  // The peer asks for a stream. Returns its endpoint, which the table starts later, or why it is
  // refused. `metadata` is what the peer tells of its client, unchecked (core/peer_identity.h).
  virtual tl::expected<std::unique_ptr<Endpoint>, Fault> open(
      StreamHandle& stream, std::span<const std::byte> metadata) = 0;
  // Where it is, for observers; null where that is in this process.
  virtual const Address* address() const { return nullptr; }
};

// Clients are named by numbers that the opener chooses. It hands them to Channel::admit(), and has
// each of them back by one call of open() or refuse(), maybe after another call of open() whose
// endpoint gave it back. It outlives the channel.
class Opener {
 public:
  virtual ~Opener() = default;

  // The peer's service, 1 to protocol_limits::kMaxService characters.
  virtual std::string_view service() const = 0;
  virtual Priority priority() const { return Priority::kNormal; }
  // Writes what the peer is told of the client; returns how many bytes that is.
  virtual size_t describe(int /*client*/, std::span<std::byte> /*metadata*/) { return 0; }
  // The client has a stream. Returns its endpoint, which is started next.
  virtual std::unique_ptr<Endpoint> open(int client, StreamHandle& stream) = 0;
  // Where its clients come, and the descriptor of one, for observers.
  virtual const Address* address() const { return nullptr; }
  virtual int fd_of(int /*client*/) const { return -1; }
  // There is no stream for the client.
  virtual void refuse(int client) = 0;
};

// The services that one end of a channel offers, by name. Owns none of them: each outlives its place
// here.
class ServiceRegistry {
 public:
  // False if the name is taken.
  bool add(std::string name, Service& service) {
    return services_.emplace(std::move(name), &service).second;
  }
  void clear() { services_.clear(); }
  // Null where there is none. O(1): the peer chooses the names, but not those that are stored.
  Service* find(std::string_view name) const;

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view name) const { return std::hash<std::string_view>{}(name); }
  };
  std::unordered_map<std::string, Service*, Hash, std::equal_to<>> services_;
};

}  // namespace virtproxy
