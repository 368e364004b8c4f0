#include "core/agent/method_table.h"

#include <algorithm>
#include <array>

namespace virtproxy::agent {
namespace {

using Type = Parameter::Type;
constexpr auto kRequired = Parameter::Need::kRequired;
constexpr auto kOptional = Parameter::Need::kOptional;
constexpr int64_t kAnyInteger = INT64_MAX;
constexpr int64_t kMaxPath = 4095;

constexpr Parameter kHello[] = {{"version", Type::kString, kRequired, 0, 64},
                                {"role", Type::kString, kOptional, 0, 16},
                                {"methods", Type::kStrings, kRequired, kMaxMethods, kMaxMethodName},
                                {"limits", Type::kObject, kOptional, 0, 1024}};
constexpr Parameter kDmesg[] = {{"bytes", Type::kInteger, kOptional, 1, 1 << 20}};
constexpr Parameter kFileOpen[] = {{"path", Type::kString, kRequired, 0, kMaxPath},
                                   {"mode", Type::kString, kOptional, 0, 3}};
constexpr Parameter kHandle[] = {{"handle", Type::kInteger, kRequired, 0, kAnyInteger}};
constexpr Parameter kFileRead[] = {{"handle", Type::kInteger, kRequired, 0, kAnyInteger},
                                   {"count", Type::kInteger, kOptional, 0, 1 << 20}};
constexpr Parameter kFileWrite[] = {{"handle", Type::kInteger, kRequired, 0, kAnyInteger},
                                    {"buf-b64", Type::kString, kRequired, 0, 64 * 1024},
                                    {"count", Type::kInteger, kOptional, 0, 48 * 1024}};
// `whence` is an integer or one of the strings set, cur and end; the method checks it.
constexpr Parameter kFileSeek[] = {{"handle", Type::kInteger, kRequired, 0, kAnyInteger},
                                   {"offset", Type::kInteger, kRequired, INT64_MIN, kAnyInteger},
                                   {"whence", Type::kString, kRequired, 0, 3}};
constexpr Parameter kGet[] = {{"path", Type::kString, kRequired, 0, kMaxPath},
                              {"offset", Type::kInteger, kOptional, 0, kAnyInteger},
                              {"length", Type::kInteger, kOptional, 0, kAnyInteger}};
constexpr Parameter kPut[] = {{"path", Type::kString, kRequired, 0, kMaxPath},
                              {"size", Type::kInteger, kRequired, 0, kAnyInteger},
                              {"mode", Type::kInteger, kOptional, 0, 0777}};
constexpr Parameter kTime[] = {{"time", Type::kInteger, kOptional, 0, kAnyInteger}};
constexpr Parameter kShutdown[] = {{"mode", Type::kString, kOptional, 0, 16}};
constexpr Parameter kHook[] = {{"name", Type::kString, kRequired, 0, 64},
                               {"args", Type::kStrings, kOptional, 16, 1024}};
constexpr Parameter kFstrim[] = {{"minimum", Type::kInteger, kOptional, 0, kAnyInteger}};
constexpr Parameter kLog[] = {{"level", Type::kInteger, kRequired, 0, 7},
                              {"tag", Type::kString, kRequired, 0, 64},
                              {"message", Type::kString, kRequired, 0, 4096},
                              {"fields", Type::kObject, kOptional, 0, 4096}};
constexpr Parameter kNotify[] = {{"event", Type::kString, kRequired, 0, 64},
                                 {"data", Type::kObject, kOptional, 0, 4096}};
constexpr Parameter kMetadata[] = {{"key", Type::kString, kRequired, 0, 64}};
constexpr Parameter kSync[] = {{"id", Type::kInteger, kRequired, INT64_MIN, kAnyInteger}};

constexpr auto kAlways = Permission::kAlways;
constexpr auto kAnywhere = Where::kAnywhere;
constexpr auto kNow = Pace::kImmediate;
constexpr auto kTurn = Pace::kQueued;
constexpr auto kServed = WhileFrozen::kServed;
constexpr auto kRefused = WhileFrozen::kRefused;

constexpr MethodRow kGuestMethods[] = {
    {"guest-sync", kAlways, "", kAnywhere, kNow, kServed, kSync},
    {"guest-sync-delimited", kAlways, "", kAnywhere, kNow, kServed, kSync},
    {"guest-ping", kAlways, "", kAnywhere, kNow, kServed, {}},
    {"guest-info", kAlways, "", kAnywhere, kNow, kServed, {}},
    {"va-capabilities", kAlways, "", kAnywhere, kNow, kServed, {}},
    {"va-hello", kAlways, "", kAnywhere, kTurn, kServed, kHello},
    {"va-events", kAlways, "", Where::kStreams, kTurn, kServed, {}},
    {"guest-get-time", kAlways, "", kAnywhere, kTurn, kServed, {}},
    {"guest-get-host-name", kAlways, "", kAnywhere, kTurn, kRefused, {}},
    {"guest-get-osinfo", kAlways, "", kAnywhere, kTurn, kRefused, {}},
    {"guest-get-timezone", kAlways, "", kAnywhere, kTurn, kRefused, {}},
    {"guest-get-users", kAlways, "", kAnywhere, kTurn, kRefused, {}},
    {"guest-get-load", kAlways, "", kAnywhere, kTurn, kRefused, {}},
    {"guest-get-vcpus", kAlways, "", kAnywhere, kTurn, kRefused, {}},
    {"guest-network-get-interfaces", kAlways, "", kAnywhere, kTurn, kRefused, {}},
    {"guest-get-fsinfo", kAlways, "", kAnywhere, kTurn, kRefused, {}},
    {"va-dmesg", Permission::kNamed, "dmesg", kAnywhere, kTurn, kRefused, kDmesg},
    {"guest-file-open", Permission::kFiles, "", kAnywhere, kTurn, kRefused, kFileOpen},
    {"guest-file-read", Permission::kRead, "", kAnywhere, kTurn, kRefused, kFileRead},
    {"guest-file-seek", Permission::kFiles, "", kAnywhere, kTurn, kRefused, kFileSeek},
    {"guest-file-close", Permission::kFiles, "", kAnywhere, kTurn, kRefused, kHandle},
    {"guest-file-write", Permission::kWrite, "", kAnywhere, kTurn, kRefused, kFileWrite},
    {"guest-file-flush", Permission::kWrite, "", kAnywhere, kTurn, kRefused, kHandle},
    {"va-get", Permission::kRead, "", Where::kStreams, kTurn, kRefused, kGet},
    {"va-put", Permission::kWrite, "", Where::kStreams, kTurn, kRefused, kPut},
    {"guest-set-time", Permission::kNamed, "set-time", kAnywhere, kTurn, kRefused, kTime},
    {"guest-shutdown", Permission::kNamed, "shutdown", kAnywhere, kTurn, kRefused, kShutdown},
    {"va-shutdown", Permission::kNamed, "shutdown", kAnywhere, kTurn, kRefused, kShutdown},
    {"guest-fsfreeze-status", Permission::kNamed, "fsfreeze", kAnywhere, kTurn, kServed, {}},
    {"guest-fsfreeze-freeze", Permission::kNamed, "fsfreeze", kAnywhere, kTurn, kServed, {}},
    {"guest-fsfreeze-thaw", Permission::kNamed, "fsfreeze", kAnywhere, kTurn, kServed, {}},
    {"guest-fstrim", Permission::kNamed, "fstrim", kAnywhere, kTurn, kRefused, kFstrim},
    {"va-hook", Permission::kHook, "", kAnywhere, kTurn, kRefused, kHook},
};

constexpr MethodRow kHostMethods[] = {
    {"guest-sync", kAlways, "", kAnywhere, kNow, kServed, kSync},
    {"guest-sync-delimited", kAlways, "", kAnywhere, kNow, kServed, kSync},
    {"host-ping", kAlways, "", kAnywhere, kNow, kServed, {}},
    {"host-capabilities", kAlways, "", kAnywhere, kNow, kServed, {}},
    {"va-hello", kAlways, "", kAnywhere, kTurn, kServed, kHello},
    {"va-events", kAlways, "", Where::kLocal, kTurn, kServed, {}},
    {"host-get-time", kAlways, "", kAnywhere, kTurn, kServed, {}},
    {"host-log", kAlways, "", kAnywhere, kTurn, kServed, kLog},
    {"host-notify", kAlways, "", kAnywhere, kTurn, kServed, kNotify},
    {"host-get-metadata", Permission::kNamed, "metadata", kAnywhere, kTurn, kServed, kMetadata},
};

constexpr std::string_view kAllowNames[] = {"dmesg", "set-time", "shutdown", "fsfreeze", "fstrim"};

Error not_found(std::string text, ErrorCode code) {
  Error error = error_of(code, std::move(text));
  error.command_not_found = true;
  return error;
}

std::optional<Error> check_value(const Parameter& parameter, const Json& value) {
  const std::string name(parameter.name);
  const auto bad = [&](const std::string& want) {
    return error_of(ErrorCode::kBadArgument, name + " must be " + want);
  };
  const auto large = [&] {
    return error_of(ErrorCode::kTooLarge,
                    name + " has more than " + std::to_string(parameter.most) + " bytes");
  };
  switch (parameter.type) {
    case Type::kInteger: {
      // An unsigned value beyond INT64_MAX would wrap.
      const bool fits = value.is_number_integer() &&
                        !(value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX);
      if (!fits || value.get<int64_t>() < parameter.least ||
          value.get<int64_t>() > parameter.most) {
        return bad("an integer from " + std::to_string(parameter.least) + " to " +
                   std::to_string(parameter.most));
      }
      return std::nullopt;
    }
    case Type::kString:
      if (parameter.name == "whence" && value.is_number_integer()) return std::nullopt;
      if (!value.is_string()) return bad("a string");
      if (value.get_ref<const std::string&>().size() > static_cast<size_t>(parameter.most)) {
        return large();
      }
      return std::nullopt;
    case Type::kStrings:
      if (!value.is_array()) return bad("a list of strings");
      if (value.size() > static_cast<size_t>(parameter.least)) {
        return error_of(ErrorCode::kTooLarge,
                        name + " has more than " + std::to_string(parameter.least) + " items");
      }
      for (const Json& item : value) {
        if (!item.is_string()) return bad("a list of strings");
        if (item.get_ref<const std::string&>().size() > static_cast<size_t>(parameter.most)) {
          return large();
        }
      }
      return std::nullopt;
    case Type::kObject:
      if (!value.is_object()) return bad("an object");
      if (to_text(value).size() > static_cast<size_t>(parameter.most)) return large();
      return std::nullopt;
  }
  return std::nullopt;
}

std::string why_withheld(FileSystems state) {
  switch (state) {
    case FileSystems::kFreezing:
      return "the file systems are being frozen: call guest-fsfreeze-thaw before ";
    case FileSystems::kThawing:
      return "the file systems are being thawed: wait for that before ";
    case FileSystems::kUsable:
    case FileSystems::kFrozen:
      break;
  }
  return "the file systems are frozen: call guest-fsfreeze-thaw before ";
}

bool may_be_called(const MethodRow& row, Source source) {
  switch (row.where) {
    case Where::kAnywhere:
      return true;
    case Where::kStreams:
      return source != Source::kPort;
    case Where::kLocal:
      return source == Source::kLocal;
  }
  return false;
}

}  // namespace

std::span<const MethodRow> methods_of(Role role) {
  if (role == Role::kGuest) return kGuestMethods;
  return kHostMethods;
}

const MethodRow* find_method(Role role, std::string_view name) {
  const auto rows = methods_of(role);
  const auto found = std::find_if(rows.begin(), rows.end(),
                                  [&](const MethodRow& row) { return row.name == name; });
  return found == rows.end() ? nullptr : &*found;
}

Pace guest_pace(std::string_view method) {
  const MethodRow* row = find_method(Role::kGuest, method);
  return row == nullptr ? Pace::kQueued : row->pace;
}

Pace host_pace(std::string_view method) {
  const MethodRow* row = find_method(Role::kHost, method);
  return row == nullptr ? Pace::kQueued : row->pace;
}

std::span<const std::string_view> allow_names() { return kAllowNames; }

bool Permissions::allows(const MethodRow& row) const {
  switch (row.permission) {
    case Permission::kAlways:
      return true;
    case Permission::kNamed:
      return named.contains(row.allow);
    case Permission::kRead:
      return read;
    case Permission::kWrite:
      return write;
    case Permission::kFiles:
      return read || write;
    case Permission::kHook:
      return hooks;
  }
  return false;
}

tl::expected<const MethodRow*, Error> Guard::check(std::string_view method, const Json& arguments,
                                                   Source source) const {
  const MethodRow* const row = find_method(role, method);
  const std::string name(method);
  if (row == nullptr) {
    return tl::unexpected(not_found("there is no method " + name, ErrorCode::kUnsupported));
  }
  if (!permissions.allows(*row)) {
    // In the words of qemu-ga, which clients look for.
    return tl::unexpected(
        not_found("Command " + name + " has been disabled", ErrorCode::kNotAllowed));
  }
  if (!may_be_called(*row, source)) {
    return tl::unexpected(
        not_found(name + " is not served here, only on " +
                      (row->where == Where::kLocal ? "the local socket" : "streams"),
                  ErrorCode::kUnsupported));
  }
  if (withheld(*row)) {
    return tl::unexpected(error_of(ErrorCode::kFrozen, why_withheld(file_systems) + name));
  }
  for (const auto& [key, value] : arguments.items()) {
    const auto parameter =
        std::find_if(row->parameters.begin(), row->parameters.end(),
                     [&key = key](const Parameter& each) { return each.name == key; });
    if (parameter == row->parameters.end()) {
      return tl::unexpected(
          error_of(ErrorCode::kBadArgument, name + " takes no " + std::string(cut_utf8(key, 64))));
    }
    if (auto error = check_value(*parameter, value)) return tl::unexpected(*error);
  }
  for (const Parameter& parameter : row->parameters) {
    if (parameter.need == kRequired && !arguments.contains(parameter.name)) {
      return tl::unexpected(
          error_of(ErrorCode::kBadArgument, name + " needs " + std::string(parameter.name)));
    }
  }
  return row;
}

Json capabilities(const Guard& guard, std::string_view version, Source source) {
  Json methods = Json::array();
  for (const MethodRow& row : methods_of(guard.role)) {
    const bool enabled =
        guard.permissions.allows(row) && may_be_called(row, source) && !guard.withheld(row);
    // guest-shutdown alone has no answer when it succeeds.
    methods.push_back({{"name", row.name},
                       {"enabled", enabled},
                       {"success-response", row.name != "guest-shutdown"}});
  }
  return {{"version", version}, {"supported_commands", methods}};
}

Json method_names(const Guard& guard, Source source) {
  Json names = Json::array();
  for (const MethodRow& row : methods_of(guard.role)) {
    if (guard.permissions.allows(row) && may_be_called(row, source)) names.push_back(row.name);
  }
  return names;
}

Json hello_of(const Guard& guard, std::string_view version, Source source) {
  return {{"version", version},
          {"role", guard.role == Role::kGuest ? "guest" : "host"},
          {"methods", method_names(guard, source)},
          {"limits", {{"message", kMaxMessage}, {"depth", kMaxDepth}, {"values", kMaxValues}}}};
}

}  // namespace virtproxy::agent
