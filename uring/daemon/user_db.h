// Users and groups by name. Read from /etc/passwd and /etc/group without NSS, so that a statically
// linked program can do it too and no plug-in is loaded with privileges: accounts that are only in
// a directory service are given by number.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

namespace virtproxy {

// Names or numbers; the error says what would be right.
tl::expected<uid_t, std::string> find_user(std::string_view text);
tl::expected<gid_t, std::string> find_group(std::string_view text);

// Whom the daemon runs as.
struct Account {
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;  // supplementary ones

  friend bool operator==(const Account&, const Account&) = default;
};

// USER: with the group and the supplementary groups it has in the files. USER:GROUP: with that
// group and no other. Not root.
tl::expected<Account, std::string> find_account(std::string_view text);

}  // namespace virtproxy
