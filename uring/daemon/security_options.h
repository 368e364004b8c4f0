// The part of the command line about who may connect and what the daemon gives up:
//
//   started as root ─▶ every listener bound, with its mode and owner ─▶ another user, no
//   capabilities, no new privileges ─▶ rings that take few operations ─▶ system calls filtered
//
// sockets.h binds, acl.h turns away, privileges.h gives up, io_uring_driver.h restricts, sandbox.h filters.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "uring/daemon/user_db.h"
#include "uring/net/acl.h"
#include "uring/net/sockets.h"

namespace CLI {
class App;
}

namespace virtproxy {

struct Options;

struct SecurityOptions {
  std::optional<Account> user;  // to run as
  bool sandbox = true;          // filter system calls; as root without `user`, drop capabilities
  ListenRules listen;           // of every listener
  Acl clients;                  // of -o listeners
  Acl peers;                    // of channels that listen
};

// The arguments as text.
struct RawSecurityOptions {
  std::optional<std::string> user;
  std::optional<std::string> sandbox;
  std::optional<std::string> socket_mode;
  std::optional<std::string> socket_owner;
  std::vector<std::string> allow_uid;
  std::vector<std::string> allow_gid;
  std::vector<std::string> channel_allow_uid;
  std::vector<std::string> channel_allow_gid;
  std::vector<std::string> channel_allow_cid;
  bool allow_remote = false;
};

void declare_security_options(CLI::App& app, RawSecurityOptions& raw);

// `options` has its channels and forwards already. Nothing, or the fault.
std::optional<std::string> interpret_security_options(const RawSecurityOptions& raw,
                                                      Options& options);

// What the user may think is guarded and is not, one line each.
std::vector<std::string> unguarded(const Options& options);

}  // namespace virtproxy
