#include "uring/io/io_uring_driver.h"

#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "core/assert.h"
#include "uring/base/anonymous_mapping.h"
#include "uring/base/clock.h"
#include "uring/io/enter.h"

namespace virtproxy {
namespace {

constexpr unsigned kSubmissionEntries = 1024;
constexpr unsigned kFewestCompletionEntries = 4096;
constexpr unsigned kMostCompletionEntries = 65536;  // IORING_MAX_CQ_ENTRIES
// Of channels. Those beyond it work by their descriptors.
constexpr unsigned kRegisteredFiles = 256;

// The kernel takes no larger table than this process may have descriptors.
unsigned most_registered_files() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return kRegisteredFiles;
  return static_cast<unsigned>(std::min<rlim_t>(limit.rlim_cur, kRegisteredFiles));
}

std::string advice_for(int error) {
  switch (error) {
    case EPERM:
      return "io_uring is forbidden here: set sysctl kernel.io_uring_disabled=0, or 1 and "
             "kernel.io_uring_group to the daemon's group, or allow io_uring_setup in the "
             "container's seccomp profile";
    case ENOSYS:
      return "this kernel has no io_uring: it needs Linux 5.19 or later";
    case ENOMEM:
      return "not enough locked memory for a ring: raise RLIMIT_MEMLOCK (ulimit -l, "
             "LimitMEMLOCK=), or use fewer --threads";
    case EMFILE:
    case ENFILE:
      return "no descriptor left for a ring: raise RLIMIT_NOFILE (ulimit -n, LimitNOFILE=)";
    default:
      return "io_uring cannot be set up: it needs Linux 5.19 or later";
  }
}

// The set-up flags from most to least wanted; each step gives up what older kernels lack.
unsigned setup_flags(const DriverFeatures& features) {
  unsigned flags = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_SUBMIT_ALL;
  if (features.single_issuer) flags |= IORING_SETUP_SINGLE_ISSUER;
  // The kernel says in memory that a completion can be collected, for those who look out for one.
  if (features.coop_taskrun) flags |= IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG;
  if (features.defer_taskrun && features.single_issuer) {
    flags |= IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG;
  }
  if (features.restrictions) flags |= IORING_SETUP_R_DISABLED;
  return flags;
}

// What the requests below ask for, and nothing else.
constexpr uint8_t kOperations[] = {
    IORING_OP_RECV,    IORING_OP_READ,           IORING_OP_WRITE,  IORING_OP_SEND,
    IORING_OP_SENDMSG, IORING_OP_POLL_ADD,       IORING_OP_ACCEPT, IORING_OP_ASYNC_CANCEL,
    IORING_OP_TIMEOUT, IORING_OP_TIMEOUT_REMOVE, IORING_OP_FSYNC,
};
constexpr uint8_t kRegistrations[] = {
    IORING_REGISTER_FILES_UPDATE,
    IORING_REGISTER_PBUF_RING,
    IORING_UNREGISTER_PBUF_RING,
    IORING_UNREGISTER_RING_FDS,
};
constexpr uint8_t kRequestFlags = IOSQE_FIXED_FILE | IOSQE_BUFFER_SELECT | IOSQE_CQE_SKIP_SUCCESS;

// liburing declares functions for both uses of this, but its shared library lacks them.
int register_with(int ring_fd, unsigned what, const void* argument, unsigned count) {
  return static_cast<int>(syscall(__NR_io_uring_register, ring_fd, what, argument, count));
}

// Whether a send that is to take all or not wait, and could take some, says how much. Since Linux
// 6.1, as the operation asked about is; before, the number was lost.
bool reports_partial_sends(io_uring& ring) {
  io_uring_probe* probe = io_uring_get_probe_ring(&ring);
  const bool reports =
      probe != nullptr && io_uring_opcode_supported(probe, IORING_OP_SENDMSG_ZC) != 0;
  if (probe != nullptr) io_uring_free_probe(probe);
  return reports;
}

}  // namespace

tl::expected<std::unique_ptr<IoUringDriver>, std::string> IoUringDriver::open(unsigned in_flight,
                                                            const DriverFeatures& wanted) {
  std::unique_ptr<IoUringDriver> ring(new IoUringDriver);
  DriverFeatures features = wanted;
  if (!features.single_issuer) features.defer_taskrun = false;
  unsigned completions =
      std::clamp(std::bit_ceil(4 * in_flight), kFewestCompletionEntries, kMostCompletionEntries);

  int result = 0;
  for (;;) {
    io_uring_params params{};
    params.flags = setup_flags(features);
    params.cq_entries = completions;
    result = io_uring_queue_init_params(kSubmissionEntries, &ring->ring_, &params);
    if (result == -ENOMEM && completions > kFewestCompletionEntries) {
      // Little lockable memory: a smaller ring spills into the kernel's own backlog when it
      // overflows.
      completions /= 2;
      ring->reduced_ = true;
      continue;
    }
    if (result != -EINVAL) break;
    const auto give_up = [&](bool DriverFeatures::*member, const char* name) {
      if (!(features.*member)) return false;
      features.*member = false;
      ring->refused_ += std::string(ring->refused_.empty() ? "" : ", ") + name;
      return true;
    };
    if (!give_up(&DriverFeatures::defer_taskrun, "defer-taskrun") &&
        !give_up(&DriverFeatures::single_issuer, "single-issuer") &&
        !give_up(&DriverFeatures::coop_taskrun, "coop-taskrun")) {
      break;
    }
  }
  if (result < 0) {
    return tl::unexpected(advice_for(-result) + " (" + std::strerror(-result) + ")");
  }
  ring->open_ = true;

  const auto refuse = [&](bool DriverFeatures::*member, const char* name) {
    features.*member = false;
    ring->refused_ += std::string(ring->refused_.empty() ? "" : ", ") + name;
  };
  if (features.registered_ring && io_uring_register_ring_fd(&ring->ring_) != 1) {
    refuse(&DriverFeatures::registered_ring, "registered-ring");
  }
  if (features.registered_files) {
    const unsigned files = most_registered_files();
    if (io_uring_register_files_sparse(&ring->ring_, files) == 0) {
      for (unsigned i = files; i-- > 0;) ring->free_files_.push_back(static_cast<int>(i));
    } else {
      refuse(&DriverFeatures::registered_files, "registered-files");
    }
  }
  if (features.skip_success && !reports_partial_sends(ring->ring_)) {
    refuse(&DriverFeatures::skip_success, "skip-success");
  }
  if (!features.skip_success) features.busy_poll = false;
  if (!prepare_entering(ring->ring_)) features.no_iowait = false;
  if (features.restrictions) {
    if (!ring->restrict_operations()) refuse(&DriverFeatures::restrictions, "restrictions");
    // Made disabled; this thread becomes the only one that may submit.
    if (register_with(ring->ring_.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0) != 0) {
      return tl::unexpected(advice_for(errno) + " (" + std::strerror(errno) + ")");
    }
  }
  ring->features_ = features;
  return ring;
}

bool IoUringDriver::restrict_operations() {
  std::vector<io_uring_restriction> allowed;
  for (const uint8_t operation : kOperations) {
    io_uring_restriction& rule = allowed.emplace_back();
    rule.opcode = IORING_RESTRICTION_SQE_OP;
    rule.sqe_op = operation;
  }
  for (const uint8_t registration : kRegistrations) {
    io_uring_restriction& rule = allowed.emplace_back();
    rule.opcode = IORING_RESTRICTION_REGISTER_OP;
    rule.register_op = registration;
  }
  io_uring_restriction& flags = allowed.emplace_back();
  flags.opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
  flags.sqe_flags = kRequestFlags;
  return register_with(ring_.ring_fd, IORING_REGISTER_RESTRICTIONS, allowed.data(),
                       static_cast<unsigned>(allowed.size())) == 0;
}

IoUringDriver::~IoUringDriver() {
  for (uint16_t group = 0; group < groups_.size(); ++group) close_group(group);
  if (open_) io_uring_queue_exit(&ring_);
}

io_uring_sqe* IoUringDriver::next() {
  io_uring_sqe* entry = io_uring_get_sqe(&ring_);
  return entry != nullptr ? entry : next_after_submitting();
}

io_uring_sqe* IoUringDriver::next_after_submitting() {
  for (;;) {
    const int result = io_uring_submit(&ring_);
    if (io_uring_sqe* entry = io_uring_get_sqe(&ring_)) {
      refusals_ = 0;
      return entry;
    }
    if (!endures(result)) {
      throw std::system_error(result < 0 ? -result : EAGAIN, std::generic_category(),
                              "the ring takes no more requests");
    }
  }
}

// After a submission that took nothing: whether another one may. Then a moment has passed.
bool IoUringDriver::endures(int error) {
  const bool passing = error >= 0 || error == -EINTR || error == -EBUSY || error == -EAGAIN;
  if (!passing || ++refusals_ > kMostRefusals) return false;
  ::poll(nullptr, 0, 1);
  return true;
}

io_uring_sqe* IoUringDriver::prepare(Op& op, File file) {
  VP_ASSERT(!op.pending);
  op.pending = true;
  io_uring_sqe* entry = next();
  op.place = ring_.sq.sqe_tail - 1;
  std::memset(entry, 0, sizeof *entry);
  entry->fd = file.index >= 0 ? file.index : file.fd;
  if (file.index >= 0) entry->flags = IOSQE_FIXED_FILE;
  io_uring_sqe_set_data(entry, &op);
  return entry;
}

void IoUringDriver::recv(Op& op, File file, void* to, size_t size, bool poll_first) {
  io_uring_sqe* entry = prepare(op, file);
  entry->opcode = IORING_OP_RECV;
  entry->addr = reinterpret_cast<uintptr_t>(to);
  entry->len = static_cast<uint32_t>(size);
  if (poll_first && features_.poll_first) entry->ioprio = IORING_RECVSEND_POLL_FIRST;
}

void IoUringDriver::recv_provided(Op& op, File file, uint16_t group, size_t size, bool poll_first) {
  io_uring_sqe* entry = prepare(op, file);
  entry->opcode = IORING_OP_RECV;
  entry->len = static_cast<uint32_t>(size);
  entry->flags |= IOSQE_BUFFER_SELECT;
  entry->buf_group = group;
  if (poll_first && features_.poll_first) entry->ioprio = IORING_RECVSEND_POLL_FIRST;
}

void IoUringDriver::read(Op& op, File file, void* to, size_t size) {
  io_uring_sqe* entry = prepare(op, file);
  entry->opcode = IORING_OP_READ;
  entry->off = static_cast<uint64_t>(-1);
  entry->addr = reinterpret_cast<uintptr_t>(to);
  entry->len = static_cast<uint32_t>(size);
}

void IoUringDriver::write(Op& op, File file, const void* from, size_t size) {
  io_uring_sqe* entry = prepare(op, file);
  entry->opcode = IORING_OP_WRITE;
  entry->off = static_cast<uint64_t>(-1);
  entry->addr = reinterpret_cast<uintptr_t>(from);
  entry->len = static_cast<uint32_t>(size);
}

void IoUringDriver::read_at(Op& op, File file, void* to, size_t size, uint64_t offset) {
  read(op, file, to, size);
  ring_.sq.sqes[op.place & ring_.sq.ring_mask].off = offset;
}

void IoUringDriver::write_at(Op& op, File file, const void* from, size_t size, uint64_t offset) {
  write(op, file, from, size);
  ring_.sq.sqes[op.place & ring_.sq.ring_mask].off = offset;
}

void IoUringDriver::sync_data(Op& op, File file) {
  io_uring_sqe* entry = prepare(op, file);
  entry->opcode = IORING_OP_FSYNC;
  entry->fsync_flags = IORING_FSYNC_DATASYNC;
}

void IoUringDriver::send(Op& op, File file, const void* from, size_t size, SendMode mode) {
  io_uring_sqe* entry = prepare(op, file);
  entry->opcode = IORING_OP_SEND;
  entry->addr = reinterpret_cast<uintptr_t>(from);
  entry->len = static_cast<uint32_t>(size);
  entry->msg_flags = static_cast<uint32_t>(message_flags(mode) | MSG_NOSIGNAL);
}

void IoUringDriver::sendmsg(Op& op, File file, const msghdr* message, SendMode mode) {
  io_uring_sqe* entry = prepare(op, file);
  entry->opcode = IORING_OP_SENDMSG;
  entry->addr = reinterpret_cast<uintptr_t>(message);
  entry->len = 1;
  entry->msg_flags = static_cast<uint32_t>(message_flags(mode) | MSG_NOSIGNAL);
}

void IoUringDriver::skip_success(Op& op) {
  if (!features_.skip_success) return;
  io_uring_sqe& entry = ring_.sq.sqes[op.place & ring_.sq.ring_mask];
  VP_ASSERT(op.pending && entry.user_data == reinterpret_cast<uintptr_t>(&op));
  uint64_t bytes = entry.len;
  if (entry.opcode == IORING_OP_SENDMSG) {
    const auto* message = reinterpret_cast<const msghdr*>(entry.addr);
    bytes = 0;
    for (size_t i = 0; i < message->msg_iovlen; ++i) bytes += message->msg_iov[i].iov_len;
  }
  // With MSG_WAITALL less than all of it is a failure, and failures complete as ever.
  entry.msg_flags |= MSG_DONTWAIT | MSG_WAITALL;
  entry.flags |= IOSQE_CQE_SKIP_SUCCESS;
  op.skips_success = true;
  skipped_.push_back({&op, static_cast<uint32_t>(bytes)});
}

void IoUringDriver::poll(Op& op, File file, uint32_t events) {
  io_uring_sqe* entry = prepare(op, file);
  entry->opcode = IORING_OP_POLL_ADD;
  entry->poll32_events = events;
}

void IoUringDriver::poll_hangup(Op& op, File file) {
  io_uring_sqe* entry = prepare(op, file);
  entry->opcode = IORING_OP_POLL_ADD;
  entry->len = IORING_POLL_ADD_MULTI;
}

void IoUringDriver::accept(Op& op, File file) {
  io_uring_sqe* entry = prepare(op, file);
  entry->opcode = IORING_OP_ACCEPT;
  entry->accept_flags = SOCK_NONBLOCK | SOCK_CLOEXEC;
  if (features_.multishot_accept) entry->ioprio = IORING_ACCEPT_MULTISHOT;
}

// Places come round again after 2^32 requests. The one that is queued at the op's place is the op's
// own if it carries its address: a pending op is not queued twice.
bool IoUringDriver::still_queued(const Op& op) const {
  if (ring_.sq.sqe_tail - op.place > io_uring_sq_ready(&ring_)) return false;
  const io_uring_sqe& queued = ring_.sq.sqes[op.place & ring_.sq.ring_mask];
  return queued.user_data == reinterpret_cast<uintptr_t>(&op);
}

void IoUringDriver::cancel(Op& op) {
  if (!op.pending) return;
  if (still_queued(op)) {
    io_uring_sqe& queued = ring_.sq.sqes[op.place & ring_.sq.ring_mask];
    queued.fd = -1;
    queued.flags &= static_cast<uint8_t>(~IOSQE_FIXED_FILE);
    return;
  }
  io_uring_sqe* entry = next();
  std::memset(entry, 0, sizeof *entry);
  entry->opcode = IORING_OP_ASYNC_CANCEL;
  entry->fd = -1;
  entry->addr = reinterpret_cast<uintptr_t>(&op);
}

File IoUringDriver::add_file(int fd, FileUse use) {
  // The ring would hold a device, which could not be opened again before it lets go, and which
  // cannot be shut down.
  if (use != FileUse::kChannel || free_files_.empty()) return {fd, -1};
  const int index = free_files_.back();
  if (io_uring_register_files_update(&ring_, static_cast<unsigned>(index), &fd, 1) != 1) {
    return {fd, -1};
  }
  free_files_.pop_back();
  return {fd, index};
}

void IoUringDriver::remove_file(File& file) {
  if (file.index < 0) return;
  int none = -1;
  io_uring_register_files_update(&ring_, static_cast<unsigned>(file.index), &none, 1);
  free_files_.push_back(file.index);
  file.index = -1;
}

bool IoUringDriver::open_group(uint16_t group, uint32_t entries) {
  const size_t bytes = entries * sizeof(io_uring_buf);
  auto* ring = reinterpret_cast<io_uring_buf_ring*>(map_anonymous(bytes));
  io_uring_buf_reg registration{};
  registration.ring_addr = reinterpret_cast<uintptr_t>(ring);
  registration.ring_entries = entries;
  registration.bgid = group;
  if (io_uring_register_buf_ring(&ring_, &registration, 0) != 0) {
    munmap(ring, bytes);
    return false;
  }
  io_uring_buf_ring_init(ring);
  if (groups_.size() <= group) groups_.resize(group + 1u);
  groups_[group] = {ring, entries};
  return true;
}

void IoUringDriver::close_group(uint16_t group) {
  if (group >= groups_.size() || groups_[group].ring == nullptr) return;
  const BufferGroup closed = std::exchange(groups_[group], {});
  io_uring_unregister_buf_ring(&ring_, group);
  munmap(closed.ring, closed.entries * sizeof(io_uring_buf));
}

void IoUringDriver::offer(uint16_t group, std::span<const OfferedBuffer> buffers) {
  const BufferGroup& to = groups_[group];
  const int mask = io_uring_buf_ring_mask(to.entries);
  int count = 0;
  for (const OfferedBuffer& buffer : buffers) {
    io_uring_buf_ring_add(to.ring, buffer.data, buffer.size, buffer.id, mask, count++);
  }
  io_uring_buf_ring_advance(to.ring, count);
}

void IoUringDriver::set_alarm(Instant at) {
  if (alarm_at_ && *alarm_at_ <= at) return;
  const auto seconds = std::chrono::floor<std::chrono::seconds>(at);
  alarm_time_.tv_sec = seconds.count();
  alarm_time_.tv_nsec = (at - seconds).count();
  io_uring_sqe* entry = next();
  std::memset(entry, 0, sizeof *entry);
  entry->fd = -1;
  if (alarm_at_) {
    // Where it goes off before it can be moved, that is early enough.
    entry->opcode = IORING_OP_TIMEOUT_REMOVE;
    entry->flags = IOSQE_CQE_SKIP_SUCCESS;
    entry->addr = reinterpret_cast<uintptr_t>(&alarm_at_);
    entry->off = reinterpret_cast<uintptr_t>(&alarm_time_);
    entry->timeout_flags = IORING_TIMEOUT_UPDATE | IORING_TIMEOUT_ABS;
  } else {
    entry->opcode = IORING_OP_TIMEOUT;
    entry->addr = reinterpret_cast<uintptr_t>(&alarm_time_);
    entry->len = 1;
    entry->timeout_flags = IORING_TIMEOUT_ABS;
    entry->user_data = reinterpret_cast<uintptr_t>(&alarm_at_);
  }
  alarm_at_ = at;
}

int IoUringDriver::wait(std::optional<Instant> deadline) {
  int result;
  if (deadline == kNow) {
    result = io_uring_submit_and_get_events(&ring_);
  } else {
    if (deadline) set_alarm(*deadline);
    const bool spin_first = features_.busy_poll && busy_poll_.worth_it(passed_one_message_on());
    result = spin_first && spin() ? io_uring_get_events(&ring_) : submit_and_wait();
  }
  if (result >= 0 || result == -EINTR) {
    refusals_ = 0;
    return 0;
  }
  // EBUSY and EAGAIN: the kernel wants its completions collected first, or lacks memory.
  if (result != -EBUSY && result != -EAGAIN) return result;
  if (io_uring_cq_ready(&ring_) > 0) return 0;
  return endures(result) ? 0 : result;
}

int IoUringDriver::submit_and_wait() {
  if (!features_.no_iowait) return io_uring_submit_and_wait(&ring_, 1);
  return enter_without_iowait(ring_, features_.registered_ring);
}

// The message, and the receive for the next one.
bool IoUringDriver::passed_one_message_on() const {
  return skipped_.size() == 1 && io_uring_sq_ready(&ring_) <= 2;
}

// Whether something came.
bool IoUringDriver::spin() {
  io_uring_submit(&ring_);
  const auto begun = monotonic_now();
  for (;;) {
    const bool came =
        io_uring_cq_ready(&ring_) > 0 ||
        (IO_URING_READ_ONCE(*ring_.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
    const Duration took = monotonic_now() - begun;
    if (came || took > BusyPoll::kLongest) {
      busy_poll_.spun(took);
      return came;
    }
    sched_yield();
  }
}

// The sends that skip their completion on success that the kernel has seen are done; all have
// succeeded but those that completed.
void IoUringDriver::report_skipped() {
  if (skipped_.empty() || !submitted()) return;
  // Completions the kernel has no room for may be about them.
  if ((IO_URING_READ_ONCE(*ring_.sq.kflags) & IORING_SQ_CQ_OVERFLOW) != 0) return;
  unsigned head = 0;
  io_uring_cqe* entry = nullptr;
  io_uring_for_each_cqe(&ring_, head, entry) {
    if (Op* op = op_of(*entry)) op->skips_success = false;
  }
  std::swap(skipped_, reporting_);
  for (const Skipped& sent : reporting_) {
    if (!sent.op->skips_success) continue;
    sent.op->skips_success = sent.op->pending = false;
    sent.op->owner->complete(*sent.op, {.result = static_cast<int>(sent.bytes)});
  }
  reporting_.clear();
}

// Null for the ring's own requests.
Op* IoUringDriver::op_of(const io_uring_cqe& entry) const {
  void* const data = io_uring_cqe_get_data(&entry);
  return data == &alarm_at_ ? nullptr : static_cast<Op*>(data);
}

bool IoUringDriver::dispatch(unsigned most) {
  report_skipped();
  // Written before it is read; zeroing 1 KiB would be paid on every turn.
  __attribute__((uninitialized)) io_uring_cqe* entries[128];
  // What can be collected meanwhile is left to wait(); peeking for it would call the kernel.
  for (unsigned handed_out = 0; io_uring_cq_ready(&ring_) > 0;) {
    if (handed_out >= most) return true;
    const unsigned count = io_uring_peek_batch_cqe(&ring_, entries, std::size(entries));
    handed_out += count;
    for (unsigned i = 0; i < count; ++i) {
      if (io_uring_cqe_get_data(entries[i]) == &alarm_at_) alarm_at_.reset();
      Op* op = op_of(*entries[i]);
      const int result = entries[i]->res;
      const uint32_t flags = entries[i]->flags;
      if (op == nullptr) continue;
      if (std::exchange(op->skips_success, false)) {
        std::erase_if(skipped_, [op](const Skipped& failed) { return failed.op == op; });
      }
      const bool more = (flags & IORING_CQE_F_MORE) != 0;
      if (!more) op->pending = false;
      const int buffer = (flags & IORING_CQE_F_BUFFER) != 0
                             ? static_cast<int>(flags >> IORING_CQE_BUFFER_SHIFT)
                             : Outcome::kNoBuffer;
      op->owner->complete(*op, {result, buffer, more});
    }
    io_uring_cq_advance(&ring_, count);
  }
  return false;
}

}  // namespace virtproxy
