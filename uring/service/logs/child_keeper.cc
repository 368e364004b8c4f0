#include "uring/service/logs/child_keeper.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>

#include "uring/base/clock.h"
#include "uring/base/close_from.h"
#include "uring/base/running_clock.h"
#include "uring/base/spawn.h"

namespace virtproxy {
namespace {

using NewsKind = ChildKeeper::News::Kind;

constexpr Duration kLeastPause = std::chrono::seconds(1);
constexpr Duration kMostPause = std::chrono::seconds(60);
// A run of that length ends the growth of the pause.
constexpr Duration kStableAfter = std::chrono::seconds(60);
// How long a program may take to end once its input has ended with the other process.
constexpr Duration kEndsAlone = std::chrono::seconds(10);
// Orders: a letter, and behind that of a run its text.
constexpr char kKill = 'k';
constexpr char kRun = 'r';
constexpr size_t kMostOrder = 4096;

struct Message {
  int32_t kind;
  int32_t value;
};

union Descriptors {
  cmsghdr header;
  char bytes[CMSG_SPACE(2 * sizeof(int))];
};

// --- in the process that runs the program -------------------------------------------------------

void tell(int control, NewsKind kind, int value, int input = -1, int output = -1) {
  Message message{static_cast<int32_t>(kind), value};
  iovec part{&message, sizeof message};
  Descriptors descriptors{};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  if (input >= 0) {
    header.msg_control = descriptors.bytes;
    header.msg_controllen = sizeof descriptors.bytes;
    cmsghdr* const of = CMSG_FIRSTHDR(&header);
    of->cmsg_level = SOL_SOCKET;
    of->cmsg_type = SCM_RIGHTS;
    of->cmsg_len = CMSG_LEN(2 * sizeof(int));
    const int fds[] = {input, output};
    std::memcpy(CMSG_DATA(of), fds, sizeof fds);
  }
  while (sendmsg(control, &header, MSG_NOSIGNAL) < 0 && errno == EINTR) {
  }
}

// False if the process at the other end is gone.
bool await_run(int control, std::string& text) {
  std::array<char, kMostOrder> order;
  for (;;) {
    const ssize_t got = recv(control, order.data(), order.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    if (order[0] != kRun) continue;  // of a program that has ended meanwhile
    text.assign(order.data() + 1, static_cast<size_t>(got) - 1);
    return true;
  }
}

// False if the process at the other end is gone.
bool stay(int control, Duration pause) {
  const Instant until = monotonic_now() + pause;
  for (;;) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(until - monotonic_now());
    pollfd news{control, POLLIN, 0};
    if (poll(&news, 1, static_cast<int>(std::max<int64_t>(0, left.count()))) == 0) return true;
    char command = 0;
    const ssize_t got = recv(control, &command, 1, MSG_DONTWAIT);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) return false;
  }
}

void take_signals(int signals) {
  signalfd_siginfo signal;
  while (read(signals, &signal, sizeof signal) > 0) {
  }
}

// A program, which may have left its group, and what it has started: a shell's commands would go on
// without it. It is not reaped yet, so that the number is its own.
void kill_all(pid_t program) {
  ::kill(program, SIGKILL);
  ::kill(-program, SIGKILL);
}

// Whether the program has ended. Nothing that it has started in its group is left then.
bool try_wait(pid_t program, int& status) {
  siginfo_t info{};
  if (waitid(P_PID, static_cast<id_t>(program), &info, WEXITED | WNOHANG | WNOWAIT) != 0 ||
      info.si_pid != program) {
    return false;
  }
  kill_all(program);
  return waitpid(program, &status, 0) == program;
}

// Until it has ended. False if the process at the other end is gone.
bool attend(int control, int signals, pid_t child, int& status) {
  for (;;) {
    std::array<pollfd, 2> news{pollfd{control, POLLIN, 0}, pollfd{signals, POLLIN, 0}};
    if (poll(news.data(), news.size(), -1) < 0 && errno != EINTR) return false;
    take_signals(signals);
    if (try_wait(child, status)) return true;
    char command = 0;
    const ssize_t got = recv(control, &command, 1, MSG_DONTWAIT);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) return false;
    if (got == 1 && command == kKill) kill_all(child);
  }
}

// The process at the other end is gone, and with it what the program reads.
void end(int signals, pid_t child) {
  RunningClock clock;
  const Instant ends = clock.now() + kEndsAlone;
  int status = 0;
  while (!try_wait(child, status)) {
    if (clock.now() >= ends) {
      kill_all(child);
      return;
    }
    const Instant until = clock.sleep_until(ends);
    const auto most = std::chrono::ceil<std::chrono::milliseconds>(until - monotonic_now());
    pollfd news{signals, POLLIN, 0};
    poll(&news, 1, static_cast<int>(std::max<int64_t>(0, most.count())));
    clock.woke(until);
    take_signals(signals);
  }
}

[[noreturn]] void keep(int control, const ChildKeeper::Command& command) {
  prctl(PR_SET_NAME, "virtproxy-exec");
  // The other process decides when this one ends.
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGPIPE}) {
    std::signal(signal, SIG_IGN);
  }
  std::signal(SIGCHLD, SIG_DFL);
  // Locks and sockets are the other process's alone.
  constexpr int kControl = 3;
  if (dup3(control, kControl, O_CLOEXEC) < 0 && errno != EINVAL) _exit(1);
  close_from(kControl + 1);
  sigset_t child_ends;
  sigemptyset(&child_ends);
  sigaddset(&child_ends, SIGCHLD);
  sigprocmask(SIG_SETMASK, &child_ends, nullptr);
  const int signals = signalfd(-1, &child_ends, SFD_CLOEXEC | SFD_NONBLOCK);
  Duration pause{};
  std::string text;
  while (await_run(kControl, text) && stay(kControl, pause)) {
    const Instant began = monotonic_now();
    int in[2];
    int out[2];
    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0) _exit(1);
    fcntl(in[1], F_SETFL, O_NONBLOCK);
    fcntl(out[0], F_SETFL, O_NONBLOCK);
    const std::vector<std::string> arguments = command(text);
    const pid_t child = arguments.empty() ? -EINVAL : spawn(arguments, {in[0], out[1]});
    if (child > 0) {
      tell(kControl, NewsKind::kStarted, child, in[1], out[0]);
    } else {
      tell(kControl, NewsKind::kCannotRun, -child);
    }
    for (const int fd : {in[0], in[1], out[0], out[1]}) close(fd);
    if (child > 0) {
      int status = 0;
      if (!attend(kControl, signals, child, status)) {
        end(signals, child);
        break;
      }
      tell(kControl, NewsKind::kEnded, status);
    }
    if (monotonic_now() - began >= kStableAfter) pause = {};
    pause = std::clamp(pause * 2, kLeastPause, kMostPause);
  }
  _exit(0);
}

}  // namespace

tl::expected<ChildKeeper, std::string> ChildKeeper::start(Command command) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    return tl::unexpected(std::string("cannot make a socket: ") + std::strerror(errno));
  }
  UniqueFd here(ends[0]);
  const UniqueFd there(ends[1]);
  const pid_t keeper = fork();
  if (keeper < 0) return tl::unexpected(std::string("cannot fork: ") + std::strerror(errno));
  if (keeper == 0) keep(there.get(), command);
  return ChildKeeper(std::move(here));
}

std::optional<ChildKeeper::News> ChildKeeper::receive() {
  Message message{};
  iovec part{&message, sizeof message};
  Descriptors descriptors{};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = descriptors.bytes;
  header.msg_controllen = sizeof descriptors.bytes;
  const ssize_t got = recvmsg(control_.get(), &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return std::nullopt;
  News news;
  if (got != sizeof message) return news;
  news.kind = static_cast<NewsKind>(message.kind);
  news.value = message.value;
  const cmsghdr* const of = CMSG_FIRSTHDR(&header);
  if (of != nullptr && of->cmsg_type == SCM_RIGHTS) {
    // One of them alone has come where no descriptor was free for the other.
    int fds[2] = {-1, -1};
    std::memcpy(fds, CMSG_DATA(of), std::min(sizeof fds, of->cmsg_len - CMSG_LEN(0)));
    news.input.reset(fds[0]);
    news.output.reset(fds[1]);
  }
  return news;
}

void ChildKeeper::run(std::string_view text) {
  std::string order(1, kRun);
  order += text.substr(0, kMostOrder - 1);
  (void)send(control_.get(), order.data(), order.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
}

void ChildKeeper::kill() { (void)send(control_.get(), &kKill, 1, MSG_DONTWAIT | MSG_NOSIGNAL); }

std::string ending_of(int status) {
  if (WIFSIGNALED(status)) return "was killed by signal " + std::to_string(WTERMSIG(status));
  return "ended with status " + std::to_string(WEXITSTATUS(status));
}

}  // namespace virtproxy
