#include "uring/daemon/sandbox.h"

#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <seccomp.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "uring/base/log.h"
#include "uring/net/local_ports.h"
#include "uring/service/logs/file_sink.h"
#include "uring/transport/transport_kind.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define VIRTPROXY_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define VIRTPROXY_SANITIZED 1
#endif
#endif

namespace virtproxy {
namespace {

// --- what is allowed --------------------------------------------------------------------------

// Whatever the arguments.
constexpr int kAllowed[] = {
    // the loop
    SCMP_SYS(clock_gettime),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(time),
    SCMP_SYS(restart_syscall),
    // descriptors that are there
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(close),
    SCMP_SYS(fstat),
    SCMP_SYS(lseek),
    SCMP_SYS(getdents64),
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    SCMP_SYS(shutdown),
    SCMP_SYS(getsockname),
    SCMP_SYS(getpeername),
    SCMP_SYS(getsockopt),
    SCMP_SYS(recvfrom),
    SCMP_SYS(splice),
    SCMP_SYS(writev),
    // memory
    SCMP_SYS(brk),
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(madvise),
    SCMP_SYS(getrandom),
    // threads and signals
    SCMP_SYS(futex),
    SCMP_SYS(sched_yield),
    SCMP_SYS(sched_getaffinity),
    SCMP_SYS(getcpu),
    SCMP_SYS(getpid),
    SCMP_SYS(gettid),
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
};

// What each driver waits with.
constexpr int kForIoUring[] = {
    SCMP_SYS(io_uring_enter),
    SCMP_SYS(io_uring_register),
};
constexpr int kForEpoll[] = {
    SCMP_SYS(epoll_wait),
    SCMP_SYS(epoll_pwait),
    SCMP_SYS(epoll_ctl),
    SCMP_SYS(timerfd_settime),
};

// For c-ares, when host names are looked up: resolv.conf and hosts are read anew, servers asked.
constexpr int kForNames[] = {
    SCMP_SYS(stat), SCMP_SYS(newfstatat), SCMP_SYS(recvmsg), SCMP_SYS(fcntl), SCMP_SYS(uname),
};

// For a configuration that is read again, and its listeners.
constexpr int kForChanges[] = {
    SCMP_SYS(stat),  SCMP_SYS(newfstatat), SCMP_SYS(lstat),    SCMP_SYS(readlink),
    SCMP_SYS(bind),  SCMP_SYS(listen),     SCMP_SYS(fchownat), SCMP_SYS(clock_nanosleep),
    SCMP_SYS(umask), SCMP_SYS(getcwd),     SCMP_SYS(geteuid),
};

// What no part of this program does, and an intruder tries first.
constexpr int kFatal[] = {
    SCMP_SYS(execve),
    SCMP_SYS(execveat),
    SCMP_SYS(fork),
    SCMP_SYS(vfork),
    SCMP_SYS(ptrace),
    SCMP_SYS(process_vm_readv),
    SCMP_SYS(process_vm_writev),
    SCMP_SYS(pidfd_getfd),
    SCMP_SYS(io_uring_setup),
    SCMP_SYS(bpf),
    SCMP_SYS(perf_event_open),
    SCMP_SYS(userfaultfd),
    SCMP_SYS(keyctl),
    SCMP_SYS(add_key),
    SCMP_SYS(init_module),
    SCMP_SYS(finit_module),
    SCMP_SYS(kexec_load),
    SCMP_SYS(kexec_file_load),
    SCMP_SYS(mount),
    SCMP_SYS(umount2),
    SCMP_SYS(move_mount),
    SCMP_SYS(pivot_root),
    SCMP_SYS(chroot),
    SCMP_SYS(unshare),
    SCMP_SYS(setns),
    SCMP_SYS(setuid),
    SCMP_SYS(setgid),
    SCMP_SYS(setreuid),
    SCMP_SYS(setregid),
    SCMP_SYS(setresuid),
    SCMP_SYS(setresgid),
    SCMP_SYS(setgroups),
    SCMP_SYS(capset),
};

struct SocketOption {
  int level;
  int name;
};

constexpr SocketOption kSocketOptions[] = {
    {SOL_SOCKET, SO_LINGER},         {SOL_SOCKET, SO_KEEPALIVE},
    {SOL_SOCKET, SO_SNDBUF},         {SOL_SOCKET, SO_RCVBUF},
    {SOL_SOCKET, SO_OOBINLINE},      {IPPROTO_TCP, TCP_NODELAY},
    {IPPROTO_TCP, TCP_KEEPIDLE},     {IPPROTO_TCP, TCP_KEEPINTVL},
    {IPPROTO_TCP, TCP_KEEPCNT},      {IPPROTO_TCP, TCP_NOTSENT_LOWAT},
    {IPPROTO_TCP, TCP_USER_TIMEOUT}, {IPPROTO_IP, kLocalPortRange},
};

constexpr unsigned long kTerminalRequests[] = {TCGETS, TCSETS, TCFLSH};

// What this command line makes the daemon do after its start.
struct Needs {
  bool names = false;
  bool devices = false;
  bool closes = false;  // listeners, and opens them again: when-down
  bool paths = false;   // of listeners, to unlink
  bool lines = false;   // of log shipping
  bool spool = false;
  bool files = false;      // of --collect, written at a place
  bool rotation = false;   // … and renamed
  bool datagrams = false;  // to unix sockets, whose files are looked at
  bool programs = false;   // which are run by another process
  bool changes = false;    // of channels and forwards
  bool scopes = false;     // [fe80::1%eth0]: the interface's number is asked for at each dial
  std::vector<int> families;

  void connect(const Address& address) {
    switch (address.kind) {
      case Address::Kind::kUnix:
        return add(AF_UNIX);
      case Address::Kind::kVsock:
        return add(AF_VSOCK);
      case Address::Kind::kTcp:
        names |= address.needs_resolver();
        scopes |= address.host.find('%') != std::string::npos;
        add(AF_INET);
        return add(AF_INET6);
      case Address::Kind::kDevice:
        devices = true;
    }
  }
  void listen(const Address& address) {
    paths |= address.kind == Address::Kind::kUnix && !address.host.starts_with('@');
  }
  void add(int family) {
    if (std::find(families.begin(), families.end(), family) == families.end()) {
      families.push_back(family);
    }
  }
};

Needs needs_of(const Options& options) {
  Needs needs;
  for (const ChannelSpec& channel : options.channels) {
    transport_listens(channel.transport) ? needs.listen(channel.address)
                                         : needs.connect(channel.address);
  }
  for (const ForwardSpec& forward : options.oforwards) {
    needs.listen(forward.address);
    needs.closes |= forward.when_down.kind == WhenDown::Kind::kClose;
  }
  for (const auto* address : {&options.process.control, &options.process.metrics}) {
    if (*address) needs.listen(**address);
  }
  for (const ForwardSpec& forward : options.iforwards) needs.connect(forward.address);
  const ProcessSettings& process = options.process;
  needs.lines = !process.ship_sources.empty();
  needs.spool = process.ship_spool || process.collect_spool;
  for (const logs::SourceSpec& source : process.ship_sources) {
    if (!source.address.host.empty()) needs.listen(source.address);
    needs.spool |= !source.cursor.empty();
    needs.programs |= source.kind == logs::SourceKind::kJournal;
  }
  for (const SinkSpec& sink : process.collect) {
    needs.files |= !sink.state.empty();
    needs.rotation |= sink.rotates();
    if (sink.connects()) needs.connect(sink.address);
    needs.datagrams |= sink.kind == SinkKind::kUnixDatagram;
    needs.programs |= sink.kind == SinkKind::kExec;
  }
  if (options.can_change()) {
    needs.changes = needs.paths = true;
    for (const int family : {AF_UNIX, AF_INET, AF_INET6}) needs.add(family);
  }
  return needs;
}

// --- the filter -------------------------------------------------------------------------------

class Filter {
 public:
  explicit Filter(uint32_t otherwise) : context_(seccomp_init(otherwise)) {
    note(context_ != nullptr ? 0 : -ENOMEM);
  }
  ~Filter() {
    if (context_ != nullptr) seccomp_release(context_);
  }
  Filter(const Filter&) = delete;
  Filter& operator=(const Filter&) = delete;

  void set(scmp_filter_attr attribute, uint32_t value) {
    if (error_ == 0) note(seccomp_attr_set(context_, attribute, value));
  }
  void add(uint32_t action, int call) {
    if (error_ == 0) note(seccomp_rule_add_array(context_, action, call, 0, nullptr));
  }
  // Only where all comparisons hold.
  void allow_if(int call, std::initializer_list<scmp_arg_cmp> comparisons) {
    const std::vector<scmp_arg_cmp> all(comparisons);
    if (error_ == 0) {
      note(seccomp_rule_add_array(context_, SCMP_ACT_ALLOW, call, static_cast<unsigned>(all.size()),
                                  all.data()));
    }
  }
  void load() {
    if (error_ == 0) note(seccomp_load(context_));
  }
  // 0, or a negative errno of the first step that failed.
  int error() const { return error_; }

 private:
  void note(int result) {
    if (result < 0) error_ = result;
  }

  scmp_filter_ctx context_;
  int error_ = 0;
};

constexpr scmp_arg_cmp masked(unsigned argument, uint64_t mask, uint64_t value) {
  return {argument, SCMP_CMP_MASKED_EQ, mask, value};
}
// Of an int: the upper half of its register means nothing.
constexpr scmp_arg_cmp equal(unsigned argument, int value) {
  return masked(argument, 0xffffffff, static_cast<uint32_t>(value));
}

void allow_waiting(Filter& filter, const std::vector<DriverKind>& drivers) {
  for (const DriverKind driver : drivers) {
    if (driver == DriverKind::kIoUring) {
      for (const int call : kForIoUring) filter.add(SCMP_ACT_ALLOW, call);
    } else {
      for (const int call : kForEpoll) filter.add(SCMP_ACT_ALLOW, call);
    }
  }
}

// No memory that can be executed. On s390x mmap has one argument, a pointer to the others, which a
// filter cannot follow.
void allow_memory(Filter& filter) {
#ifdef __s390x__
  filter.add(SCMP_ACT_ALLOW, SCMP_SYS(mmap));
#else
  filter.allow_if(SCMP_SYS(mmap), {masked(2, PROT_EXEC, 0)});
#endif
  filter.allow_if(SCMP_SYS(mprotect), {masked(2, PROT_EXEC, 0)});
}

// What transport_source.cc does where descriptors are scarce, and pipes.h.
void allow_descriptors(Filter& filter) {
  filter.allow_if(SCMP_SYS(fcntl), {equal(0, STDERR_FILENO), equal(1, F_DUPFD_CLOEXEC)});
  filter.allow_if(SCMP_SYS(dup3), {equal(0, STDERR_FILENO)});
  filter.add(SCMP_ACT_ALLOW, SCMP_SYS(accept4));
  filter.allow_if(SCMP_SYS(pipe2), {equal(1, O_NONBLOCK | O_CLOEXEC)});
  filter.allow_if(SCMP_SYS(fcntl), {equal(1, F_SETPIPE_SZ)});
  filter.allow_if(SCMP_SYS(ioctl), {equal(1, FIONREAD)});
  filter.allow_if(SCMP_SYS(ioctl), {equal(1, SIOCOUTQNSD)});
  filter.allow_if(SCMP_SYS(ioctl), {equal(1, SIOCOUTQ)});
}

void allow_sockets(Filter& filter, const Needs& needs) {
  // A fast open connects where Landlock does not see it.
  filter.allow_if(SCMP_SYS(sendto), {masked(3, MSG_FASTOPEN, 0)});
  filter.allow_if(SCMP_SYS(sendmsg), {masked(2, MSG_FASTOPEN, 0)});
  for (const SocketOption& option : kSocketOptions) {
    filter.allow_if(SCMP_SYS(setsockopt), {equal(1, option.level), equal(2, option.name)});
  }
  if (needs.changes) {
    filter.allow_if(SCMP_SYS(setsockopt), {equal(1, SOL_SOCKET), equal(2, SO_REUSEADDR)});
    filter.allow_if(SCMP_SYS(setsockopt), {equal(1, IPPROTO_IPV6), equal(2, IPV6_V6ONLY)});
  }
  if (needs.closes) filter.add(SCMP_ACT_ALLOW, SCMP_SYS(listen));
  if (needs.families.empty()) return;
  if (needs.scopes) {
    filter.allow_if(SCMP_SYS(socket), {equal(0, AF_UNIX), equal(1, SOCK_DGRAM | SOCK_CLOEXEC)});
    filter.allow_if(SCMP_SYS(ioctl), {equal(1, SIOCGIFINDEX)});
  }
  filter.add(SCMP_ACT_ALLOW, SCMP_SYS(connect));
  if (needs.datagrams) {
    filter.allow_if(
        SCMP_SYS(socket),
        {equal(0, AF_UNIX), equal(1, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK), equal(2, 0)});
  }
  constexpr uint64_t kKind = ~uint64_t{SOCK_NONBLOCK | SOCK_CLOEXEC} & 0xffffffff;
  for (const int family : needs.families) {
    // No other protocol of that kind: Landlock does not see the ports of MPTCP or SCTP.
    filter.allow_if(SCMP_SYS(socket),
                    {equal(0, family), masked(1, kKind, SOCK_STREAM), equal(2, 0)});
    const bool internet = family == AF_INET || family == AF_INET6;
    if (!needs.names || !internet) continue;
    for (const int protocol : {0, int{IPPROTO_UDP}}) {
      filter.allow_if(SCMP_SYS(socket),
                      {equal(0, family), masked(1, kKind, SOCK_DGRAM), equal(2, protocol)});
    }
  }
}

void allow_files(Filter& filter, const Needs& needs) {
  if (needs.paths) {
    for (const int call : {SCMP_SYS(lstat), SCMP_SYS(unlink)}) filter.add(SCMP_ACT_ALLOW, call);
  }
  if (needs.datagrams) filter.add(SCMP_ACT_ALLOW, SCMP_SYS(stat));
  if (needs.paths || needs.datagrams) {
    filter.add(SCMP_ACT_ALLOW, SCMP_SYS(newfstatat));
  } else {
    // fstat(2), as the C library writes it.
    filter.allow_if(SCMP_SYS(newfstatat), {masked(3, AT_EMPTY_PATH, AT_EMPTY_PATH)});
  }
  if (needs.lines) filter.add(SCMP_ACT_ALLOW, SCMP_SYS(recvmmsg));
  if (needs.spool) {
    // The ring has operations of its own for a spool; a cursor is written without it.
    for (const int call : {SCMP_SYS(pread64), SCMP_SYS(pwrite64), SCMP_SYS(fdatasync)}) {
      filter.add(SCMP_ACT_ALLOW, call);
    }
  }
  if (needs.names) {
    for (const int call : kForNames) filter.add(SCMP_ACT_ALLOW, call);
  }
  if (needs.changes) {
    for (const int call : kForChanges) filter.add(SCMP_ACT_ALLOW, call);
    for (const int command : {F_DUPFD_CLOEXEC, F_GETFL, F_SETFL}) {
      filter.allow_if(SCMP_SYS(fcntl), {equal(1, command)});
    }
  }
  if (needs.names || needs.changes) {
    constexpr uint64_t kWriting = O_ACCMODE | O_CREAT | O_TRUNC;
    filter.allow_if(SCMP_SYS(openat), {masked(2, kWriting, O_RDONLY)});
  }
  if (needs.files) {
    filter.add(SCMP_ACT_ALLOW, SCMP_SYS(pwrite64));
    filter.add(SCMP_ACT_ALLOW, SCMP_SYS(fdatasync));
  }
  if (needs.programs) filter.add(SCMP_ACT_ALLOW, SCMP_SYS(recvmsg));
  if (needs.rotation) {
    filter.add(SCMP_ACT_ALLOW, SCMP_SYS(renameat));
    constexpr uint64_t kFlags = 0xffffffff & ~uint64_t{O_LARGEFILE};
    filter.allow_if(SCMP_SYS(openat), {masked(2, kFlags, FileSink::kOpenFlags & kFlags)});
  }
  if (needs.devices) {
    constexpr uint64_t kDevice = O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
    filter.allow_if(SCMP_SYS(openat), {masked(2, 0xffffffff & ~uint64_t{O_LARGEFILE}, kDevice)});
    filter.allow_if(SCMP_SYS(flock), {equal(1, LOCK_EX | LOCK_NB)});
    for (const unsigned long request : kTerminalRequests) {
      filter.allow_if(SCMP_SYS(ioctl), {masked(1, 0xffffffff, request)});
    }
  }
}

// --- calls that are refused -------------------------------------------------------------------

constexpr size_t kMostCalls = 1024;
std::array<std::atomic<bool>, kMostCalls> refused_calls;
std::array<std::atomic<bool>, kMostCalls> reported_calls;
std::atomic<int> alarm_descriptor{-1};

#if defined(__x86_64__) || defined(__aarch64__)
// The call did not happen; its result is made here. A newer one than this program knows is "not
// there" instead of "forbidden", so that the C library falls back to what it did before.
void on_refused(int, siginfo_t* info, void* context) {
  constexpr int kNewestKnown = __NR_futex_waitv;
  const int saved_errno = errno;
  const int call = info->si_syscall;
  const int result = call > kNewestKnown ? -ENOSYS : -EPERM;
  auto* machine = &static_cast<ucontext_t*>(context)->uc_mcontext;
#ifdef __x86_64__
  machine->gregs[REG_RAX] = result;
#else
  machine->regs[0] = static_cast<unsigned long long>(result);
#endif
  const auto index = static_cast<size_t>(std::max(call, 0)) % kMostCalls;
  if (!refused_calls[index].exchange(true)) {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(alarm_descriptor, &one, sizeof one);
  }
  errno = saved_errno;
}

uint32_t refuse() {
  struct sigaction action {};
  action.sa_sigaction = on_refused;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGSYS, &action, nullptr);
  return SCMP_ACT_TRAP;
}
#else
uint32_t refuse() { return SCMP_ACT_ERRNO(EPERM); }
#endif

std::string advice_for(int error) {
  switch (error) {
    case EINVAL:
    case ENOSYS:
    case EOPNOTSUPP:
      return "this kernel has no seccomp filters for all threads, or the container's profile does "
             "not "
             "allow seccomp";
    case EACCES:
    case EPERM:
      return "seccomp is forbidden here: allow seccomp in the container's profile";
    default:
      return std::strerror(error);
  }
}

}  // namespace

Sandbox::Sandbox() : alarm_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) { alarm_descriptor = alarm_; }

Sandbox::~Sandbox() {
  alarm_descriptor = -1;
  if (alarm_ >= 0) close(alarm_);
}

bool Sandbox::available() {
#ifdef VIRTPROXY_SANITIZED
  return false;
#else
  return true;
#endif
}

tl::expected<void, std::string> Sandbox::enter(const Options& options,
                                               const std::vector<DriverKind>& drivers) {
  const Needs needs = needs_of(options);
  Filter filter(refuse());
  // Threads are there already; the numbers of another architecture mean other calls.
  filter.set(SCMP_FLTATR_CTL_TSYNC, 1);
  filter.set(SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
  filter.set(SCMP_FLTATR_CTL_OPTIMIZE, 2);
  for (const int call : kFatal) filter.add(SCMP_ACT_KILL_PROCESS, call);
  for (const int call : kAllowed) filter.add(SCMP_ACT_ALLOW, call);
  filter.allow_if(SCMP_SYS(tgkill), {equal(0, getpid())});
  allow_waiting(filter, drivers);
  allow_memory(filter);
  allow_sockets(filter, needs);
  allow_files(filter, needs);
  allow_descriptors(filter);
  filter.load();
  if (filter.error() != 0) return tl::unexpected(advice_for(-filter.error()));
  return {};
}

std::string Sandbox::lacks(const Options& at_start, const Options& needed) {
  const Needs had = needs_of(at_start);
  const Needs has = needs_of(needed);
  if (has.devices && !had.devices) return "devices";
  const auto is_name = [](bool listens, const Address& address) {
    return listens && address.needs_resolver();
  };
  bool names = has.names;
  for (const ChannelSpec& channel : needed.channels) {
    names |= is_name(transport_listens(channel.transport), channel.address);
  }
  for (const ForwardSpec& forward : needed.oforwards) names |= is_name(true, forward.address);
  if (names && !had.names) return "host names, only addresses";
  if (has.scopes && !had.scopes) return "addresses with an interface";
  // All others are there where the configuration can change.
  const bool had_vsock =
      std::find(had.families.begin(), had.families.end(), AF_VSOCK) != had.families.end();
  const bool vsock = std::any_of(
      needed.channels.begin(), needed.channels.end(),
      [](const ChannelSpec& channel) { return channel.address.kind == Address::Kind::kVsock; });
  return vsock && !had_vsock ? "vsock" : "";
}

void Sandbox::report() {
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t taken = read(alarm_, &count, sizeof count);
  for (size_t call = 0; call < kMostCalls; ++call) {
    if (!refused_calls[call] || reported_calls[call].exchange(true)) continue;
    const std::unique_ptr<char, decltype(&std::free)> name(
        seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, static_cast<int>(call)), &std::free);
    log_error(
        "the sandbox refused the system call {} ({}): a library that needs it, or an intruder; "
        "--sandbox off goes without",
        name ? name.get() : "?", call);
  }
}

}  // namespace virtproxy
