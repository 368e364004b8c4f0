#include "perf/relays/relay.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "uring/base/units.h"

namespace virtproxy::relay {
namespace {

constexpr int kBacklog = 4096;

[[noreturn]] void usage(const char* wrong) {
  std::fprintf(stderr, "%s\nusage: LISTEN CONNECT [--buffer BYTES] [--sndbuf BYTES]\n", wrong);
  std::exit(2);
}

struct Socket {
  sockaddr_storage storage{};
  socklen_t size = 0;
  sockaddr* address() { return reinterpret_cast<sockaddr*>(&storage); }
};

Socket parse(const std::string& text) {
  Socket found;
  if (text.starts_with("unix:")) {
    auto& unix_address = reinterpret_cast<sockaddr_un&>(found.storage);
    const std::string path = text.substr(5);
    if (path.size() >= sizeof unix_address.sun_path) usage("the path is too long");
    unix_address.sun_family = AF_UNIX;
    std::memcpy(unix_address.sun_path, path.c_str(), path.size() + 1);
    found.size = sizeof unix_address;
    return found;
  }
  const size_t colon = text.rfind(':');
  if (!text.starts_with("tcp:") || colon <= 4) usage("an address is unix:/path or tcp:IPv4:port");
  auto& inet = reinterpret_cast<sockaddr_in&>(found.storage);
  inet.sin_family = AF_INET;
  const auto port = parse_number<uint16_t>(std::string_view(text).substr(colon + 1));
  inet.sin_port = htons(port.value_or(0));
  if (!port || inet_pton(AF_INET, text.substr(4, colon - 4).c_str(), &inet.sin_addr) != 1) {
    usage("an address is unix:/path or tcp:IPv4:port");
  }
  found.size = sizeof inet;
  return found;
}

size_t number(const char* text) {
  const auto value = parse_size(text);
  if (!value) usage("a size is a number of bytes, or with K, M or G");
  return *value;
}

}  // namespace

Options parse_options(int argc, char** argv) {
  if (argc < 3 || argc % 2 == 0) usage("two addresses are needed");
  Options options;
  options.listen = argv[1];
  options.connect = argv[2];
  for (int i = 3; i < argc; i += 2) {
    const std::string_view name = argv[i];
    if (name == "--buffer") {
      options.buffer = number(argv[i + 1]);
    } else if (name == "--sndbuf") {
      options.sndbuf = static_cast<int>(number(argv[i + 1]));
    } else {
      usage("unknown option");
    }
  }
  if (options.buffer == 0) usage("a buffer must hold something");
  signal(SIGPIPE, SIG_IGN);
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
  }
  return options;
}

void die(const char* what) {
  std::perror(what);
  std::exit(1);
}

int listen_at(const Options& options) {
  Socket at = parse(options.listen);
  const int fd = socket(at.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) die("socket");
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(fd, at.address(), at.size) != 0) die("bind");
  if (listen(fd, kBacklog) != 0) die("listen");
  return fd;
}

void prepare(int fd, const Options& options) {
  if (options.sndbuf > 0) {
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &options.sndbuf, sizeof options.sndbuf);
  }
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);  // fails on unix sockets, in vain
}

int connect_out(const Options& options) {
  Socket to = parse(options.connect);
  const int fd = socket(to.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  prepare(fd, options);
  if (connect(fd, to.address(), to.size) != 0) {
    close(fd);
    return -1;
  }
  return fd;
}

}  // namespace virtproxy::relay
