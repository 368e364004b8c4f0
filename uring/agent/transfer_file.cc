#include "uring/agent/transfer_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdlib>
#include <cstring>

namespace virtproxy::agent {
namespace {

constexpr int kSignals[] = {SIGINT, SIGTERM, SIGHUP};

// What a signal has to remove. Empty if there is nothing.
char g_unfinished[PATH_MAX];

extern "C" void remove_unfinished(int signal) {
  if (g_unfinished[0] != '\0') unlink(g_unfinished);
  std::signal(signal, SIG_DFL);
  raise(signal);
}

std::string with_errno(const std::string& what) { return what + ": " + std::strerror(errno); }

std::string write_whole(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t size = ::write(fd, bytes.data(), bytes.size());
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return with_errno("cannot write");
    bytes.remove_prefix(static_cast<size_t>(size));
  }
  return "";
}

// A file without a name in $TMPDIR.
tl::expected<UniqueFd, std::string> open_nameless() {
  const char* const directory = std::getenv("TMPDIR");
  std::string path = std::string(directory != nullptr && *directory != '\0' ? directory : "/tmp") +
                     "/virtagent-XXXXXX";
  UniqueFd fd(mkostemp(path.data(), O_CLOEXEC));
  if (!fd) return tl::unexpected(with_errno("cannot keep standard input in " + path));
  unlink(path.c_str());
  return fd;
}

tl::expected<SourceFile, std::string> keep_input() {
  auto kept = open_nameless();
  if (!kept) return tl::unexpected(kept.error());
  SourceFile file{std::move(*kept), 0};
  std::string bytes(1 << 16, '\0');
  for (;;) {
    const ssize_t size = read(STDIN_FILENO, bytes.data(), bytes.size());
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return tl::unexpected(with_errno("cannot read standard input"));
    if (size == 0) break;
    const std::string_view piece(bytes.data(), static_cast<size_t>(size));
    if (const std::string error = write_whole(file.fd.get(), piece); !error.empty()) {
      return tl::unexpected("standard input is kept in a file of TMPDIR (/tmp): " + error);
    }
    file.size += piece.size();
  }
  if (lseek(file.fd.get(), 0, SEEK_SET) < 0) return tl::unexpected(with_errno("cannot seek"));
  return file;
}

}  // namespace

tl::expected<SourceFile, std::string> SourceFile::open(const std::string& path) {
  const bool input = path == "-";
  SourceFile file;
  file.fd = UniqueFd(input ? fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3)
                           : ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  struct stat status {};
  if (!file.fd || fstat(file.fd.get(), &status) != 0) {
    return tl::unexpected(with_errno("cannot read " + (input ? "standard input" : path)));
  }
  if (!S_ISREG(status.st_mode)) {
    if (input) return keep_input();
    return tl::unexpected(path + " is no regular file; - is standard input");
  }
  const off_t at = lseek(file.fd.get(), 0, SEEK_CUR);
  if (at < 0) return tl::unexpected(with_errno("cannot seek"));
  file.size = static_cast<uint64_t>(status.st_size > at ? status.st_size - at : 0);
  return file;
}

tl::expected<TargetFile, std::string> TargetFile::open(const std::string& path) {
  const auto refuse = [&] { return tl::unexpected(with_errno("cannot write " + path)); };
  TargetFile file;
  if (path == "-") {
    file.fd_ = UniqueFd(fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3));
    if (!file.fd_) return refuse();
    return file;
  }
  file.path_ = path;
  struct stat status {};
  const bool there = stat(path.c_str(), &status) == 0;
  if (there && !S_ISREG(status.st_mode)) {
    file.fd_ = UniqueFd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    if (!file.fd_) return refuse();
    return file;
  }
  // A link goes on leading to the file that is replaced.
  if (char* const real = there ? realpath(path.c_str(), nullptr) : nullptr) {
    file.path_ = real;
    std::free(real);
  }
  const size_t slash = file.path_.rfind('/');
  std::string temporary =
      file.path_.substr(0, slash == std::string::npos ? 0 : slash + 1) + ".virtagent-XXXXXX";
  if (temporary.size() >= sizeof g_unfinished) {
    errno = ENAMETOOLONG;
    return refuse();
  }
  file.fd_ = UniqueFd(mkostemp(temporary.data(), O_CLOEXEC));
  // A file that may be written in a directory that may not is written where it is.
  if (!file.fd_ && there && (errno == EACCES || errno == EROFS)) {
    file.fd_ = UniqueFd(::open(file.path_.c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC));
    if (!file.fd_) return refuse();
    return file;
  }
  if (!file.fd_) return refuse();
  file.temporary_ = temporary;
  std::strcpy(g_unfinished, temporary.c_str());
  for (const int signal : kSignals) {
    // One that is ignored, as by nohup(1), stays so.
    if (std::signal(signal, remove_unfinished) == SIG_IGN) std::signal(signal, SIG_IGN);
  }
  const mode_t mask = umask(0);
  umask(mask);
  const mode_t mode = there ? status.st_mode & 07777 : 0644 & ~mask;
  if (fchmod(file.fd_.get(), mode) != 0) return refuse();
  return file;
}

TargetFile::~TargetFile() {
  if (!fd_ || temporary_.empty()) return;
  unlink(temporary_.c_str());
  g_unfinished[0] = '\0';
}

std::string TargetFile::write(std::string_view bytes) { return write_whole(fd_.get(), bytes); }

std::string TargetFile::finish() {
  if (temporary_.empty()) return "";
  if (rename(temporary_.c_str(), path_.c_str()) != 0) {
    return with_errno("cannot put the file into its place");
  }
  g_unfinished[0] = '\0';
  temporary_.clear();
  return "";
}

}  // namespace virtproxy::agent
