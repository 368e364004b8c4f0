// The system calls and library functions that the endpoint code makes, redirected here by the
// linker (--wrap). Descriptors of simulated processes are numbers that real ones never reach; all
// others go to the real functions.
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdarg>
#include <cstring>
#include <optional>
#include <span>

#include "tests/sim/canaries.h"
#include "tests/sim/device.h"
#include "tests/sim/pipe.h"
#include "tests/sim/process.h"
#include "tests/sim/socket.h"

using virtproxy::Duration;
using virtproxy::sim::Canary;
using virtproxy::sim::Device;
using virtproxy::sim::Family;
using virtproxy::sim::File;
using virtproxy::sim::FileRef;
using virtproxy::sim::injected_driver_error;
using virtproxy::sim::injected_error;
using virtproxy::sim::misdirect;
using virtproxy::sim::Mishap;
using virtproxy::sim::Path;
using virtproxy::sim::Pipe;
using virtproxy::sim::PipeEnd;
using virtproxy::sim::Process;
using virtproxy::sim::Socket;
using virtproxy::sim::StandardError;
using virtproxy::sim::World;

namespace {

constexpr char kSimulatedPaths[] = "/sim/";
constexpr Duration kWallClockBegins = std::chrono::seconds(1'700'000'000);

int failed(int error) {
  errno = error;
  return -1;
}

// unix sockets by path or @name, TCP ones by port: every address is this machine's.
std::string name_of(const sockaddr* address, socklen_t size) {
  if (address->sa_family == AF_UNIX) {
    const auto* un = reinterpret_cast<const sockaddr_un*>(address);
    const size_t length = size - offsetof(sockaddr_un, sun_path);
    if (length > 0 && un->sun_path[0] == '\0') {
      return "@" + std::string(un->sun_path + 1, length - 1);
    }
    return std::string(un->sun_path, strnlen(un->sun_path, length));
  }
  return "tcp:" + std::to_string(ntohs(reinterpret_cast<const sockaddr_in*>(address)->sin_port));
}

std::shared_ptr<Socket> socket_of(int fd) {
  Process* process = Process::owner_of(fd);
  return process == nullptr ? nullptr : std::dynamic_pointer_cast<Socket>(process->get(fd));
}

int64_t write_vectors(File& file, std::span<const iovec> vectors) {
  if (!vectors.empty()) misdirect(file, vectors.front());
  int64_t written = 0;
  for (const iovec& vector : vectors) {
    const int64_t result =
        file.write({static_cast<const std::byte*>(vector.iov_base), vector.iov_len});
    if (result < 0) return written > 0 ? written : result;
    written += result;
    if (static_cast<size_t>(result) < vector.iov_len) break;
  }
  return written;
}

// Of a call by which the epoll driver tries an operation; the ring has errors of its own. A receive
// that finds bytes never fails with EAGAIN.
std::optional<int> attempt_error(int fd, File& file, bool receives) {
  if (!Process::owner_of(fd)->uses_epoll()) return std::nullopt;
  const auto error = injected_driver_error(file, receives);
  return error == -EAGAIN ? -EINTR : error;
}

// A daemon writes nothing but its log to a real descriptor: it goes into the trace, without the
// real time at its beginning.
ssize_t log_line(const void* from, size_t size) {
  World& world = World::current();
  const auto number = static_cast<int>(Process::current()->number());
  world.trace("log", number);
  if (world.printing()) {
    std::string_view line(static_cast<const char*>(from), size);
    line.remove_suffix(line.ends_with('\n') ? 1 : 0);
    const size_t stamp = line.find("Z ");
    if (stamp != std::string_view::npos) line.remove_prefix(stamp + 2);
    world.print("  " + std::to_string(number) + ": " + std::string(line));
  }
  return static_cast<ssize_t>(size);
}

// Of Canary::kForgetLink: whether the process never gets a link again.
bool forgets_link(Process& process) {
  if (World::current().canary_strikes(Canary::kForgetLink, 0.3)) process.forgets_links = true;
  return process.forgets_links;
}

bool simulated(const char* path) { return std::strncmp(path, kSimulatedPaths, 5) == 0; }

}  // namespace

extern "C" {

int __real_close(int fd);
int __real_fcntl(int fd, int command, ...);
int __real_open(const char* path, int flags, ...);
ssize_t __real_write(int fd, const void* from, size_t size);
ssize_t __real_writev(int fd, const iovec* vectors, int count);
ssize_t __real_read(int fd, void* to, size_t size);
int __real_fstat(int fd, struct stat* status);
int __real_lstat(const char* path, struct stat* status);
int __real_isatty(int fd);
int __real_poll(pollfd* polls, nfds_t count, int timeout);
ssize_t __real_send(int fd, const void* from, size_t size, int flags);
int __real_clock_gettime(clockid_t clock, timespec* time);
[[noreturn]] void __real_abort();

int __wrap_socket(int domain, int, int) {
  Process* process = Process::current();
  World& world = World::current();
  if (process->dead()) return failed(EMFILE);
  if (world.happens(Mishap::kSocketFails)) {
    world.refuse({});
    return failed(EMFILE);
  }
  return process->add(std::make_shared<Socket>(domain == AF_UNIX ? Family::kUnix : Family::kTcp));
}

int __wrap_bind(int fd, const sockaddr* address, socklen_t size) {
  const auto socket = socket_of(fd);
  if (!socket) return failed(EBADF);
  auto& network = Process::owner_of(fd)->network();
  const std::string name = name_of(address, size);
  const bool taken =
      socket->family() == Family::kUnix ? network.inode(name) != 0 : network.find(name) != nullptr;
  if (taken || World::current().happens(Mishap::kAddressInUse)) return failed(EADDRINUSE);
  socket->carries_channel = network.path(name).channel;
  network.bind(name, socket);
  return 0;
}

int __wrap_listen(int fd, int backlog) {
  const auto socket = socket_of(fd);
  if (!socket) return failed(EBADF);
  socket->listen(static_cast<size_t>(backlog));
  return 0;
}

int __wrap_connect(int fd, const sockaddr* address, socklen_t size) {
  const auto socket = socket_of(fd);
  if (!socket) return failed(EBADF);
  auto& network = Process::owner_of(fd)->network();
  World& world = World::current();
  const std::string name = name_of(address, size);
  const auto listener = network.find(name);
  const bool unix_socket = socket->family() == Family::kUnix;
  const Path path = network.path(name);
  const bool absent = world.happens(Mishap::kServiceAbsent) ||
                      (path.channel != 0 && forgets_link(*Process::owner_of(fd)));
  if (absent || !listener || !listener->listening()) {
    world.refuse(name);
    if (unix_socket) {
      return failed(absent || network.inode(name) != 0 ? ECONNREFUSED : ENOENT);
    }
    socket->begin_connecting();
    world.after(path.latency, [weak = std::weak_ptr(socket)] {
      if (const auto held = weak.lock()) held->refuse(ECONNREFUSED);
    });
    return failed(EINPROGRESS);
  }
  if (unix_socket) {
    if (listener->backlog_full() || world.happens(Mishap::kBacklogFull)) {
      world.refuse(name);
      return failed(EAGAIN);
    }
    socket->connect_to(listener, path);
    return 0;
  }
  socket->begin_connecting();
  if (world.happens(Mishap::kServiceSilent)) {
    world.refuse(name);
    return failed(EINPROGRESS);
  }
  world.after(2 * path.latency, [weak = std::weak_ptr(socket), to = std::weak_ptr(listener), path] {
    const auto held = weak.lock();
    if (!held) return;
    if (const auto there = to.lock()) return held->connect_to(there, path);
    held->refuse(ECONNREFUSED);
  });
  return failed(EINPROGRESS);
}

int __wrap_accept4(int fd, sockaddr*, socklen_t*, int) {
  const auto listener = socket_of(fd);
  if (!listener) return failed(EBADF);
  World& world = World::current();
  if ((listener->poll() & POLLIN) == 0) {
    if (!listener->nonblocking) world.fail("blocking", "accept4() with nobody to accept");
    return failed(EAGAIN);
  }
  if (world.happens(Mishap::kAcceptFails)) {
    listener->note_failed_accept();
    static constexpr std::array kErrors{EMFILE, ENFILE, ENOMEM, ECONNABORTED, EINTR};
    return failed(listener->nonblocking ? kErrors[world.random().below(kErrors.size())] : EMFILE);
  }
  const int taken = Process::owner_of(fd)->add(listener->accept());
  world.trace("accept4", fd, taken);
  return taken;
}

// Spare descriptors, the size of a pipe, and whether a listener blocks.
int __wrap_fcntl(int fd, int command, ...) {
  va_list arguments;
  va_start(arguments, command);
  const int argument = va_arg(arguments, int);
  va_end(arguments);
  Process* process = Process::current();
  if (Process::owner_of(fd) != nullptr && command == F_SETPIPE_SZ) {
    auto* end = dynamic_cast<PipeEnd*>(process->get(fd).get());
    if (end == nullptr) return failed(EBADF);
    if (World::current().happens(Mishap::kPipeSmall)) return failed(EPERM);
    end->pipe().set_slots(static_cast<size_t>(argument) / 4096);
    return argument;
  }
  if (Process::owner_of(fd) != nullptr && (command == F_GETFL || command == F_SETFL)) {
    const FileRef file = process->get(fd);
    if (!file) return failed(EBADF);
    if (command == F_GETFL) return O_RDWR | (file->nonblocking ? O_NONBLOCK : 0);
    // A listener that blocks is what the oracle is about; one that does not would only spin.
    if (World::current().canary() == Canary::kEarlyPoll) return 0;
    file->nonblocking = (argument & O_NONBLOCK) != 0;
    return 0;
  }
  if (process == nullptr || fd != STDERR_FILENO || command != F_DUPFD_CLOEXEC) {
    return __real_fcntl(fd, command, argument);
  }
  return process->dead() ? failed(EMFILE) : process->add(std::make_shared<StandardError>());
}

int __wrap_pipe2(int* ends, int flags) {
  Process* process = Process::current();
  World& world = World::current();
  if ((flags & O_NONBLOCK) == 0) world.fail("blocking", "a pipe that blocks");
  if (process->dead() || world.happens(Mishap::kPipeFails)) return failed(EMFILE);
  const auto pipe = std::make_shared<Pipe>();
  for (const size_t i : {0, 1}) ends[i] = process->add(std::make_shared<PipeEnd>(pipe));
  return 0;
}

ssize_t __wrap_splice(int from, loff_t*, int to, loff_t*, size_t size, unsigned flags) {
  Process* process = Process::current();
  if ((flags & SPLICE_F_NONBLOCK) == 0) World::current().fail("blocking", "splice() that blocks");
  const FileRef source = process->get(from);
  const FileRef target = process->get(to);
  const int64_t moved =
      source && target ? virtproxy::sim::splice(*source, *target, size) : int64_t{-EBADF};
  World::current().trace("splice", from, to, size, moved);
  return moved >= 0 ? moved : failed(static_cast<int>(-moved));
}

int __wrap_dup3(int, int to, int) {
  Process* process = Process::owner_of(to);
  World::current().trace("dup3", to);
  return process->replace(to, std::make_shared<StandardError>()) ? to : failed(EBADF);
}

int __wrap_close(int fd) {
  Process* process = Process::owner_of(fd);
  if (process == nullptr) return __real_close(fd);
  World::current().trace("close", fd);
  return process->close(fd) ? 0 : failed(EBADF);
}

int __wrap_shutdown(int fd, int how) {
  const auto socket = socket_of(fd);
  if (!socket) return failed(EBADF);
  const int error = socket->shutdown(how != SHUT_WR, how != SHUT_RD);
  return error == 0 ? 0 : failed(error);
}

int __wrap_getsockname(int fd, sockaddr* address, socklen_t* size) {
  const auto socket = socket_of(fd);
  if (!socket) return failed(EBADF);
  const auto family =
      static_cast<sa_family_t>(socket->family() == Family::kUnix ? AF_UNIX : AF_INET);
  std::memset(address, 0, *size);
  address->sa_family = family;
  *size = family == AF_UNIX ? sizeof(sa_family_t) : sizeof(sockaddr_in);
  return 0;
}

int __wrap_getpeername(int fd, sockaddr* address, socklen_t* size) {
  const auto socket = socket_of(fd);
  if (!socket) return failed(EBADF);
  return socket->connected() ? __wrap_getsockname(fd, address, size) : failed(ENOTCONN);
}

int __wrap_getsockopt(int fd, int level, int option, void* value, socklen_t* size) {
  const auto socket = socket_of(fd);
  if (!socket) return failed(EBADF);
  if (level != SOL_SOCKET) return failed(ENOPROTOOPT);
  if (option == SO_ERROR) {
    const int error = socket->take_error();
    World::current().trace("error of", fd, error);
    std::memcpy(value, &error, sizeof error);
    return 0;
  }
  if (option == SO_DOMAIN) {
    const int domain = socket->family() == Family::kUnix ? AF_UNIX : AF_INET;
    std::memcpy(value, &domain, sizeof domain);
    return 0;
  }
  if (option == SO_PEERCRED && *size >= sizeof(ucred)) {
    const ucred nobody{1, 1000, 1000};
    std::memcpy(value, &nobody, sizeof nobody);
    return 0;
  }
  return failed(ENOPROTOOPT);
}

int __wrap_setsockopt(int fd, int level, int option, const void* value, socklen_t size) {
  const auto socket = socket_of(fd);
  if (!socket) return failed(EBADF);
  if (level == SOL_SOCKET && option == SO_LINGER && size == sizeof(linger)) {
    const bool on = static_cast<const linger*>(value)->l_onoff != 0;
    if (on && World::current().canary_strikes(Canary::kEndWhenKilled, 1)) return 0;
    socket->set_linger(on);
  }
  return 0;
}

ssize_t __wrap_recv(int fd, void* to, size_t size, int) {
  const auto socket = socket_of(fd);
  if (!socket) return failed(EBADF);
  const auto error = attempt_error(fd, *socket, true);
  int64_t got = error ? *error : socket->read({static_cast<std::byte*>(to), size});
  if (got == -EAGAIN && !socket->carries_channel && socket->shut_for_writing() &&
      World::current().canary_strikes(Canary::kPartAtOnce, 0.5)) {
    got = 0;
  }
  // The bytes are taken, and the driver never hears of them.
  if (got > 0 && !socket->carries_channel && Process::owner_of(fd)->uses_epoll() &&
      World::current().canary_strikes(Canary::kLoseCompletion, 0.001)) {
    got = -EAGAIN;
  }
  World::current().trace("recv", fd, got);
  return got >= 0 ? got : failed(static_cast<int>(-got));
}

ssize_t __wrap_read(int fd, void* to, size_t size) {
  Process* process = Process::owner_of(fd);
  if (process == nullptr) return __real_read(fd, to, size);
  const FileRef file = process->get(fd);
  if (!file) return failed(EBADF);
  const auto error = attempt_error(fd, *file, true);
  const int64_t got = error ? *error : file->read({static_cast<std::byte*>(to), size});
  return got >= 0 ? got : failed(static_cast<int>(-got));
}

ssize_t __wrap_write(int fd, const void* from, size_t size) {
  Process* process = Process::owner_of(fd);
  if (process == nullptr && Process::current() != nullptr) return log_line(from, size);
  if (process == nullptr) return __real_write(fd, from, size);
  const FileRef file = process->get(fd);
  if (!file) return failed(EBADF);
  misdirect(*file, {const_cast<void*>(from), size});
  const auto error = attempt_error(fd, *file, false);
  const int64_t written = error ? *error : file->write({static_cast<const std::byte*>(from), size});
  return written >= 0 ? written : failed(static_cast<int>(-written));
}

ssize_t __wrap_sendmsg(int fd, const msghdr* message, int flags) {
  const auto socket = socket_of(fd);
  if (!socket) return failed(EBADF);
  if ((flags & MSG_DONTWAIT) == 0) World::current().fail("blocking", "sendmsg() that blocks");
  const bool by_driver = Process::owner_of(fd)->uses_epoll();
  const auto error =
      by_driver ? injected_driver_error(*socket, false) : injected_error(*socket, false);
  const int64_t sent =
      error ? *error : write_vectors(*socket, {message->msg_iov, message->msg_iovlen});
  World::current().trace("sendmsg", fd, sent);
  return sent >= 0 ? sent : failed(static_cast<int>(-sent));
}

// A descriptor that is not simulated is the log's, where standard error is a socket.
ssize_t __wrap_send(int fd, const void* from, size_t size, int flags) {
  if (Process::owner_of(fd) != nullptr) {
    iovec bytes{const_cast<void*>(from), size};
    msghdr message{};
    message.msg_iov = &bytes;
    message.msg_iovlen = 1;
    return __wrap_sendmsg(fd, &message, flags);
  }
  if (Process::current() != nullptr) return log_line(from, size);
  return __real_send(fd, from, size, flags);
}

ssize_t __wrap_writev(int fd, const iovec* vectors, int count) {
  Process* process = Process::owner_of(fd);
  if (process == nullptr) return __real_writev(fd, vectors, count);
  const FileRef file = process->get(fd);
  if (!file) return failed(EBADF);
  const int64_t written = write_vectors(*file, {vectors, static_cast<size_t>(count)});
  return written >= 0 ? written : failed(static_cast<int>(-written));
}

int __wrap_poll(pollfd* polls, nfds_t count, int timeout) {
  if (count == 0 && Process::current() != nullptr) {
    World::current().skip(std::chrono::milliseconds(timeout));
    return 0;
  }
  if (count == 0 || Process::owner_of(polls->fd) == nullptr) {
    return __real_poll(polls, count, timeout);
  }
  int ready = 0;
  for (nfds_t i = 0; i < count; ++i) {
    const FileRef file = Process::owner_of(polls[i].fd)->get(polls[i].fd);
    if (file && file->carries_channel && World::current().canary() == Canary::kKeepSilent) return 1;
    const bool device = file && file->carries_channel && !std::dynamic_pointer_cast<Socket>(file);
    if (device && polls[i].events == POLLIN && World::current().canary() == Canary::kNeverRecheck) {
      return 0;
    }
    const auto wanted = static_cast<uint32_t>(polls[i].events) | POLLERR | POLLHUP;
    polls[i].revents = static_cast<short>(file ? file->poll() & wanted : uint32_t{POLLNVAL});
    ready += polls[i].revents != 0 ? 1 : 0;
  }
  return ready;
}

int __wrap_open(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  if (!simulated(path)) return __real_open(path, flags, mode);
  Process* process = Process::current();
  Device* device = process->network().device(path);
  if (device == nullptr || process->dead() || forgets_link(*process)) return failed(ENOENT);
  int error = 0;
  FileRef file = device->open(error);
  return file ? process->add(std::move(file)) : failed(error);
}

int __wrap_fstat(int fd, struct stat* status) {
  if (Process::owner_of(fd) == nullptr) return __real_fstat(fd, status);
  std::memset(status, 0, sizeof *status);
  status->st_mode = S_IFCHR;
  return 0;
}

int __wrap_lstat(const char* path, struct stat* status) {
  if (!simulated(path)) return __real_lstat(path, status);
  const uint64_t inode = Process::current()->network().inode(path);
  if (inode == 0) return failed(ENOENT);
  std::memset(status, 0, sizeof *status);
  status->st_mode = S_IFSOCK;
  status->st_ino = inode;
  return 0;
}

int __wrap_unlink(const char* path) {
  Process* process = Process::current();
  if (process->dead()) return failed(ENOENT);
  return process->network().unlink(path) ? 0 : failed(ENOENT);
}

int __wrap_isatty(int fd) {
  Process* process = Process::owner_of(fd);
  if (process == nullptr) return __real_isatty(fd);
  return Device::of(process->get(fd))->kind() == Device::Kind::kTty ? 1 : 0;
}

int __wrap_tcgetattr(int, termios* settings) {
  std::memset(settings, 0, sizeof *settings);
  return 0;
}

int __wrap_tcsetattr(int, int, const termios*) { return 0; }

int __wrap_tcflush(int fd, int queue) {
  if (queue != TCIFLUSH) return failed(EINVAL);
  Device::of(Process::owner_of(fd)->get(fd))->flush_input();
  return 0;
}

// A device is opened by one process at a time here, so nobody else has the lock.
int __wrap_flock(int, int) { return 0; }

int __wrap_ioctl(int fd, unsigned long request, ...) {
  if (request != FIONREAD && request != SIOCOUTQ) return 0;
  va_list arguments;
  va_start(arguments, request);
  int* const bytes = va_arg(arguments, int*);
  va_end(arguments);
  const auto socket = socket_of(fd);
  if (!socket) return failed(EBADF);
  *bytes = static_cast<int>(request == FIONREAD ? socket->unread() : socket->under_way());
  return 0;
}

int __wrap_nanosleep(const timespec* time, timespec*) {
  World::current().skip(std::chrono::seconds(time->tv_sec) +
                        std::chrono::nanoseconds(time->tv_nsec));
  return 0;
}

// The daemons' clock, and the real one for the simulator itself.
int __wrap_clock_gettime(clockid_t clock, timespec* time) {
  const int result = __real_clock_gettime(clock, time);
  const World* world = World::current_or_null();
  Process* process = Process::current();
  const bool wall = clock == CLOCK_REALTIME && process != nullptr;
  if (world == nullptr || (clock != CLOCK_MONOTONIC && !wall)) return result;
  const long real = time->tv_nsec;
  if (wall) {
    const Duration now = kWallClockBegins + world->now() + world->wall_shift();
    const auto whole = std::chrono::duration_cast<std::chrono::seconds>(now);
    *time = {whole.count(), (now - whole).count()};
    return 0;
  }
  Duration now = process != nullptr ? process->read_clock() : world->now();
  if (world->canary() == Canary::kReadClock) now += std::chrono::nanoseconds(real % 1000);
  const auto whole = std::chrono::duration_cast<std::chrono::seconds>(now);
  time->tv_sec = whole.count();
  time->tv_nsec = (now - whole).count();
  return result;
}

// assertion_failed() has written which one.
void __wrap_abort() {
  if (World* world = World::current_or_null()) world->fail("assertion", "see above");
  __real_abort();
}

}  // extern "C"
