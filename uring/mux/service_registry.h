// What makes the endpoints of streams.
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
#include "uring/mux/stats.h"
#include "uring/net/address.h"

namespace virtproxy {

// Names with this prefix belong to built-in services. No forward may have one.
inline constexpr std::string_view kReservedServicePrefix = "virtproxy.";
inline constexpr std::string_view kLogService = "virtproxy.log";      // which a shipper asks for
inline constexpr std::string_view kFarService = "virtproxy.control";  // which `far` asks for

// Whether the client of the service is this daemon itself.
constexpr bool is_built_in(std::string_view service) {
  return service == kLogService || service == kFarService;
}

class Service {
 public:
  virtual ~Service() = default;

  // The peer asks for a stream. Returns its endpoint, which the table starts later, or why it is
  // refused. `metadata` describes the peer's client, unchecked (core/peer_identity.h).
  virtual tl::expected<std::unique_ptr<Endpoint>, Fault> open(
      StreamHandle& stream, std::span<const std::byte> metadata) = 0;
  // Its address, for observers; null if it is in this process.
  virtual const Address* address() const { return nullptr; }
  // What is shown with the statistics of its channel.
  virtual void visit_stats(StatVisitor& /*visitor*/) const {}
};

// Clients are named by numbers that the opener chooses. It passes them to Channel::admit(), and
// gets each of them back by a call of open() or refuse(). A client whose endpoint gave it back gets
// another such call. The opener outlives the channel.
class Opener {
 public:
  virtual ~Opener() = default;

  // The peer's service, 1 to protocol_limits::kMaxService characters.
  virtual std::string_view service() const = 0;
  virtual Priority priority() const { return Priority::kNormal; }
  // Writes what is sent to the peer about the client, and returns the number of bytes.
  virtual size_t describe(int /*client*/, std::span<std::byte> /*metadata*/) { return 0; }
  // The client has a stream. Returns its endpoint, which is started next.
  virtual std::unique_ptr<Endpoint> open(int client, StreamHandle& stream) = 0;
  // The address that its clients connect to, and the descriptor of one, for observers.
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
  // Null if there is none. O(1): a peer chooses the names that it asks for, not those that are
  // stored.
  Service* find(std::string_view name) const;
  void visit_stats(StatVisitor& visitor) const;

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view name) const { return std::hash<std::string_view>{}(name); }
  };
  std::unordered_map<std::string, Service*, Hash, std::equal_to<>> services_;
};

}  // namespace virtproxy
