#include "uring/daemon/config_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "uring/base/text.h"
#include "uring/base/units.h"

namespace virtproxy {
namespace {

struct CloseDirectory {
  void operator()(DIR* directory) const { closedir(directory); }
};

Problem unreadable(const std::string& path, int error) {
  return {{printable(path), 0, 0},
          std::string("cannot be read: ") + std::strerror(error),
          "give a file that the user who starts virtproxy may read"};
}

tl::expected<ConfigText, Problem> read_file(const std::string& path) {
  // Without O_NONBLOCK, open(2) waits until a named pipe has a writer. Reading is to wait: the
  // writer of a pipe, as of a shell's <(…), may be slow.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  if (fd < 0) return tl::unexpected(unreadable(path, errno));
  fcntl(fd, F_SETFL, O_RDONLY);
  struct stat status {};
  ConfigText file{printable(path), {}};
  int error = fstat(fd, &status) == 0 ? 0 : errno;
  if (error == 0 && S_ISDIR(status.st_mode)) error = EISDIR;
  while (error == 0 && file.text.size() <= kMaxConfigFile) {
    char part[16384];
    const ssize_t size = read(fd, part, sizeof part);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) error = errno;
    if (size <= 0) break;
    file.text.append(part, static_cast<size_t>(size));
  }
  close(fd);
  if (error != 0) return tl::unexpected(unreadable(path, error));
  if (file.text.size() > kMaxConfigFile) {
    return tl::unexpected(
        Problem{{file.name, 0, 0},
                "is larger than " + format_size(kMaxConfigFile) + ", the limit of a file",
                "divide it into files of conf.d"});
  }
  return file;
}

}  // namespace

tl::expected<std::vector<ConfigText>, std::vector<Problem>> read_config_files(
    const std::string& path) {
  std::vector<std::string> paths{path};
  std::vector<Problem> problems;
  const size_t slash = path.rfind('/');
  const std::string parts =
      (slash == std::string::npos ? std::string() : path.substr(0, slash + 1)) + "conf.d";
  if (const std::unique_ptr<DIR, CloseDirectory> directory(opendir(parts.c_str())); directory) {
    while (const dirent* entry = readdir(directory.get())) {
      const std::string_view name = entry->d_name;
      if (name.starts_with('.') || !name.ends_with(".toml")) continue;
      paths.push_back(parts + "/" + std::string(name));
    }
  } else if (errno != ENOENT && errno != ENOTDIR) {
    problems.push_back(unreadable(parts, errno));
  }
  std::sort(paths.begin() + 1, paths.end());
  if (paths.size() > kMaxConfigFiles) {
    problems.push_back({{printable(parts), 0, 0},
                        std::to_string(paths.size() - 1) + " files are too many",
                        "the limit is " + std::to_string(kMaxConfigFiles - 1)});
    return tl::unexpected(std::move(problems));
  }
  std::vector<ConfigText> files;
  for (const std::string& each : paths) {
    auto file = read_file(each);
    if (file) {
      files.push_back(*std::move(file));
    } else {
      problems.push_back(std::move(file.error()));
    }
  }
  if (!problems.empty()) return tl::unexpected(std::move(problems));
  return files;
}

}  // namespace virtproxy
