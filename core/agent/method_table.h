// The methods of both ends: one row for each, with what it takes, where it may be called and what
// has to allow it. PROTOCOL.md, sections 6 and 7, describes them.
#pragma once

#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <string_view>

#include "core/agent/conversation.h"

namespace virtproxy::agent {

enum class Role { kGuest, kHost };

struct Parameter {
  enum class Type {
    kInteger,  // from `least` to `most`
    kString,   // of at most `most` bytes
    kStrings,  // a list of at most `least` strings of at most `most` bytes
    kObject,   // of at most `most` bytes when written
  };
  enum class Need { kRequired, kOptional };

  std::string_view name;
  Type type;
  Need need;
  int64_t least;
  int64_t most;
};

enum class Permission {
  kAlways,
  kNamed,  // --allow NAME, with the name in the row
  kRead,   // --allow-read DIR
  kWrite,  // --allow-write DIR
  kFiles,  // either of them
  kHook,   // --hook NAME=PATH
};

// From what a request has come.
enum class Source {
  kPort,
  kStream,
  kLocal,  // a socket of this machine's own programs
};

enum class Where {
  kAnywhere,
  kStreams,  // not on a port, where raw bytes and long answers would hold up everything else
  kLocal,
};

enum class WhileFrozen { kRefused, kServed };

// What can be done with the file systems of the guest. A freeze that fails or is given up goes from
// kFreezing to kThawing.
enum class FileSystems {
  kUsable,
  kFreezing,  // some may be frozen already
  kFrozen,
  kThawing,  // some may still be frozen
};

struct MethodRow {
  std::string_view name;
  Permission permission;
  std::string_view allow;  // of kNamed
  Where where;
  Pace pace;
  WhileFrozen frozen;
  std::span<const Parameter> parameters;
};

std::span<const MethodRow> methods_of(Role role);
const MethodRow* find_method(Role role, std::string_view name);
Pace guest_pace(std::string_view method);
Pace host_pace(std::string_view method);

// What the operator has allowed.
struct Permissions {
  std::set<std::string, std::less<>> named;
  bool read = false;  // some directory
  bool write = false;
  bool hooks = false;

  bool allows(const MethodRow& row) const;
};

// The names that --allow takes.
std::span<const std::string_view> allow_names();

struct Guard {
  Role role = Role::kGuest;
  Permissions permissions;
  FileSystems file_systems = FileSystems::kUsable;

  // Whether the row is left out because a method that touches a file would wait.
  bool withheld(const MethodRow& row) const {
    return file_systems != FileSystems::kUsable && row.frozen == WhileFrozen::kRefused;
  }
  // The row of a request that may be served, its arguments checked against it. Errors:
  // CommandNotFound for what is not there, not allowed or not to be had there; frozen;
  // bad-argument; too-large.
  tl::expected<const MethodRow*, Error> check(std::string_view method, const Json& arguments,
                                              Source source) const;
};

// The answer of guest-info, va-capabilities and host-capabilities.
Json capabilities(const Guard& guard, std::string_view version, Source source);
// The names of the methods that may be called, for va-hello.
Json method_names(const Guard& guard, Source source);
// The arguments or the answer of va-hello.
Json hello_of(const Guard& guard, std::string_view version, Source source);

}  // namespace virtproxy::agent
