// What may be called, by whom and with which arguments.
#include <gtest/gtest.h>

#include <set>

#include "core/agent/method_table.h"
#include "core/agent/rate_limiter.h"

namespace virtproxy::agent {
namespace {

std::string verdict(const Guard& guard, std::string_view method, std::string_view arguments,
                    Source source = Source::kPort) {
  const auto row = guard.check(method, parse_json(arguments).value, source);
  if (row) return "ok";
  return (row.error().command_not_found ? "CommandNotFound " : "") + error_code_text(row.error());
}

TEST(AgentMethods, ByDefaultNothingThatChangesOrReadsFiles) {
  const Guard guard;
  std::set<std::string> on;
  for (const MethodRow& row : methods_of(Role::kGuest)) {
    if (guard.permissions.allows(row)) on.insert(std::string(row.name));
  }
  EXPECT_EQ(on,
            (std::set<std::string>{"guest-sync", "guest-sync-delimited", "guest-ping", "guest-info",
                                   "va-capabilities", "va-hello", "va-events", "guest-get-time",
                                   "guest-get-host-name", "guest-get-osinfo", "guest-get-timezone",
                                   "guest-get-users", "guest-get-load", "guest-get-vcpus",
                                   "guest-network-get-interfaces", "guest-get-fsinfo"}));
  EXPECT_EQ(verdict(guard, "guest-shutdown", "{}"), "CommandNotFound not-allowed");
  EXPECT_EQ(verdict(guard, "va-hook", R"({"name":"x"})"), "CommandNotFound not-allowed");
  for (const char* never : {"guest-exec", "guest-set-user-password", "guest-suspend-ram",
                            "guest-set-vcpus", "guest-ssh-add-authorized-keys", "no-such"}) {
    EXPECT_EQ(verdict(guard, never, "{}"), "CommandNotFound unsupported") << never;
  }
}

TEST(AgentMethods, EachNameAllowsItsOwn) {
  for (const std::string_view name : allow_names()) {
    Guard guard;
    guard.permissions.named.emplace(name);
    for (const MethodRow& row : methods_of(Role::kGuest)) {
      const bool on = row.permission == Permission::kAlways || row.allow == name;
      EXPECT_EQ(guard.permissions.allows(row), on) << name << " " << row.name;
    }
  }
  Guard guard;
  guard.permissions.read = true;
  EXPECT_EQ(verdict(guard, "guest-file-open", R"({"path":"/x"})"), "ok");
  EXPECT_EQ(verdict(guard, "guest-file-write", R"({"handle":1,"buf-b64":""})"),
            "CommandNotFound not-allowed");
}

TEST(AgentMethods, RawBytesAreForStreams) {
  Guard guard;
  guard.permissions.read = guard.permissions.write = true;
  EXPECT_EQ(verdict(guard, "va-get", R"({"path":"/x"})", Source::kPort),
            "CommandNotFound unsupported");
  EXPECT_EQ(verdict(guard, "va-get", R"({"path":"/x"})", Source::kStream), "ok");
  EXPECT_EQ(verdict(guard, "va-put", R"({"path":"/x","size":1})", Source::kPort),
            "CommandNotFound unsupported");
  guard.role = Role::kHost;
  EXPECT_EQ(verdict(guard, "va-events", "{}", Source::kStream), "CommandNotFound unsupported");
  EXPECT_EQ(verdict(guard, "va-events", "{}", Source::kLocal), "ok");
}

TEST(AgentMethods, ArgumentsAreChecked) {
  Guard guard;
  guard.permissions.read = guard.permissions.write = guard.permissions.hooks = true;
  guard.permissions.named = {"dmesg", "set-time"};
  const auto of = [&](std::string_view method, const std::string& arguments) {
    return verdict(guard, method, arguments);
  };
  EXPECT_EQ(of("guest-ping", R"({"x":1})"), "bad-argument");
  EXPECT_EQ(of("guest-file-open", "{}"), "bad-argument");
  EXPECT_EQ(of("guest-file-open", R"({"path":7})"), "bad-argument");
  EXPECT_EQ(of("guest-file-open", R"({"path":")" + std::string(4096, 'a') + R"("})"), "too-large");
  EXPECT_EQ(of("va-dmesg", R"({"bytes":0})"), "bad-argument");
  EXPECT_EQ(of("va-dmesg", R"({"bytes":1})"), "ok");
  EXPECT_EQ(of("va-dmesg", R"({"bytes":1.5})"), "bad-argument");
  EXPECT_EQ(of("va-dmesg", R"({"bytes":1048577})"), "bad-argument");
  EXPECT_EQ(of("guest-set-time", R"({"time":9223372036854775807})"), "ok");
  EXPECT_EQ(of("guest-set-time", R"({"time":9223372036854775808})"), "bad-argument");
  EXPECT_EQ(of("guest-set-time", R"({"time":-1})"), "bad-argument");
  EXPECT_EQ(of("guest-file-seek", R"({"handle":0,"offset":-1,"whence":"end"})"), "ok");
  EXPECT_EQ(of("guest-file-seek", R"({"handle":0,"offset":-1,"whence":2})"), "ok");
  EXPECT_EQ(of("va-hook", R"({"name":"x","args":["a","b"]})"), "ok");
  EXPECT_EQ(of("va-hook", R"({"name":"x","args":["a",1]})"), "bad-argument");
  std::string args = R"("a")";
  for (int i = 0; i < 16; ++i) args += R"(,"a")";
  EXPECT_EQ(of("va-hook", R"({"name":"x","args":[)" + args + "]}"), "too-large");
  EXPECT_EQ(of("va-hello", R"({"version":"1"})"), "bad-argument");
  EXPECT_EQ(of("va-hello", R"({"version":"1","methods":["a"]})"), "ok");
}

TEST(AgentMethods, FrozenServesOnlyWhatTouchesNoFile) {
  Guard guard;
  guard.permissions.named = {"fsfreeze", "fstrim"};
  guard.permissions.write = true;
  EXPECT_EQ(verdict(guard, "guest-fstrim", "{}"), "ok");
  for (const FileSystems state :
       {FileSystems::kFreezing, FileSystems::kFrozen, FileSystems::kThawing}) {
    guard.file_systems = state;
    EXPECT_EQ(verdict(guard, "guest-ping", "{}"), "ok");
    EXPECT_EQ(verdict(guard, "guest-get-time", "{}"), "ok");
    EXPECT_EQ(verdict(guard, "guest-fsfreeze-thaw", "{}"), "ok");
    EXPECT_EQ(verdict(guard, "guest-get-osinfo", "{}"), "frozen");
    EXPECT_EQ(verdict(guard, "guest-fstrim", "{}"), "frozen");
    EXPECT_EQ(verdict(guard, "va-put", R"({"path":"/a","size":1})", Source::kStream), "frozen");
    EXPECT_EQ(verdict(guard, "guest-file-write", R"({"handle":1,"buf-b64":""})"), "frozen");
  }
}

TEST(AgentMethods, ListsFitTheirMessages) {
  for (const Role role : {Role::kGuest, Role::kHost}) {
    Guard guard;
    guard.role = role;
    EXPECT_LE(methods_of(role).size(), kMaxMethods);
    const Json list = capabilities(guard, std::string(64, 'v'), Source::kPort);
    EXPECT_LT(encode_return(list, std::string(kMaxId, '1')).size(), kMaxSmall);
    EXPECT_EQ(list["supported_commands"].size(), methods_of(role).size());
    const Json hello = hello_of(guard, "2", Source::kPort);
    EXPECT_EQ(verdict(guard, "va-hello", to_text(hello)), "ok");
    for (const MethodRow& row : methods_of(role)) EXPECT_LE(row.name.size(), kMaxMethodName);
  }
}

TEST(AgentRateLimiter, AllowsABurstAndThenItsRate) {
  RateLimiter limiter(100, 200);
  Instant now{1};
  int taken = 0;
  for (int i = 0; i < 1000; ++i) taken += limiter.take(now) ? 1 : 0;
  EXPECT_EQ(taken, 200);
  taken = 0;
  for (int i = 0; i < 1000; ++i) {
    now += std::chrono::milliseconds(1);
    taken += limiter.take(now) ? 1 : 0;
  }
  EXPECT_NEAR(taken, 100, 1);
  EXPECT_EQ(limiter.refused(), 2000u - 200u - static_cast<unsigned>(taken));
}

}  // namespace
}  // namespace virtproxy::agent
