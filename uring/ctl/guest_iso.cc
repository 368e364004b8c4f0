#include "uring/ctl/guest_iso.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <system_error>

#include "uring/ctl/guest_files.h"
#include "uring/net/address.h"

namespace virtproxy::ctl {
namespace {

using Failure = tl::unexpected<std::string>;
namespace fs = std::filesystem;

// A directory that goes with this object.
class ScratchDirectory {
 public:
  ScratchDirectory() {
    std::error_code error;
    path_ = (fs::temp_directory_path(error) / "virtproxy-iso-XXXXXX").string();
    if (error || mkdtemp(path_.data()) == nullptr) path_.clear();
  }
  ~ScratchDirectory() {
    std::error_code error;
    if (!path_.empty()) fs::remove_all(path_, error);
  }
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

tl::expected<void, std::string> write_file(const fs::path& path, std::string_view text,
                                           bool program) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file)
    return Failure(fmt::format("cannot write {}: {}", path.string(), std::strerror(errno)));
  std::error_code error;
  fs::permissions(path, static_cast<fs::perms>(program ? 0755 : 0644), error);
  if (error) return Failure(fmt::format("cannot write {}: {}", path.string(), error.message()));
  return {};
}

fs::path beside_this_program(const char* name) {
  std::error_code error;
  return fs::read_symlink("/proc/self/exe", error).parent_path() / name;
}

// The exit code; 127 if there is no such program.
int run(std::vector<std::string> args) {
  std::vector<char*> pointers;
  for (std::string& arg : args) pointers.push_back(arg.data());
  pointers.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  pid_t child = 0;
  const int error = posix_spawnp(&child, pointers[0], &actions, nullptr, pointers.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return error == ENOENT ? 127 : 126;
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 126;
}

}  // namespace

tl::expected<void, std::string> write_guest_iso(const GuestIso& iso) {
  // A unit's EnvironmentFile= ends a value at the line's end, and expands nothing in single quotes.
  if (iso.args.find_first_of("\n'\\") != std::string::npos) {
    return Failure(
        fmt::format("--args {}: no quotes, backslashes or line ends", printable(iso.args)));
  }
  if (iso.output.empty() || iso.output.starts_with('-')) {
    return Failure(fmt::format("--output '{}': give the path of a file", printable(iso.output)));
  }
  const fs::path program =
      iso.program.empty() ? beside_this_program("virtproxy-static") : fs::path(iso.program);
  // xorriso would tell it in ten lines.
  const fs::path folder = fs::absolute(iso.output).parent_path();
  if (access(folder.c_str(), W_OK) != 0) {
    return Failure(fmt::format("--output {}: {}: {}", printable(iso.output),
                               printable(folder.string()), std::strerror(errno)));
  }
  std::error_code error;
  if (!fs::is_regular_file(program, error)) {
    return Failure(fmt::format("{} is not there: install virtproxy-static, or give --static PATH",
                               printable(program.string())));
  }
  const ScratchDirectory scratch;
  const fs::path place = scratch.path();
  if (place.empty()) return Failure("cannot make a directory for temporary files: see TMPDIR");
  fs::copy_file(program, place / "virtproxy", error);
  if (!error) fs::permissions(place / "virtproxy", static_cast<fs::perms>(0755), error);
  if (error) return Failure(fmt::format("cannot copy {}: {}", program.string(), error.message()));
  for (const GuestFile& file : kGuestFiles) {
    const bool script = file.name == "install";
    if (const auto done = write_file(place / file.name, file.text, script); !done) return done;
  }
  if (const auto done =
          write_file(place / "guest.env", fmt::format("ARGS='{}'\n", iso.args), false);
      !done) {
    return done;
  }
  // Beside the target, so that no half-written image has its name.
  const std::string partial = iso.output + ".part";
  const std::vector<std::string> options{"-quiet",    "-R", "-J",    "-V",
                                         "virtproxy", "-o", partial, place.string()};
  for (const std::vector<std::string>& tool :
       {std::vector<std::string>{"xorriso", "-as", "mkisofs"}, {"genisoimage"}, {"mkisofs"}}) {
    std::vector<std::string> command = tool;
    command.insert(command.end(), options.begin(), options.end());
    const int code = run(command);
    if (code == 127) continue;
    if (code == 0) fs::rename(partial, iso.output, error);
    if (code == 0 && !error) return {};
    std::error_code ignored;
    fs::remove(partial, ignored);
    return Failure(code == 0
                       ? fmt::format("cannot write {}: {}", printable(iso.output), error.message())
                       : fmt::format("{} failed with exit code {}", tool.front(), code));
  }
  return Failure("neither xorriso nor genisoimage is installed: install one of them");
}

}  // namespace virtproxy::ctl
