#include "uring/daemon/user_db.h"

#include <grp.h>
#include <pwd.h>

#include <cstdio>
#include <memory>
#include <optional>

#include "uring/base/text.h"
#include "uring/base/units.h"

namespace virtproxy {
namespace {

constexpr char kUserFile[] = "/etc/passwd";
constexpr char kGroupFile[] = "/etc/group";

using Failure = tl::unexpected<std::string>;

struct CloseFile {
  void operator()(FILE* file) const { std::fclose(file); }
};
using Database = std::unique_ptr<FILE, CloseFile>;

Database open_file(const char* path) { return Database(std::fopen(path, "re")); }

// An id, unless the text is a name. The highest number means "unchanged" to the kernel.
std::optional<uint32_t> to_id(std::string_view text) {
  const auto id = parse_number<uint32_t>(text);
  return id == UINT32_MAX ? std::nullopt : id;
}

struct User {
  std::string name;
  uid_t uid = 0;
  gid_t gid = 0;
};

template <typename Matches>
std::optional<User> find_entry(const Matches& matches) {
  const Database file = open_file(kUserFile);
  // Neither stream is shared with another thread.
  while (const passwd* entry = file ? fgetpwent(file.get()) : nullptr) {
    if (matches(*entry)) return User{entry->pw_name, entry->pw_uid, entry->pw_gid};
  }
  return std::nullopt;
}

std::vector<gid_t> groups_with(const std::string& user) {
  std::vector<gid_t> groups;
  const Database file = open_file(kGroupFile);
  while (const group* entry = file ? fgetgrent(file.get()) : nullptr) {
    for (char** member = entry->gr_mem; *member != nullptr; ++member) {
      if (user == *member) groups.push_back(entry->gr_gid);
    }
  }
  return groups;
}

std::string unknown(const char* what, std::string_view text, const char* file) {
  return std::string("there is no ") + what + " '" + printable(text) + "' in " + file +
         ": give a name that is there, or a number";
}

}  // namespace

tl::expected<uid_t, std::string> find_user(std::string_view text) {
  const auto user = find_entry([&](const passwd& entry) { return text == entry.pw_name; });
  if (user) return user->uid;
  if (const auto id = to_id(text)) return *id;
  return Failure(unknown("user", text, kUserFile));
}

tl::expected<gid_t, std::string> find_group(std::string_view text) {
  const Database file = open_file(kGroupFile);
  while (const group* entry = file ? fgetgrent(file.get()) : nullptr) {
    if (text == entry->gr_name) return entry->gr_gid;
  }
  if (const auto id = to_id(text)) return *id;
  return Failure(unknown("group", text, kGroupFile));
}

tl::expected<Account, std::string> find_account(std::string_view text) {
  const size_t colon = text.find(':');
  const std::string_view name = text.substr(0, colon);
  const auto uid = find_user(name);
  if (!uid) return Failure(uid.error());
  if (*uid == 0) return Failure("'" + printable(name) + "' is root: name a user that is not");
  if (colon != std::string_view::npos) {
    const auto gid = find_group(text.substr(colon + 1));
    if (!gid) return Failure(gid.error());
    return Account{*uid, *gid, {}};
  }
  const auto user = find_entry([&](const passwd& entry) { return entry.pw_uid == *uid; });
  if (!user) {
    return Failure("user " + std::to_string(*uid) + " is not in " + kUserFile +
                   ": name its group as well, as in " + std::to_string(*uid) + ":GROUP");
  }
  return Account{*uid, user->gid, groups_with(user->name)};
}

}  // namespace virtproxy
