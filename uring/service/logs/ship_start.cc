#include "uring/service/logs/ship_start.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "uring/base/clock.h"
#include "uring/base/log.h"
#include "uring/base/patience.h"
#include "uring/base/text.h"
#include "uring/service/logs/datagram_source.h"
#include "uring/service/logs/record_source.h"
#include "uring/service/logs/stream_source.h"

namespace virtproxy::logs {
namespace {

using Failure = tl::unexpected<std::string>;

// Datagrams that a unix socket holds before its writers wait, as systemd sets it for /dev/log. The
// kernel's own default is 10, and a socket keeps the value it was made with.
constexpr unsigned kQueueLength = 512;
constexpr const char* kQueueLengthFile = "/proc/sys/net/unix/max_dgram_qlen";
constexpr auto kAddressInterval = std::chrono::milliseconds(10);
// Of a UDP socket, bytes: what the kernel holds before it drops.
constexpr int kReceiveBuffer = 8 << 20;
constexpr size_t kMostCursor = 4096;

std::string read_text(int fd, size_t most) {
  std::string text(most, '\0');
  const ssize_t got = pread(fd, text.data(), most, 0);
  text.resize(static_cast<size_t>(std::max<ssize_t>(got, 0)));
  return text;
}

std::string text_of_file(const char* path) {
  const UniqueFd fd(open(path, O_RDONLY | O_CLOEXEC));
  if (!fd) return {};
  std::string text(128, '\0');
  const ssize_t got = read(fd.get(), text.data(), text.size());
  text.resize(static_cast<size_t>(std::max<ssize_t>(got, 0)));
  return text;
}

// The digits of the UUID as a number of 128 bits.
LogId boot_id() {
  LogId id;
  for (const char c : text_of_file("/proc/sys/kernel/random/boot_id")) {
    const auto digit = static_cast<uint64_t>(c >= 'a' && c <= 'f' ? c - 'a' + 10 : c - '0');
    if (digit > 15) continue;
    id.high = id.high << 4 | id.low >> 60;
    id.low = id.low << 4 | digit;
  }
  return id;
}

LogId random_id() {
  LogId id;
  while (getrandom(&id, sizeof id, 0) != sizeof id) {
  }
  return id;
}

void raise_queue_length() {
  const std::string now = text_of_file(kQueueLengthFile);
  const auto length = static_cast<unsigned>(std::strtoul(now.c_str(), nullptr, 10));
  if (now.empty() || length >= kQueueLength) return;
  const UniqueFd fd(open(kQueueLengthFile, O_WRONLY | O_CLOEXEC));
  const std::string wanted = std::to_string(kQueueLength);
  if (fd && write(fd.get(), wanted.data(), wanted.size()) > 0) return;
  log_info("unix datagram sockets hold {} lines before programs wait: raise {} to {}", length,
           kQueueLengthFile, kQueueLength);
}

void set_option(int fd, int option, int value) {
  // Without it a line has no credentials, or the time at which it was read.
  (void)setsockopt(fd, SOL_SOCKET, option, &value, sizeof value);
}

std::string failed(const SourceSpec& spec, const std::string& what) {
  return "--ship " + printable(spec.text) + ": " + what + ": " + std::strerror(errno);
}

// True if no process has the socket at this path.
bool clear_stale(const std::string& path, const SocketAddress& at) {
  struct stat status {};
  if (path.starts_with('@') || lstat(path.c_str(), &status) != 0) return true;
  if (!S_ISSOCK(status.st_mode)) {
    errno = ENOTSOCK;
    return false;
  }
  const UniqueFd probe(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (connect(probe.get(), at.data(), at.length) == 0 || errno != ECONNREFUSED) {
    errno = EADDRINUSE;
    return false;
  }
  return unlink(path.c_str()) == 0;
}

// A process that was killed keeps its addresses for a moment, as kAddressPatience says.
template <typename Attempt>
bool patiently(const Attempt& attempt) {
  Patience patience(kAddressPatience);
  while (!attempt()) {
    if (errno != EADDRINUSE || !patience.wait(kAddressInterval)) return false;
  }
  return true;
}

ListenRules rules_of(const SourceSpec& spec, const std::optional<FileOwner>& owner) {
  ListenRules rules;
  rules.allow_remote = spec.remote;
  if (spec.kind == SourceKind::kUnix || spec.kind == SourceKind::kUnixDgram) rules.mode = spec.mode;
  if (owner) {
    rules.owner = owner->user;
    rules.group = owner->group;
  }
  return rules;
}

tl::expected<void, std::string> open_unix_dgram(OpenedSource& source,
                                                const std::optional<FileOwner>& owner) {
  const SourceSpec& spec = source.spec;
  const auto at = to_socket_address(spec.address);
  if (!at) return Failure(at.error());
  raise_queue_length();
  source.fd.reset(socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  set_option(source.fd.get(), SO_PASSCRED, 1);
  set_option(source.fd.get(), SO_TIMESTAMPNS, 1);
  const std::string& path = spec.address.host;
  const ListenRules rules = rules_of(spec, owner);
  const auto bind_it = [&] {
    return clear_stale(path, *at) && bind_to(source.fd.get(), *at, rules);
  };
  if (!source.fd || !patiently(bind_it)) {
    return Failure(failed(spec, "cannot listen on " + spec.address.to_string()));
  }
  source.listening.path = BoundPath(spec.address);
  if (!path.starts_with('@') && !give_away(path, rules)) {
    return Failure(failed(spec, "cannot change the owner of " + printable(path)));
  }
  return {};
}

tl::expected<void, std::string> open_udp(OpenedSource& source) {
  const SourceSpec& spec = source.spec;
  const auto addresses = listen_addresses(spec.address, rules_of(spec, {}));
  if (!addresses) return Failure("--ship " + printable(spec.text) + ": " + addresses.error());
  for (const SocketAddress& at : *addresses) {
    source.fd.reset(socket(at.family(), SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    const auto bind_it = [&] { return bind(source.fd.get(), at.data(), at.length) == 0; };
    if (source.fd && patiently(bind_it)) break;
    const int error = errno;
    source.fd.reset();
    errno = error;
  }
  if (!source.fd) return Failure(failed(spec, "cannot listen on " + spec.address.to_string()));
  set_option(source.fd.get(), SO_TIMESTAMPNS, 1);
  set_option(source.fd.get(), SO_RCVBUF, kReceiveBuffer);
  set_option(source.fd.get(), SO_RCVBUFFORCE, kReceiveBuffer);
  return {};
}

tl::expected<void, std::string> open_listener(OpenedSource& source,
                                              const std::optional<FileOwner>& owner) {
  auto listening = listen_on(source.spec.address, rules_of(source.spec, owner));
  if (!listening) {
    return Failure("--ship " + printable(source.spec.text) + ": " + listening.error());
  }
  source.listening = *std::move(listening);
  return {};
}

tl::expected<void, std::string> open_cursor(OpenedSource& source,
                                            const std::optional<FileOwner>& owner,
                                            MadeFiles& made) {
  const SourceSpec& spec = source.spec;
  if (spec.cursor.empty()) return {};
  source.cursor = open_for(owner, spec.cursor, O_RDWR | O_CLOEXEC, 0600, made);
  if (!source.cursor) {
    return Failure("--ship " + printable(spec.text) + ": cannot open " + printable(spec.cursor) +
                   ": " + creation_fault(printable(spec.cursor), errno));
  }
  const std::string text = read_text(source.cursor.get(), kMostCursor);
  source.position = text.substr(0, text.find('\n'));
  return {};
}

tl::expected<void, std::string> open_kmsg(OpenedSource& source,
                                          const std::optional<FileOwner>& owner, MadeFiles& made) {
  source.fd.reset(open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  if (!source.fd) return Failure(failed(source.spec, "cannot open /dev/kmsg"));
  const std::string boot = text_of_file("/proc/sys/kernel/random/boot_id");
  source.boot = boot.substr(0, boot.find('\n'));
  return open_cursor(source, owner, made);
}

// For a line of our own, see record_source.cc.
UniqueFd connect_to_journal() {
  UniqueFd journal(socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  sockaddr_un address{AF_UNIX, "/run/systemd/journal/socket"};
  if (connect(journal.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    journal.reset();
  }
  return journal;
}

// What the process that runs journalctl gets with a run is the cursor of an entry, or nothing. It
// may have more rights than this process will have: an argument is made of what a cursor can be.
bool is_cursor(std::string_view text) {
  constexpr std::string_view kOthers = "=;-_.";
  return std::all_of(text.begin(), text.end(), [&](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           kOthers.find(c) != std::string_view::npos;
  });
}

// Where the journal is read from at first. Without a cursor that is from now on, which is a time
// for a later run.
ChildKeeper::Command journal_command(const OpenedSource& source) {
  // --follow shows this boot alone, unless --merge: then the lines that an earlier boot left come
  // as well, and those of other machines have to be left out.
  std::vector<std::string> command{"journalctl", "-o", "export", "--follow", "--quiet", "--merge"};
  constexpr size_t kMachineId = 32;  // digits
  const std::string machine = text_of_file("/etc/machine-id");
  if (machine.size() >= kMachineId) {
    command.push_back("_MACHINE_ID=" + machine.substr(0, kMachineId));
  }
  constexpr uint64_t kSecond = 1'000'000'000;
  const std::string since = "--since=@" + std::to_string(unix_now() / kSecond);
  // With a cursor that has no place yet, nothing of the journal was shipped.
  const bool from_now_on = !source.cursor;
  return [=, runs = 0u](std::string_view cursor) mutable -> std::vector<std::string> {
    if (!is_cursor(cursor)) return {};
    std::vector<std::string> arguments = command;
    if (!cursor.empty()) {
      arguments.push_back("--after-cursor=" + std::string(cursor));
    } else if (from_now_on && runs == 0) {
      arguments.push_back("--lines=0");
    } else if (from_now_on) {
      arguments.push_back(since);
    }
    if (!cursor.empty() || !from_now_on || runs > 0) arguments.push_back("--no-tail");
    ++runs;
    return arguments;
  };
}

// journalctl ends when its output is closed.
tl::expected<void, std::string> open_journal(OpenedSource& source,
                                             const std::optional<FileOwner>& owner,
                                             MadeFiles& made) {
  const SourceSpec& spec = source.spec;
  if (auto opened = open_cursor(source, owner, made); !opened) return opened;
  if (!is_cursor(source.position)) {
    return Failure("--ship " + printable(spec.text) + ": " + printable(spec.cursor) +
                   " has no cursor of a journal: remove it, and the journal is shipped as a whole");
  }
  auto keeper = ChildKeeper::start(journal_command(source));
  if (!keeper) return Failure("--ship " + printable(spec.text) + ": " + keeper.error());
  keeper->run(source.position);
  pollfd news{keeper->fd(), POLLIN, 0};
  while (poll(&news, 1, -1) < 0 && errno == EINTR) {
  }
  auto started = keeper->receive();
  if (!started || !started->output) {
    if (started && started->kind == ChildKeeper::News::Kind::kCannotRun) errno = started->value;
    return Failure(failed(spec, "cannot run journalctl"));
  }
  source.fd = std::move(started->output);
  source.journalctl = *std::move(keeper);
  source.journal = connect_to_journal();
  return {};
}

tl::expected<void, std::string> open_source(OpenedSource& source,
                                            const std::optional<FileOwner>& owner,
                                            MadeFiles& made) {
  switch (source.spec.kind) {
    case SourceKind::kUnixDgram:
      return open_unix_dgram(source, owner);
    case SourceKind::kUdp:
      return open_udp(source);
    case SourceKind::kUnix:
    case SourceKind::kTcp:
      return open_listener(source, owner);
    case SourceKind::kStdin:
      source.fd.reset(fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3));
      if (source.fd) return {};
      return Failure(failed(source.spec, "cannot use standard input"));
    case SourceKind::kKmsg:
      return open_kmsg(source, owner, made);
    case SourceKind::kJournal:
      return open_journal(source, owner, made);
  }
  return {};
}

// A socket of an earlier process is as that one made it.
void take_kept(OpenedSource& source, Listening kept) {
  const bool stream = source.spec.kind == SourceKind::kUnix || source.spec.kind == SourceKind::kTcp;
  if (stream) {
    source.listening = std::move(kept);
    return;
  }
  source.fd.reset(kept.sockets[0]);
  for (size_t i = 1; i < kept.sockets.size(); ++i) close(kept.sockets[i]);
}

}  // namespace

std::vector<int> sockets_of(const ShipStart& start) {
  std::vector<int> all;
  for (const OpenedSource& source : start.sources) {
    all.insert(all.end(), source.listening.sockets.begin(), source.listening.sockets.end());
    const SourceKind kind = source.spec.kind;
    if (kind == SourceKind::kUnixDgram || kind == SourceKind::kUdp) all.push_back(source.fd.get());
  }
  return all;
}

tl::expected<ShipStart, std::string> start_shipping(const ShipConfig& config,
                                                    std::vector<Listening> kept, MadeFiles& made) {
  // The sandbox does not let the C library read its time zone later.
  tzset();
  ShipStart start;
  start.config = config;
  start.log = random_id();
  start.boot = boot_id();
  if (config.spool) {
    auto spool = open_spool_file(config.spool->path, config.spool->size, config.owner, made);
    if (!spool) return Failure(spool.error());
    start.spool = *std::move(spool);
  }
  kept.resize(config.sources.size());
  for (size_t i = 0; i < config.sources.size(); ++i) {
    OpenedSource& source = start.sources.emplace_back();
    source.spec = config.sources[i];
    source.end = config.sockets;
    if (!kept[i].sockets.empty()) {
      take_kept(source, std::move(kept[i]));
    } else if (const auto opened = open_source(source, config.owner, made); !opened) {
      return Failure(opened.error());
    }
    if (source.end == SocketEnd::kLeft) source.listening.path.release();
  }
  return start;
}

std::unique_ptr<LogSource> make_source(Loop& loop, LineTarget& target, uint16_t index,
                                       OpenedSource opened) {
  const StreamContext stream{target, index, opened.spec.framing};
  switch (opened.spec.kind) {
    case SourceKind::kUnixDgram:
    case SourceKind::kUdp:
      return std::make_unique<DatagramSource>(loop, target, index, std::move(opened.fd),
                                              std::move(opened.listening.path), opened.end,
                                              opened.spec.kind == SourceKind::kUdp);
    case SourceKind::kUnix:
    case SourceKind::kTcp:
      return std::make_unique<StreamSource>(loop, stream, std::move(opened.listening));
    case SourceKind::kStdin:
      return std::make_unique<StreamSource>(loop, stream, std::move(opened.fd));
    case SourceKind::kKmsg:
    case SourceKind::kJournal:
      break;
  }
  return make_record_source(loop, target, index, std::move(opened));
}

}  // namespace virtproxy::logs
