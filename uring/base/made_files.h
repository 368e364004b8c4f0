// Files that a start makes before it is known whether it succeeds.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <utility>
#include <vector>

#include "uring/base/unique_fd.h"

namespace virtproxy {

// Removes the files that were made through it, unless keep() is called: a start that fails leaves
// nothing behind. One that was there before is never removed.
class MadeFiles {
 public:
  MadeFiles() = default;
  MadeFiles(const MadeFiles&) = delete;
  MadeFiles& operator=(const MadeFiles&) = delete;
  ~MadeFiles() {
    for (const std::string& path : paths_) unlink(path.c_str());
  }

  // As open(2) with O_CREAT; errno if the result is empty.
  UniqueFd open(const std::string& path, int flags, mode_t mode) {
    UniqueFd made(::open(path.c_str(), flags | O_CREAT | O_EXCL, mode));
    if (made) paths_.push_back(path);
    if (made || errno != EEXIST) return made;
    return UniqueFd(::open(path.c_str(), flags | O_CREAT, mode));
  }
  void keep() { paths_.clear(); }

 private:
  std::vector<std::string> paths_;
};

}  // namespace virtproxy
