#include "uring/io/epoll_driver.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "core/assert.h"

namespace virtproxy {
namespace {

// No generation of a slot: those begin at 1.
constexpr uint64_t kAlarm = 0;

constexpr uint32_t kReadable = EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR;
// What a receive leaves behind the bytes it gets.
constexpr uint32_t kEnded = EPOLLRDHUP | EPOLLHUP | EPOLLERR;
constexpr uint32_t kWritable = EPOLLOUT | EPOLLHUP | EPOLLERR;

// Completions and polls speak of poll(2).
static_assert(EPOLLIN == POLLIN && EPOLLOUT == POLLOUT && EPOLLERR == POLLERR &&
              EPOLLHUP == POLLHUP && EPOLLRDHUP == POLLRDHUP);

// Whether a receive from a channel's socket that gets less than it asked for has emptied it. One
// from vsock over Hyper-V gets a packet at most. One from a unix socket or by TCP ends at
// descriptors that were passed and at urgent bytes too, but no channel's other end sends those.
bool short_receive_empties(int fd) {
  int domain = 0;
  socklen_t size = sizeof domain;
  return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 &&
         (domain == AF_UNIX || domain == AF_INET || domain == AF_INET6);
}

}  // namespace

tl::expected<std::unique_ptr<EpollDriver>, std::string> EpollDriver::open(
    const DriverFeatures& wanted) {
  std::unique_ptr<EpollDriver> driver(new EpollDriver);
  driver->epoll_ = epoll_create1(EPOLL_CLOEXEC);
  driver->alarm_ = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET;
  event.data.u64 = kAlarm;
  if (driver->epoll_ < 0 || driver->alarm_ < 0 ||
      epoll_ctl(driver->epoll_, EPOLL_CTL_ADD, driver->alarm_, &event) != 0) {
    const int error = errno;
    const bool few = error == EMFILE || error == ENFILE;
    return tl::unexpected(
        std::string(few ? "no descriptor left for epoll: raise RLIMIT_NOFILE (ulimit -n, "
                          "LimitNOFILE=)"
                        : "cannot set up epoll") +
        " (" + std::strerror(error) + ")");
  }
  DriverFeatures& features = driver->features_;
  features = wanted;
  features.single_issuer = features.coop_taskrun = features.defer_taskrun = false;
  features.registered_ring = features.registered_files = false;
  features.no_iowait = features.restrictions = false;
  if (!features.skip_success) features.busy_poll = false;
  return driver;
}

EpollDriver::~EpollDriver() {
  if (alarm_ >= 0) close(alarm_);
  if (epoll_ >= 0) close(epoll_);
}

// --- requests ---------------------------------------------------------------------------------

EpollDriver::Request& EpollDriver::request(Op& op, File file, Kind kind) {
  VP_ASSERT(!op.pending);
  if (free_requests_.empty()) {
    free_requests_.push_back(static_cast<uint32_t>(requests_.size()));
    requests_.emplace_back();
  }
  op.place = free_requests_.back();
  free_requests_.pop_back();
  op.pending = true;
  Request& made = requests_[op.place];
  made = {};
  made.op = &op;
  made.kind = kind;
  made.file = file;
  queue_.push_back(op.place);
  return made;
}

void EpollDriver::recv(Op& op, File file, void* to, size_t size, bool poll_first) {
  Request& made = request(op, file, Kind::kRecv);
  made.data = to;
  made.size = size;
  made.poll_first = poll_first && features_.poll_first;
}

void EpollDriver::found_empty(const File& file) {
  if (file.index >= 0) slots_[static_cast<size_t>(file.index)].readable = false;
}

void EpollDriver::recv_provided(Op& op, File file, uint16_t group, size_t size, bool poll_first) {
  Request& made = request(op, file, Kind::kRecvProvided);
  made.group = group;
  made.size = size;
  made.poll_first = poll_first && features_.poll_first;
}

void EpollDriver::read(Op& op, File file, void* to, size_t size) {
  Request& made = request(op, file, Kind::kRead);
  made.data = to;
  made.size = size;
}

void EpollDriver::write(Op& op, File file, const void* from, size_t size) {
  Request& made = request(op, file, Kind::kWrite);
  made.data = const_cast<void*>(from);
  made.size = size;
}

void EpollDriver::read_at(Op& op, File file, void* to, size_t size, uint64_t offset) {
  Request& made = request(op, file, Kind::kReadAt);
  made.data = to;
  made.size = size;
  made.offset = offset;
}

void EpollDriver::write_at(Op& op, File file, const void* from, size_t size, uint64_t offset) {
  Request& made = request(op, file, Kind::kWriteAt);
  made.data = const_cast<void*>(from);
  made.size = size;
  made.offset = offset;
}

void EpollDriver::sync_data(Op& op, File file) { request(op, file, Kind::kSyncData); }

void EpollDriver::send(Op& op, File file, const void* from, size_t size, SendMode mode) {
  Request& made = request(op, file, Kind::kSend);
  made.data = const_cast<void*>(from);
  made.size = size;
  made.mode = mode;
}

void EpollDriver::sendmsg(Op& op, File file, const msghdr* message, SendMode mode) {
  Request& made = request(op, file, Kind::kSendMessage);
  made.message = message;
  for (size_t i = 0; i < message->msg_iovlen; ++i) made.size += message->msg_iov[i].iov_len;
  made.mode = mode;
}

void EpollDriver::skip_success(Op& op) {
  if (!features_.skip_success) return;
  Request& made = requests_[op.place];
  VP_ASSERT(made.op == &op);
  made.mode = SendMode::kNow;
  op.skips_success = true;
}

void EpollDriver::poll(Op& op, File file, uint32_t events) {
  request(op, file, Kind::kPoll).events = events;
}

void EpollDriver::poll_hangup(Op& op, File file) { request(op, file, Kind::kHangup); }

void EpollDriver::accept(Op& op, File file) { request(op, file, Kind::kAccept); }

// The request of a pending operation that has completed is free, or another one's: what is known of
// it comes with the next dispatch().
void EpollDriver::cancel(Op& op) {
  if (!op.pending || requests_[op.place].op != &op) return;
  Request& cancelled = requests_[op.place];
  if (cancelled.state != State::kParked) {
    cancelled.state = State::kCancelled;  // wait() completes it
    return;
  }
  unpark(op.place);
  finish(cancelled, cancelled.done > 0 ? static_cast<int>(cancelled.done) : -ECANCELED);
}

void EpollDriver::finish(Request& finished, int result, int buffer) {
  Op* const op = finished.op;
  free_requests_.push_back(op->place);
  finished.op = nullptr;
  finished.rest.clear();
  if (op->skips_success && result == static_cast<int>(finished.size)) {
    skipped_.push_back({op, result});
  } else {
    completed_.push_back({op, {result, buffer, false}});
  }
}

// --- slots ------------------------------------------------------------------------------------

File EpollDriver::add_file(int fd, FileUse use) {
  // Some kernels accept nothing through a ring from one that does not block, so not all are made so.
  if (use == FileUse::kListen) fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  const uint32_t index = new_slot(fd);
  slots_[index].added = true;
  slots_[index].device = use == FileUse::kDevice;
  slots_[index].listens = use == FileUse::kListen;
  // A stream may be short: it does not pay for changes.
  slots_[index].edges = use == FileUse::kDevice || use == FileUse::kStream;
  slots_[index].short_empties = use == FileUse::kChannel && short_receive_empties(fd);
  return {fd, static_cast<int>(index)};
}

// A registration by edges stays until the file is closed, which a listener with a duplicate is not,
// or taken over. One by level would be reported in each wait until then.
void EpollDriver::remove_file(File& file) {
  if (file.index < 0) return;
  const auto index = static_cast<uint32_t>(std::exchange(file.index, -1));
  VP_ASSERT(slots_[index].parked == kNone);
  const Slot& removed = slots_[index];
  if (removed.listens || removed.by_level()) {
    epoll_ctl(epoll_, EPOLL_CTL_DEL, removed.fd, nullptr);
  }
  free_slot(index);
}

uint32_t EpollDriver::new_slot(int fd) {
  if (free_slots_.empty()) {
    free_slots_.push_back(static_cast<uint32_t>(slots_.size()));
    slots_.emplace_back();
  }
  const uint32_t index = free_slots_.back();
  free_slots_.pop_back();
  Slot& made = slots_[index];
  const uint32_t generation = made.generation + 1;
  made = {};
  made.fd = fd;
  made.generation = generation == 0 ? 1 : generation;
  return index;
}

void EpollDriver::free_slot(uint32_t index) {
  Slot& freed = slots_[index];
  if (!freed.added) bare_.erase(freed.fd);
  freed.fd = -1;
  freed.added = false;
  ++freed.generation;
  free_slots_.push_back(index);
}

uint32_t EpollDriver::slot_for(const Request& parked) {
  if (parked.file.index >= 0) return static_cast<uint32_t>(parked.file.index);
  const auto [found, made] = bare_.try_emplace(parked.file.fd, kNone);
  if (made) found->second = new_slot(parked.file.fd);
  return found->second;
}

bool EpollDriver::waits_for_room(const Request& waiting) {
  switch (waiting.kind) {
    case Kind::kWrite:
    case Kind::kSend:
    case Kind::kSendMessage:
      return true;
    case Kind::kPoll:
      return (waiting.events & POLLOUT) != 0;
    default:
      return false;
  }
}

bool EpollDriver::concerns(const Request& waiting, uint32_t events) {
  switch (waiting.kind) {
    case Kind::kWrite:
    case Kind::kSend:
    case Kind::kSendMessage:
      return (events & kWritable) != 0;
    case Kind::kPoll:
      return (events & (waiting.events | EPOLLERR | EPOLLHUP)) != 0;
    case Kind::kHangup:
      return (events & (EPOLLERR | EPOLLHUP)) != 0;
    default:
      return (events & kReadable) != 0;
  }
}

// Registers a slot's descriptor, for writing too where something waits for room. `anew`: the number
// may belong to another file than when it was registered. 0 or an errno.
int EpollDriver::watch(uint32_t index, bool writes, bool anew) {
  Slot& watched = slots_[index];
  epoll_event event{};
  event.events = EPOLLIN | EPOLLRDHUP;
  if (writes) event.events |= EPOLLOUT;
  if (writes || watched.edges) event.events |= EPOLLET;
  event.data.u64 = uint64_t{watched.generation} << 32 | index;
  if (!anew && watched.registered == event.events) return 0;
  int what = watched.registered == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
  int result = epoll_ctl(epoll_, what, watched.fd, &event);
  if (result != 0 && (errno == EEXIST || errno == ENOENT)) {
    // Of an earlier use of this file; or of a file that was closed since.
    what = what == EPOLL_CTL_ADD ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    result = epoll_ctl(epoll_, what, watched.fd, &event);
  }
  if (result != 0) return errno;
  watched.registered = event.events;
  return 0;
}

void EpollDriver::park(uint32_t index) {
  Request& parked = requests_[index];
  const uint32_t at = slot_for(parked);
  const bool shared = slots_[at].parked != kNone;
  const bool wants_room = waits_for_room(parked);
  if (wants_room) slots_[at].idle_room = 0;
  const bool writes = wants_room || (slots_[at].registered & EPOLLOUT) != 0;
  parked.next = kNone;
  parked.slot = at;
  parked.state = State::kParked;
  uint32_t* link = &slots_[at].parked;
  while (*link != kNone) link = &requests_[*link].next;
  *link = index;
  const int error = watch(at, writes, shared && !slots_[at].added);
  if (error == 0) return;
  unpark(index);
  if (error != EPERM) return finish(parked, -error);
  parked.state = State::kQueued;
  unpollable_.push_back(index);
}

void EpollDriver::unpark(uint32_t index) {
  Request& left = requests_[index];
  Slot& slot = slots_[left.slot];
  uint32_t* link = &slot.parked;
  while (*link != index) link = &requests_[*link].next;
  *link = left.next;
  if (slot.parked == kNone && !slot.added) free_slot(left.slot);
  left.slot = left.next = kNone;
}

void EpollDriver::on_event(const epoll_event& event) {
  if (event.data.u64 == kAlarm) return alarm_at_.reset();
  const auto index = static_cast<uint32_t>(event.data.u64);
  Slot& slot = slots_[index];
  if (slot.generation != event.data.u64 >> 32) return;
  if ((event.events & kReadable) != 0) slot.readable = true;
  // The end, which is not reported again, is behind the bytes.
  if ((event.events & kEnded) != 0) slot.short_empties = false;
  bool writes = false;
  const size_t completed = completed_.size() + skipped_.size();
  for (uint32_t* link = &slot.parked; *link != kNone;) {
    Request& waiting = requests_[*link];
    const uint32_t next = waiting.next;
    if (waits_for_room(waiting)) writes = true;
    if (concerns(waiting, event.events) && proceed(*link, event.events) == Attempt::kOver) {
      *link = next;
    } else {
      link = &waiting.next;
    }
  }
  if (slot.parked == kNone && !slot.added) return free_slot(index);
  if ((event.events & EPOLLOUT) != 0 && !writes && ++slot.idle_room >= kMostIdleRoom) {
    watch(index, false, false);
  } else if (slot.by_level() && completed_.size() + skipped_.size() == completed) {
    // No operation waits for what is there: every epoll_wait(2) would report it.
    slot.edges = true;
    slot.in_vain = 0;
    slot.patience = std::min(2 * slot.patience, kMostPatience);
    watch(index, false, false);
  }
}

// Goes on with a parked request of which there is news. epoll has asked the file just now, as
// poll(2) would.
EpollDriver::Attempt EpollDriver::proceed(uint32_t index, uint32_t events) {
  Request& parked = requests_[index];
  if (parked.kind != Kind::kPoll || parked.file.index < 0) return attempt(index);
  finish(parked, static_cast<int>(events & (parked.events | EPOLLERR | EPOLLHUP)));
  return Attempt::kOver;
}

// Whether a request need not be tried: epoll reports what it waits for also if that is there
// already, because it is registered by level or is going to be registered, or nothing can be there.
// The owner of a poll may have found nothing for lack of memory, so that is tried where edges are
// watched.
bool EpollDriver::epoll_knows(const Request& asked) const {
  if (asked.kind != Kind::kPoll && !asked.poll_first) return false;
  if (asked.file.index < 0) return asked.poll_first;
  const Slot& slot = slots_[static_cast<size_t>(asked.file.index)];
  if (asked.kind != Kind::kPoll) return slot.by_level() || !slot.readable;
  if (slot.device) return false;
  if (waits_for_room(asked)) return (slot.registered & EPOLLOUT) == 0;
  return slot.by_level() || slot.registered == 0;
}

// After a receive that has emptied its socket, whatever comes is an edge.
void EpollDriver::received(const Request& receipt, size_t got) {
  if (receipt.file.index < 0 || got >= receipt.size) return;
  Slot& slot = slots_[static_cast<size_t>(receipt.file.index)];
  if (slot.short_empties) slot.readable = false;
}

// A try to receive found nothing. Where that happens again and again, watching the level costs
// less.
void EpollDriver::found_nothing(const Request& tried) {
  if (tried.file.index < 0) return;
  Slot& slot = slots_[static_cast<size_t>(tried.file.index)];
  slot.readable = false;
  if (slot.edges && !slot.device && ++slot.in_vain >= slot.patience) slot.edges = false;
}

// --- a turn -----------------------------------------------------------------------------------

bool EpollDriver::open_group(uint16_t group, uint32_t entries) {
  if (groups_.size() <= group) groups_.resize(group + 1u);
  groups_[group].reserve(entries);
  return true;
}

void EpollDriver::close_group(uint16_t group) {
  if (group < groups_.size()) groups_[group] = {};
}

void EpollDriver::offer(uint16_t group, std::span<const OfferedBuffer> buffers) {
  groups_[group].insert(groups_[group].end(), buffers.begin(), buffers.end());
}

void EpollDriver::start(uint32_t index) {
  Request& started = requests_[index];
  if (started.state == State::kCancelled) return finish(started, -ECANCELED);
  if (started.file.fd < 0) return finish(started, -EBADF);
  if (epoll_knows(started) || attempt(index) == Attempt::kWaits) park(index);
}

void EpollDriver::set_alarm(Instant at) {
  if (alarm_at_ && *alarm_at_ <= at) return;
  const auto seconds = std::chrono::floor<std::chrono::seconds>(at);
  itimerspec time{};
  time.it_value.tv_sec = seconds.count();
  time.it_value.tv_nsec = (at - seconds).count();
  if (timerfd_settime(alarm_, TFD_TIMER_ABSTIME, &time, nullptr) == 0) alarm_at_ = at;
}

int EpollDriver::wait(std::optional<Instant> deadline) {
  std::swap(trying_, queue_);
  trying_.insert(trying_.end(), again_.begin(), again_.end());
  trying_.insert(trying_.end(), unpollable_.begin(), unpollable_.end());
  again_.clear();
  unpollable_.clear();
  for (const uint32_t index : trying_) start(index);
  const bool passed_one_message_on = skipped_.size() == 1 && trying_.size() <= 2;
  trying_.clear();
  // What is left over is handed out before more is collected.
  if (completed_.size() >= kMostEvents) return 0;
  const bool past = deadline && *deadline <= Instant(0);
  if (past || !completed_.empty() || !again_.empty()) return std::min(wait_for_events(0), 0);
  if (deadline) set_alarm(*deadline);
  if (!unpollable_.empty()) return std::min(wait_for_events(kUnpollableInterval), 0);
  const bool spins = features_.busy_poll && busy_poll_.worth_it(passed_one_message_on);
  return std::min(spins ? spin() : wait_for_events(-1), 0);
}

int EpollDriver::wait_for_events(int timeout) {
  // Also work that the kernel does for a ring of this thread which is being closed interrupts it.
  int count = 0;
  do {
    count = epoll_wait(epoll_, events_.data(), kMostEvents, timeout);
  } while (count < 0 && errno == EINTR);
  if (count < 0) return -errno;
  for (int i = 0; i < count; ++i) on_event(events_[static_cast<size_t>(i)]);
  return count;
}

int EpollDriver::spin() {
  const auto begun = std::chrono::steady_clock::now();
  for (;;) {
    const int came = wait_for_events(0);
    const Duration took = std::chrono::steady_clock::now() - begun;
    if (came != 0 || took > BusyPoll::kLongest) {
      busy_poll_.spun(took);
      return came != 0 ? came : wait_for_events(-1);
    }
    sched_yield();
  }
}

void EpollDriver::complete_skipped() {
  std::swap(skipped_, reporting_);
  for (const Skipped& sent : reporting_) {
    sent.op->skips_success = sent.op->pending = false;
    sent.op->owner->complete(*sent.op, {.result = sent.bytes});
  }
  reporting_.clear();
}

bool EpollDriver::dispatch(unsigned most) {
  if (!skipped_.empty()) complete_skipped();
  // Those that are cancelled meanwhile complete in the next turn.
  const size_t there = completed_.size();
  const size_t count = std::min<size_t>(there, most);
  for (size_t i = 0; i < count; ++i) {
    const Completed done = completed_[i];
    if (!done.outcome.more) done.op->skips_success = done.op->pending = false;
    done.op->owner->complete(*done.op, done.outcome);
  }
  completed_.erase(completed_.begin(), completed_.begin() + static_cast<ptrdiff_t>(count));
  return count < there;
}

}  // namespace virtproxy
