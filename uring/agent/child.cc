#include "uring/agent/child.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <mntent.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <set>
#include <utility>

#include "uring/agent/files.h"
#include "uring/base/close_from.h"
#include "uring/base/read_append.h"
#include "uring/transport/device_check.h"

namespace virtproxy::agent {
namespace {

void default_signals() {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  signal(SIGPIPE, SIG_DFL);
}

// All but the standard ones and those kept, which are moved to 3 and on.
void keep_only(std::vector<int*> kept) {
  int lowest = 3;
  for (int* fd : kept) {
    if (*fd == lowest) {
      ++lowest;
      continue;
    }
    // Above all others first: the number wanted may be that of another one to keep.
    const int high = fcntl(*fd, F_DUPFD, 1000);
    if (high >= 0) *fd = high;
  }
  for (int* fd : kept) {
    if (*fd < 1000) continue;
    if (dup2(*fd, lowest) == lowest) *fd = lowest++;
  }
  close_from(lowest);
}

void write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t size = write(fd, text.data(), text.size());
    if (size < 0 && errno == EINTR) continue;
    if (size <= 0) return;
    text.remove_prefix(static_cast<size_t>(size));
  }
}

std::string encode(const Result& result) {
  return result ? encode_return(*result, std::nullopt) : encode_error(result.error(), std::nullopt);
}

// Killed, and not reaped yet: one that waits for a disk or a server ends later.
std::vector<pid_t> killed;

struct Pipe {
  UniqueFd read;
  UniqueFd write;
};

std::optional<Pipe> make_pipe() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return std::nullopt;
  return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

// A directory of each file system that a device holds, the last mounted first, as they must be
// frozen.
std::vector<int> open_mounts() {
  std::vector<int> all;
  std::set<std::string> devices;
  FILE* const table = setmntent("/proc/self/mounts", "r");
  if (table == nullptr) return all;
  while (const mntent* entry = getmntent(table)) {
    if (entry->mnt_fsname[0] != '/' || !devices.insert(entry->mnt_fsname).second) continue;
    const int fd = open(entry->mnt_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) all.push_back(fd);
  }
  endmntent(table);
  std::reverse(all.begin(), all.end());
  return all;
}

[[noreturn]] void hold_frozen(int answer, int hold, Duration longest) {
  const auto let_go_within = [hold](int milliseconds) {
    pollfd wait{hold, POLLIN, 0};
    return poll(&wait, 1, milliseconds) != 0;
  };
  // Nothing that this process does from here on may touch a file.
  const std::vector<int> mounts = open_mounts();
  std::vector<int> frozen;
  int failed = 0;
  for (const int fd : mounts) {
    // FIFREEZE may have waited for a disk for longer than its caller did.
    if (let_go_within(0)) {
      failed = ECANCELED;
      break;
    }
    if (ioctl(fd, FIFREEZE, 0) == 0) {
      frozen.push_back(fd);
    } else if (errno != EOPNOTSUPP && errno != EBUSY) {
      failed = errno;
      break;
    }
  }
  const auto thaw = [&] {
    for (auto fd = frozen.rbegin(); fd != frozen.rend(); ++fd) ioctl(*fd, FITHAW, 0);
  };
  if (failed != 0) {
    thaw();
    // The agent sees that nothing is frozen any more when it reads the answer.
    close(hold);
    write_all(answer, encode(tl::unexpected(errno_error("cannot freeze", failed))));
    _exit(0);
  }
  write_all(answer, encode(Json(frozen.size())));
  close(answer);
  let_go_within(static_cast<int>(longest.count() / 1000000));
  thaw();
  _exit(0);
}

}  // namespace

tl::expected<Child, Error> Child::run(const std::function<Result()>& work) {
  auto pipe = make_pipe();
  const pid_t pid = pipe ? fork() : -1;
  if (pid < 0) return tl::unexpected(errno_error("cannot start a process", errno));
  if (pid == 0) {
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    default_signals();
    int fd = pipe->write.get();
    keep_only({&fd});
    write_all(fd, encode(work()));
    _exit(0);
  }
  setpgid(pid, pid);
  fcntl(pipe->read.get(), F_SETFL, O_NONBLOCK);
  return Child(pid, std::move(pipe->read));
}

tl::expected<Child, Error> Child::execute(const std::string& program,
                                          const std::vector<std::string>& arguments) {
  auto pipe = make_pipe();
  std::vector<char*> list{const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) list.push_back(const_cast<char*>(argument.c_str()));
  list.push_back(nullptr);
  const pid_t pid = pipe ? fork() : -1;
  if (pid < 0) return tl::unexpected(errno_error("cannot start a process", errno));
  if (pid == 0) {
    setpgid(0, 0);
    default_signals();
    const int null = open("/dev/null", O_RDONLY);
    dup2(null, STDIN_FILENO);
    dup2(pipe->write.get(), STDOUT_FILENO);
    dup2(pipe->write.get(), STDERR_FILENO);
    close_from(3);
    char path[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    char* environment[] = {path, nullptr};
    execve(program.c_str(), list.data(), environment);
    _exit(127);
  }
  setpgid(pid, pid);
  fcntl(pipe->read.get(), F_SETFL, O_NONBLOCK);
  return Child(pid, std::move(pipe->read));
}

std::optional<std::string> program_fault(const std::string& path) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) return path + ": " + std::strerror(errno);
  if (!S_ISREG(status.st_mode)) {
    return path + " is no program but " + std::string(name_of_type(status.st_mode));
  }
  if (faccessat(AT_FDCWD, path.c_str(), X_OK, AT_EACCESS) != 0) {
    return path + " is no program that the agent may run: " + std::strerror(errno);
  }
  return std::nullopt;
}

Child::Child(Child&& other) noexcept
    : text(std::move(other.text)),
      truncated(other.truncated),
      most(other.most),
      pid_(std::exchange(other.pid_, -1)),
      output_(std::move(other.output_)) {}

Child& Child::operator=(Child&& other) noexcept {
  std::swap(text, other.text);
  std::swap(truncated, other.truncated);
  std::swap(most, other.most);
  std::swap(pid_, other.pid_);
  std::swap(output_, other.output_);
  return *this;
}

Child::~Child() {
  if (pid_ < 0 || try_wait()) return;
  kill();
  if (!try_wait()) killed.push_back(pid_);
}

bool Child::read_some() {
  // A child that writes as fast as it is read would hold the loop if this went on until the pipe is
  // empty. poll(2) reports what is left in the next turn, after the other connections.
  const ssize_t size = read_append(output_.get(), text);
  if (size < 0) return errno == EAGAIN || errno == EINTR;
  if (size == 0) return false;
  truncated = truncated || text.size() > most;
  text.resize(std::min(most, text.size()));
  return true;
}

Result Child::result() const {
  ParsedJson parsed = parse_json(text, {kMaxDepth, 16 * kMaxValues});
  if (parsed.fault != JsonFault::kNone || !parsed.value.is_object()) {
    return tl::unexpected(io_error("ECHILD", "the process of the method ended without an answer"));
  }
  if (parsed.value.contains("return")) return std::move(parsed.value["return"]);
  return tl::unexpected(parse_message(text).error);
}

void Child::kill() {
  if (pid_ > 0) ::kill(-pid_, SIGKILL);
}

std::optional<int> Child::try_wait() {
  siginfo_t info{};
  if (waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) != 0 ||
      info.si_pid != pid_) {
    return std::nullopt;
  }
  // What it has left behind in its group. Its number is taken as long as it is not reaped.
  kill();
  int status = 0;
  waitpid(std::exchange(pid_, -1), &status, 0);
  return status;
}

void reap_killed() {
  std::erase_if(killed, [](pid_t pid) { return waitpid(pid, nullptr, WNOHANG) != 0; });
}

tl::expected<Child, Error> Freezer::freeze(Duration longest) {
  auto answer = make_pipe();
  int ends[2] = {-1, -1};
  const bool connected = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0;
  UniqueFd ours(ends[0]);
  UniqueFd theirs(ends[1]);
  const pid_t first = answer && connected ? fork() : -1;
  if (first < 0) return tl::unexpected(errno_error("cannot start a process", errno));
  if (first == 0) {
    // The process that freezes is nobody's child and not of this group, so that nothing kills it:
    // frozen file systems must be thawed.
    setpgid(0, 0);
    int out = answer->write.get();
    int in = theirs.get();
    keep_only({&out, &in});
    if (fork() != 0) _exit(0);
    setsid();
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    hold_frozen(out, in, longest);
  }
  setpgid(first, first);
  hold_ = std::move(ours);
  fcntl(answer->read.get(), F_SETFL, O_NONBLOCK);
  Child child = Child::adopt(first, std::move(answer->read));
  return child;
}

void Freezer::let_go() {
  // Unlike a close, this does not depend on whether a process that was just forked still has a
  // copy.
  if (hold_) shutdown(hold_.get(), SHUT_WR);
}

bool Freezer::holds() const {
  pollfd end{hold_.get(), 0, 0};
  return hold_ && (poll(&end, 1, 0) <= 0 || (end.revents & POLLHUP) == 0);
}

}  // namespace virtproxy::agent
