#include "uring/daemon/config_files.h"

#include <dirent.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "uring/base/small_file.h"
#include "uring/base/text.h"
#include "uring/base/units.h"

namespace virtproxy {
namespace {

struct CloseDirectory {
  void operator()(DIR* directory) const { closedir(directory); }
};

Problem unreadable(const std::string& path, int error) {
  const bool forbidden = error == EACCES || error == EPERM;
  return {{printable(path), 0, 0},
          std::string("cannot be read: ") + std::strerror(error),
          forbidden ? "give a file that may be read by user " + std::to_string(geteuid()) +
                          ", as whom this process runs"
                    : std::string("give the path of a file of options")};
}

tl::expected<ConfigText, Problem> read_file(const std::string& path) {
  auto text = read_small_file(path, kMaxConfigFile);
  if (text) return ConfigText{printable(path), *std::move(text)};
  if (text.error() != EFBIG) return tl::unexpected(unreadable(path, text.error()));
  return tl::unexpected(
      Problem{{printable(path), 0, 0},
              "is larger than " + format_size(kMaxConfigFile) + ", the limit of a file",
              "divide it into files of conf.d"});
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
  } else if (errno == ENOTDIR && access(parts.c_str(), F_OK) == 0) {
    problems.push_back({{printable(parts), 0, 0},
                        "is no directory",
                        "make it one, for *.toml beside " + printable(path) + ", or remove it"});
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
