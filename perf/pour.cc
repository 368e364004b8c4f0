// Pours bytes into something, or counts what comes out of it, like dd with a clock: for comparing a
// channel with the bare device below it.
//
//     pour write END --size BYTES              writes of this size, until it is ended
//     pour read END --warm-up S --seconds S    counts for so long, from S after the first byte
//
// END: open:/dev/port, connect:/socket or listen:/socket. `read` prints {"bytes":N,"seconds":S}.

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kReadSize = 256 * 1024;

[[noreturn]] void die(const char* what) {
  std::perror(what);
  std::exit(1);
}

[[noreturn]] void usage() {
  std::fprintf(stderr,
               "usage: pour write END --size BYTES | pour read END --warm-up S --seconds S\n"
               "END: open:/dev/port, connect:/socket or listen:/socket\n");
  std::exit(2);
}

sockaddr_un unix_address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) usage();
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

int open_end(const std::string& text) {
  const size_t colon = text.find(':');
  if (colon == std::string::npos) usage();
  const std::string kind = text.substr(0, colon);
  const std::string path = text.substr(colon + 1);
  if (kind == "open") {
    const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOCTTY);
    if (fd < 0) die(path.c_str());
    return fd;
  }
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) die("socket");
  const sockaddr_un address = unix_address(path);
  const auto* at = reinterpret_cast<const sockaddr*>(&address);
  if (kind == "connect") {
    if (connect(fd, at, sizeof address) != 0) die("connect");
    return fd;
  }
  if (kind != "listen") usage();
  unlink(path.c_str());
  if (bind(fd, at, sizeof address) != 0 || listen(fd, 1) != 0) die("listen");
  const int accepted = accept4(fd, nullptr, nullptr, SOCK_CLOEXEC);
  if (accepted < 0) die("accept");
  close(fd);
  return accepted;
}

// Lines of text, so that what arrives can be looked at.
std::vector<char> lines(size_t size) {
  std::vector<char> text(size);
  for (size_t i = 0; i < size; ++i) text[i] = static_cast<char>('a' + i % 26);
  text.back() = '\n';
  return text;
}

void write_for_ever(int fd, size_t size) {
  const std::vector<char> piece = lines(size);
  for (;;) {
    for (size_t done = 0; done < size;) {
      const ssize_t put = write(fd, piece.data() + done, size - done);
      if (put < 0 && errno != EINTR) die("write");
      if (put > 0) done += static_cast<size_t>(put);
    }
  }
}

void count(int fd, double warm_up, double seconds) {
  std::vector<char> buffer(kReadSize);
  unsigned long long bytes = 0;
  bool begun = false;
  Clock::time_point first{};
  Clock::time_point from{};
  const std::chrono::duration<double> before(warm_up);
  const std::chrono::duration<double> during(seconds);
  for (;;) {
    const ssize_t got = read(fd, buffer.data(), buffer.size());
    const Clock::time_point now = Clock::now();
    if (got < 0 && errno != EINTR) die("read");
    if (got == 0) {
      // A port whose other end is not open reads as ended.
      if (begun) break;
      pollfd waits{fd, POLLIN, 0};
      poll(&waits, 1, 10);
      continue;
    }
    if (first == Clock::time_point{}) first = now;
    if (begun) {
      bytes += static_cast<size_t>(got);
      if (now - from >= during) break;
    } else if (now - first >= before) {
      begun = true;
      from = now;
    }
  }
  const std::chrono::duration<double> took = Clock::now() - from;
  std::printf("{\"bytes\":%llu,\"seconds\":%.6f}\n", bytes, took.count());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5 || argc % 2 == 0) usage();
  signal(SIGPIPE, SIG_IGN);
  size_t size = 0;
  double warm_up = 0;
  double seconds = 0;
  for (int i = 3; i < argc; i += 2) {
    const std::string_view name = argv[i];
    const double value = std::atof(argv[i + 1]);
    if (name == "--size") {
      size = static_cast<size_t>(value);
    } else if (name == "--warm-up") {
      warm_up = value;
    } else if (name == "--seconds") {
      seconds = value;
    } else {
      usage();
    }
  }
  const std::string_view role = argv[1];
  if (role == "write" && size > 0) write_for_ever(open_end(argv[2]), size);
  if (role != "read" || seconds <= 0) usage();
  count(open_end(argv[2]), warm_up, seconds);
  return 0;
}
