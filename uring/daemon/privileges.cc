#include "uring/daemon/privileges.h"

#include <cap-ng.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <vector>

#include "uring/base/log.h"
#include "uring/daemon/sandbox.h"
#include "uring/transport/transport_kind.h"

namespace virtproxy {
namespace {

using Failure = tl::unexpected<std::string>;

bool is_path(const Address& address) {
  return address.kind == Address::Kind::kDevice ||
         (address.kind == Address::Kind::kUnix && !address.host.starts_with('@'));
}

// Whether files are opened, or sockets in the file system connected to, after the start.
bool opens_paths(const Options& options) {
  return std::any_of(options.channels.begin(), options.channels.end(),
                     [](const ChannelSpec& channel) {
                       return !transport_listens(channel.transport) && is_path(channel.address);
                     }) ||
         std::any_of(options.iforwards.begin(), options.iforwards.end(),
                     [](const ForwardSpec& forward) { return is_path(forward.address); });
}

bool has_capability(unsigned capability) {
  return capng_get_caps_process() == 0 && capng_have_capability(CAPNG_EFFECTIVE, capability) != 0;
}

void drop_bounding_set() {
  // Takes a capability of its own, and libcap-ng complains to syslog without it. Nothing can be
  // gained by exec then anyway: no_new_privs.
  const bool able = has_capability(CAP_SETPCAP);
  capng_clear(CAPNG_SELECT_BOUNDS);
  if (!able || capng_apply(CAPNG_SELECT_BOUNDS) != 0) log_debug("the bounding set stays as it is");
}

tl::expected<void, std::string> become(const Account& account) {
  if (setgroups(account.groups.size(), account.groups.data()) != 0 ||
      setresgid(account.gid, account.gid, account.gid) != 0 ||
      setresuid(account.uid, account.uid, account.uid) != 0) {
    return Failure(std::string("--user: cannot become that user: ") + std::strerror(errno));
  }
  return {};
}

bool is(const Account& account) {
  uid_t uids[3];
  gid_t gids[3];
  return getresuid(&uids[0], &uids[1], &uids[2]) == 0 &&
         getresgid(&gids[0], &gids[1], &gids[2]) == 0 &&
         std::count(uids, uids + 3, account.uid) == 3 &&
         std::count(gids, gids + 3, account.gid) == 3;
}

// All but those of `kept` that are there.
tl::expected<void, std::string> drop_capabilities(std::vector<unsigned> kept) {
  if (capng_get_caps_process() != 0) return Failure("cannot read the capabilities of this process");
  // A service manager may forbid capset(2) to a process that was started without capabilities.
  if (capng_have_capabilities(CAPNG_SELECT_CAPS) == CAPNG_NONE) return {};
  std::erase_if(kept, [](unsigned one) { return !capng_have_capability(CAPNG_PERMITTED, one); });
  capng_clear(CAPNG_SELECT_ALL);
  for (const unsigned one : kept) {
    capng_update(CAPNG_ADD, static_cast<capng_type_t>(CAPNG_EFFECTIVE | CAPNG_PERMITTED), one);
  }
  const auto sets = static_cast<capng_select_t>(CAPNG_SELECT_CAPS | CAPNG_SELECT_AMBIENT);
  if (capng_apply(sets) != 0) return Failure("cannot drop capabilities");
  return {};
}

std::string names_of_capabilities() {
  if (capng_get_caps_process() != 0) return "unknown capabilities";
  if (capng_have_capabilities(CAPNG_SELECT_CAPS) == CAPNG_NONE) return "no capabilities";
  if (capng_have_capabilities(CAPNG_SELECT_CAPS) == CAPNG_FULL) return "all capabilities";
  const std::unique_ptr<char, decltype(&std::free)> names(
      capng_print_caps_text(CAPNG_PRINT_BUFFER, CAPNG_PERMITTED), &std::free);
  return std::string("capabilities: ") + (names ? names.get() : "?");
}

}  // namespace

void keep_lockable_memory() {
  if (!has_capability(CAP_IPC_LOCK)) return;
  const rlimit unlimited{RLIM_INFINITY, RLIM_INFINITY};
  if (setrlimit(RLIMIT_MEMLOCK, &unlimited) != 0) {
    log_debug("lockable memory stays limited: {}", std::strerror(errno));
  }
}

tl::expected<std::string, std::string> give_up_privileges(const Options& options) {
  const ProcessSettings& process = options.process;
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
    return Failure(std::string("cannot rule out new privileges: ") + std::strerror(errno));
  }
  if (process.user) {
    if (!is(*process.user)) {
      if (geteuid() != 0) {
        return Failure("--user: only root can become another user, and this is user " +
                       std::to_string(geteuid()) + ": start it as root, or leave --user out");
      }
      drop_bounding_set();
      if (const auto done = become(*process.user); !done) return Failure(done.error());
    }
    if (const auto done = drop_capabilities({}); !done) return Failure(done.error());
    if (!is(*process.user) || setuid(0) == 0) return Failure("--user: root came back");
  } else if (process.sandbox) {
    drop_bounding_set();
    std::vector<unsigned> kept{CAP_IPC_LOCK};
    if (opens_paths(options)) kept.push_back(CAP_DAC_OVERRIDE);
    if (const auto done = drop_capabilities(kept); !done) return Failure(done.error());
  }
  // After the last change of credentials, which may set it anew. Sanitizers look for leaks by
  // tracing their own process.
  if (prctl(PR_SET_DUMPABLE, Sandbox::available() ? 0 : 1, 0, 0, 0) != 0) {
    return Failure(std::string("cannot rule out core dumps: ") + std::strerror(errno));
  }
  return fmt::format("user {}, group {}, {}", geteuid(), getegid(), names_of_capabilities());
}

tl::expected<void, std::string> check_devices(const Options& options) {
  for (const ChannelSpec& channel : options.channels) {
    const std::string& path = channel.address.host;
    if (!transport_is_device(channel.transport)) continue;
    if (faccessat(AT_FDCWD, path.c_str(), R_OK | W_OK, AT_EACCESS) == 0) continue;
    // One that is not there yet is waited for.
    if (errno != EACCES && errno != EPERM) continue;
    return Failure(fmt::format(
        "{}: {} may not be read and written by user {} group {}: give them the device (a udev rule "
        "with OWNER= or GROUP=), or name its group: --user USER:GROUP",
        channel.text, printable(path), geteuid(), getegid()));
  }
  return {};
}

}  // namespace virtproxy
