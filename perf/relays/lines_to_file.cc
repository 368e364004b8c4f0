// The floor of log lines: one process that reads them from a socket and writes them to a file. No
// other end, no protocol, no numbers, no spool. What it costs, every way of lines costs.
//
//     relay-lines unix-dgram:/path|unix:/path FILE
//
// Datagrams come with what a log needs of them, the sender and the time. Of a stream, one
// connection at a time.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <vector>

#include "perf/relays/relay.h"

namespace virtproxy::relay {
namespace {

constexpr size_t kLines = 64;  // in one recvmmsg(2) and one writev(2)
constexpr size_t kLongest = 64 << 10;
constexpr size_t kRead = 256 << 10;

int socket_at(std::string_view path, int type) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) die("path");
  std::copy(path.begin(), path.end(), address.sun_path);
  const int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
  if (fd < 0 || bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    die("bind");
  }
  return fd;
}

// What is left after a short write is written in pieces.
void write_all(int file, iovec* parts, size_t count) {
  while (count > 0) {
    ssize_t done = writev(file, parts, static_cast<int>(count));
    if (done < 0) die("write");
    while (count > 0 && static_cast<size_t>(done) >= parts->iov_len) {
      done -= static_cast<ssize_t>(parts->iov_len);
      ++parts;
      --count;
    }
    if (count == 0) return;
    parts->iov_base = static_cast<char*>(parts->iov_base) + done;
    parts->iov_len -= static_cast<size_t>(done);
  }
}

[[noreturn]] void datagrams(std::string_view path, int file) {
  const int fd = socket_at(path, SOCK_DGRAM);
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
  setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
  std::vector<char> space(kLines * kLongest);
  std::vector<std::array<char, 128>> told(kLines);
  std::vector<iovec> slots(kLines);
  std::vector<mmsghdr> messages(kLines);
  std::vector<iovec> lines(2 * kLines);
  char end[] = "\n";
  for (size_t i = 0; i < kLines; ++i) slots[i] = {&space[i * kLongest], kLongest};
  for (;;) {
    for (size_t i = 0; i < kLines; ++i) {
      msghdr& header = messages[i].msg_hdr;
      header = {};
      header.msg_iov = &slots[i];
      header.msg_iovlen = 1;
      header.msg_control = told[i].data();
      header.msg_controllen = told[i].size();
    }
    const int got = recvmmsg(fd, messages.data(), kLines, MSG_WAITFORONE, nullptr);
    if (got < 0) die("recvmmsg");
    for (size_t i = 0; i < static_cast<size_t>(got); ++i) {
      lines[2 * i] = {slots[i].iov_base, messages[i].msg_len};
      lines[2 * i + 1] = {end, 1};
    }
    write_all(file, lines.data(), 2 * static_cast<size_t>(got));
  }
}

[[noreturn]] void stream(std::string_view path, int file) {
  const int listener = socket_at(path, SOCK_STREAM);
  if (listen(listener, 16) != 0) die("listen");
  std::vector<char> space(kRead);
  for (;;) {
    const int fd = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) die("accept");
    for (ssize_t got = 0; (got = read(fd, space.data(), space.size())) > 0;) {
      iovec part{space.data(), static_cast<size_t>(got)};
      write_all(file, &part, 1);
    }
    close(fd);
  }
}

}  // namespace
}  // namespace virtproxy::relay

int main(int argc, char** argv) {
  using namespace virtproxy::relay;
  constexpr std::string_view kDatagrams = "unix-dgram:";
  constexpr std::string_view kStream = "unix:";
  const std::string_view from = argc == 3 ? argv[1] : "";
  if (!from.starts_with(kDatagrams) && !from.starts_with(kStream)) {
    std::fprintf(stderr, "usage: %s unix-dgram:/path|unix:/path FILE\n", argv[0]);
    return 2;
  }
  const int file = open(argv[2], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (file < 0) die("open");
  if (from.starts_with(kDatagrams)) datagrams(from.substr(kDatagrams.size()), file);
  stream(from.substr(kStream.size()), file);
}
