#include "tests/sim/kernel_ring.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "tests/sim/canaries.h"
#include "tests/sim/disk.h"
#include "tests/sim/process.h"
#include "tests/sim/socket.h"

namespace virtproxy::sim {

class KernelRing::Request final : public File::Waiter {
 public:
  Request(KernelRing& ring, uint64_t id, const Entry& entry, FileRef file)
      : sqe(entry), file_(std::move(file)), ring_(ring), id_(id), alive_(ring.alive_) {
    if (file_) file_->add_waiter(this);
  }
  ~Request() {
    if (file_) file_->remove_waiter(this);
  }

  void file_changed() override {
    if (scheduled_) return;
    scheduled_ = true;
    World::current().after({}, [ring = &ring_, id = id_, alive = std::weak_ptr(alive_)] {
      if (!alive.expired()) ring->retry(id);
    });
  }

  uint64_t id() const { return id_; }
  File* file() const { return file_.get(); }
  const FileRef& file_reference() const { return file_; }
  bool channel() const { return file_ && file_->carries_channel; }

  const Entry sqe;
  std::vector<iovec> vectors;  // what is left to send
  size_t sent = 0;
  uint32_t reported = 0;  // by a poll that goes on
  bool scheduled_ = false;

 private:
  FileRef file_;
  KernelRing& ring_;
  const uint64_t id_;
  std::shared_ptr<int> alive_;
};

KernelRing::KernelRing(Process& process, io_uring* ring, unsigned submissions, unsigned completions)
    : process_(process),
      ring_(ring),
      cq_size_(completions),
      submissions_(new io_uring_sqe[submissions]),
      indices_(new unsigned[submissions]),
      completions_(new io_uring_cqe[completions]) {
  *ring = {};
  ring->sq.khead = &submitted_;
  ring->sq.ktail = &sq_tail_;
  ring->sq.kflags = &sq_flags_;
  ring->sq.sqes = submissions_.get();
  ring->sq.array = indices_.get();
  ring->sq.ring_mask = submissions - 1;
  ring->sq.ring_entries = submissions;
  ring->cq.khead = &cq_head_;
  ring->cq.ktail = &cq_tail_;
  ring->cq.cqes = completions_.get();
  ring->cq.ring_mask = completions - 1;
  ring->cq.ring_entries = completions;
  ring->ring_fd = ring->enter_ring_fd = -1;
}

KernelRing::~KernelRing() = default;

int KernelRing::submit() {
  int count = 0;
  while (submitted_ != ring_->sq.sqe_tail) {
    const io_uring_sqe& entry = submissions_[submitted_++ & ring_->sq.ring_mask];
    start({entry.opcode, entry.flags, entry.ioprio, entry.fd, entry.addr, entry.off, entry.len,
           entry.msg_flags, entry.user_data, entry.buf_group});
    ++count;
  }
  return count;
}

int KernelRing::wait(bool for_completion) {
  if (submitted_ != ring_->sq.sqe_tail && World::current().happens(Mishap::kRingRefuses)) {
    asleep_ = false;
    return -EAGAIN;
  }
  submit();
  for (; !overflow_.empty() && cq_tail_ - cq_head_ < cq_size_; overflow_.pop_front()) {
    put(overflow_.front());
  }
  asleep_ =
      cq_tail_ == cq_head_ && for_completion && !World::current().happens(Mishap::kSpuriousWake);
  // The caller would not be back yet: to it, completions may be missing.
  const bool incomplete = asleep_ || !overflow_.empty();
  sq_flags_ = incomplete ? IORING_SQ_CQ_OVERFLOW : 0;
  return cq_tail_ == cq_head_ ? -EINTR : 0;
}

bool KernelRing::ready() const {
  return !asleep_ || cq_tail_ != cq_head_ || submitted_ != ring_->sq.sqe_tail;
}

unsigned KernelRing::peek(io_uring_cqe** entries, unsigned count) {
  const unsigned there = std::min(count, cq_tail_ - cq_head_);
  for (unsigned i = 0; i < there; ++i) {
    entries[i] = &completions_[(cq_head_ + i) & (cq_size_ - 1)];
  }
  return there;
}

int KernelRing::register_files(unsigned count) {
  files_.resize(count);
  return 0;
}

int KernelRing::update_file(unsigned index, int fd) {
  if (index >= files_.size()) return -EINVAL;
  World& world = World::current();
  FileRef before = std::move(files_[index]);
  if (before && world.happens(Mishap::kLateRelease)) {
    world.after(world.random().duration(milliseconds(1), seconds(1)), [before] {});
  }
  files_[index] = fd >= 0 ? process_.get(fd) : nullptr;
  return fd >= 0 && !files_[index] ? -EBADF : 1;
}

int KernelRing::register_buffers(const io_uring_buf_reg& registration) {
  auto& group = groups_[registration.bgid];
  if (group.ring != nullptr) return -EEXIST;
  group = {reinterpret_cast<io_uring_buf_ring*>(registration.ring_addr), registration.ring_entries,
           0};
  return 0;
}

int KernelRing::unregister_buffers(int group) { return groups_.erase(group) == 1 ? 0 : -ENOENT; }

void KernelRing::start(const Entry& entry) {
  World& world = World::current();
  if (entry.opcode == IORING_OP_ASYNC_CANCEL) {
    if (!dead_) cancel(entry.addr);
    return;
  }
  if (entry.opcode == IORING_OP_TIMEOUT) return set_timer(entry.user_data, entry.addr);
  if (entry.opcode == IORING_OP_TIMEOUT_REMOVE) {
    if (!timers_.contains(entry.addr)) return post(entry.user_data, -ENOENT, 0, nullptr);
    return set_timer(entry.addr, entry.off);
  }
  if (dead_) return push({entry.user_data, -ECANCELED, 0});
  FileRef file;
  if ((entry.flags & IOSQE_FIXED_FILE) != 0) {
    const auto index = static_cast<size_t>(entry.fd);
    if (index < files_.size()) file = files_[index];
  } else {
    file = process_.get(entry.fd);
  }
  if (!file) {
    world.count(Mishap::kClosedBefore);
    if ((entry.flags & IOSQE_CQE_SKIP_SUCCESS) != 0) return push({entry.user_data, -EBADF, 0});
    return post(entry.user_data, -EBADF, 0, nullptr);
  }
  auto request = std::make_shared<Request>(*this, ++started_, entry, std::move(file));
  if (entry.opcode == IORING_OP_SENDMSG) {
    const auto* message = reinterpret_cast<const msghdr*>(entry.addr);
    if (message->msg_iovlen > 1024) return post(entry.user_data, -EMSGSIZE, 0, request->file());
    request->vectors.assign(message->msg_iov, message->msg_iov + message->msg_iovlen);
  } else if (entry.opcode == IORING_OP_SEND || entry.opcode == IORING_OP_WRITE) {
    request->vectors.push_back({reinterpret_cast<void*>(entry.addr), entry.len});
  }
  requests_.emplace(request->id(), request);
  if (const auto error = injected_error(*request)) return finish(*request, {*error});
  const bool completes = (entry.flags & IOSQE_CQE_SKIP_SUCCESS) == 0;
  if (completes && world.canary_strikes(Canary::kLoseCompletion, 0.001)) {
    requests_.erase(request->id());
    return;
  }
  const bool poll_first = entry.opcode == IORING_OP_RECV &&
                          (entry.ioprio & IORING_RECVSEND_POLL_FIRST) != 0 &&
                          (request->file()->poll() & POLLIN) == 0;
  if (poll_first) return;
  if (const auto outcome = attempt(*request)) finish(*request, *outcome);
}

void KernelRing::set_timer(uint64_t user_data, uint64_t time) {
  const auto& at = *reinterpret_cast<const __kernel_timespec*>(time);
  const uint64_t number = timers_[user_data] = ++timers_set_;
  World::current().at(std::chrono::seconds(at.tv_sec) + std::chrono::nanoseconds(at.tv_nsec),
                      [this, user_data, number, alive = std::weak_ptr(alive_)] {
                        if (alive.expired()) return;
                        const auto found = timers_.find(user_data);
                        if (found == timers_.end() || found->second != number) return;
                        timers_.erase(found);
                        post(user_data, -ETIME, 0, nullptr);
                      });
}

// An operation that fails though nothing is wrong with its file.
std::optional<int> KernelRing::injected_error(const Request& request) {
  World& world = World::current();
  const bool sends = request.sqe.opcode == IORING_OP_SEND ||
                     request.sqe.opcode == IORING_OP_SENDMSG ||
                     request.sqe.opcode == IORING_OP_WRITE;
  // The kernel takes a descriptor before it looks whether anybody is there.
  if (request.sqe.opcode == IORING_OP_ACCEPT && world.happens(Mishap::kAcceptFails)) {
    static_cast<Socket*>(request.file())->note_failed_accept();
    return world.random().chance(0.5) ? -EMFILE : -ENFILE;
  }
  if (!receives(request) && !sends) return std::nullopt;
  return injected_driver_error(*request.file(), receives(request));
}

void KernelRing::retry(uint64_t id) {
  const auto found = requests_.find(id);
  if (found == requests_.end()) return;
  const auto request = found->second;
  request->scheduled_ = false;
  if (const auto outcome = attempt(*request)) finish(*request, *outcome);
}

// Of Canary::kBlockReader: whether it is a read of a channel beside a full socket of an
// application.
bool KernelRing::reader_is_blocked(const Request& request) const {
  if (World::current().canary() != Canary::kBlockReader || !request.channel()) return false;
  const auto* socket = dynamic_cast<const Socket*>(request.file());
  if (socket != nullptr && !socket->connected()) return false;
  const bool reads =
      request.sqe.opcode == IORING_OP_RECV || request.sqe.opcode == IORING_OP_READ ||
      (request.sqe.opcode == IORING_OP_POLL_ADD && (request.sqe.operation_flags & POLLIN) != 0);
  return reads && process_.find_socket([](const Socket& candidate) {
    return candidate.connected() && !candidate.carries_channel && candidate.room() == 0;
  });
}

std::optional<KernelRing::Outcome> KernelRing::attempt(Request& request) {
  if (reader_is_blocked(request)) return std::nullopt;
  switch (request.sqe.opcode) {
    case IORING_OP_RECV:
    case IORING_OP_READ:
    case IORING_OP_SEND:
    case IORING_OP_SENDMSG:
    case IORING_OP_WRITE:
    case IORING_OP_FSYNC:
      if (const auto* file = dynamic_cast<DiskFile*>(request.file())) {
        return use_disk(request, file->disk());
      }
      return receives(request) ? receive(request) : send(request);
    case IORING_OP_ACCEPT:
      return accept(request);
    case IORING_OP_POLL_ADD:
      return poll(request);
    default:
      World::current().fail("requests", "unknown opcode " + std::to_string(request.sqe.opcode));
  }
}

bool KernelRing::receives(const Request& request) {
  return request.sqe.opcode == IORING_OP_RECV || request.sqe.opcode == IORING_OP_READ;
}

KernelRing::Outcome KernelRing::use_disk(const Request& request, Disk& disk) {
  const std::span bytes(reinterpret_cast<std::byte*>(request.sqe.addr), request.sqe.len);
  const int64_t result = receives(request) ? disk.read(bytes, request.sqe.off)
                         : request.sqe.opcode == IORING_OP_WRITE
                             ? disk.write(bytes, request.sqe.off)
                             : disk.sync();
  return {static_cast<int>(result)};
}

std::optional<KernelRing::Outcome> KernelRing::receive(Request& request) {
  std::span<std::byte> to(reinterpret_cast<std::byte*>(request.sqe.addr), request.sqe.len);
  const io_uring_buf* buffer = nullptr;
  BufferGroup* group = nullptr;
  if ((request.sqe.flags & IOSQE_BUFFER_SELECT) != 0) {
    group = &groups_.at(request.sqe.buf_group);
    // Chosen before the kernel looks whether there is anything to receive.
    if (group->head == group->ring->tail) {
      World::current().count(Mishap::kNoBuffers);
      return Outcome{-ENOBUFS};
    }
    buffer = &group->ring->bufs[group->head & (group->entries - 1)];
    to = {reinterpret_cast<std::byte*>(buffer->addr), std::min(buffer->len, request.sqe.len)};
  }
  const int64_t result = request.file()->read(to);
  const bool waits = request.sqe.opcode == IORING_OP_RECV || request.file()->read_waits;
  if (result == -EAGAIN && waits) return std::nullopt;
  Outcome outcome{static_cast<int>(result)};
  if (buffer != nullptr && result > 0) {
    ++group->head;
    outcome.flags = IORING_CQE_F_BUFFER | (uint32_t{buffer->bid} << IORING_CQE_BUFFER_SHIFT);
  }
  return outcome;
}

std::optional<KernelRing::Outcome> KernelRing::send(Request& request) {
  const auto flags = request.sqe.opcode == IORING_OP_WRITE ? 0u : request.sqe.operation_flags;
  auto& vectors = request.vectors;
  if (request.sent == 0 && !vectors.empty()) misdirect(*request.file(), vectors.front());
  while (!vectors.empty()) {
    iovec& first = vectors.front();
    const auto result =
        request.file()->write({static_cast<const std::byte*>(first.iov_base), first.iov_len});
    if (result == -EAGAIN) {
      if ((flags & MSG_DONTWAIT) != 0 || request.sqe.opcode == IORING_OP_WRITE) break;
      if (request.sent > 0 && (flags & MSG_WAITALL) == 0) break;
      return std::nullopt;
    }
    if (result < 0) {
      return Outcome{request.sent > 0 ? static_cast<int>(request.sent) : static_cast<int>(result)};
    }
    const auto count = static_cast<size_t>(result);
    request.sent += count;
    first.iov_base = static_cast<std::byte*>(first.iov_base) + count;
    first.iov_len -= count;
    if (first.iov_len == 0) {
      vectors.erase(vectors.begin());
    } else if ((flags & MSG_WAITALL) == 0) {
      break;
    }
  }
  return Outcome{request.sent > 0 ? static_cast<int>(request.sent) : -EAGAIN};
}

std::optional<KernelRing::Outcome> KernelRing::accept(Request& request) {
  World& world = World::current();
  auto* listener = static_cast<Socket*>(request.file());
  if ((listener->poll() & POLLIN) == 0) return std::nullopt;
  if (world.happens(Mishap::kAcceptFails)) {
    listener->note_failed_accept();
    static constexpr std::array kErrors{-EMFILE, -ENFILE, -ENOMEM, -ECONNABORTED, -EINTR};
    return Outcome{kErrors[world.random().below(kErrors.size())]};
  }
  const auto socket = listener->accept();
  const int fd = process_.add(socket);
  if (fd < 0) return Outcome{-EMFILE};
  const bool multishot = (request.sqe.ioprio & IORING_ACCEPT_MULTISHOT) != 0;
  const bool more = multishot && !world.happens(Mishap::kInterrupted);
  if (more) request.file_changed();
  return Outcome{fd, more ? IORING_CQE_F_MORE : 0, more};
}

std::optional<KernelRing::Outcome> KernelRing::poll(Request& request) {
  const bool multi = (request.sqe.len & IORING_POLL_ADD_MULTI) != 0;
  const uint32_t wanted = request.sqe.operation_flags | POLLERR | POLLHUP;
  if (World::current().canary() == Canary::kEarlyPoll) {
    const auto* socket = dynamic_cast<Socket*>(request.file());
    if (socket != nullptr && socket->listening() && (socket->poll() & POLLIN) == 0) {
      return Outcome{POLLIN};
    }
  }
  const uint32_t events = request.file()->poll() & wanted;
  if (!multi) {
    if (events == 0) return std::nullopt;
    return Outcome{static_cast<int>(events)};
  }
  if ((events & ~request.reported) == 0) return std::nullopt;
  request.reported |= events;
  if (World::current().happens(Mishap::kPollEnds)) return Outcome{static_cast<int>(events)};
  return Outcome{static_cast<int>(events), IORING_CQE_F_MORE, true};
}

void KernelRing::cancel(uint64_t user_data) {
  World& world = World::current();
  for (const auto& [id, request] : requests_) {
    if (request->sqe.user_data != user_data) continue;
    const auto held = request;
    const bool accepts = request->sqe.opcode == IORING_OP_ACCEPT;
    const bool waits_for_room =
        (request->sqe.opcode == IORING_OP_SEND || request->sqe.opcode == IORING_OP_SENDMSG) &&
        (request->sqe.operation_flags & MSG_DONTWAIT) == 0;
    if (waits_for_room) {
      // The kernel may miss it, see SendMode.
      const auto outcome = attempt(*held);
      if (!outcome) world.fail("cancelled send", "it waits for room of a socket that is not shut");
      return finish(*held, *outcome);
    }
    if (accepts && !request->channel() && world.canary_strikes(Canary::kKeepListening, 0.3)) return;
    if (!accepts && !request->channel() && world.healed() &&
        world.canary_strikes(Canary::kKeepEnded, 0.05)) {
      requests_.erase(id);
      return;
    }
    if (world.canary_strikes(Canary::kKeepRequest, 0.05)) {
      const uint64_t kept = ++started_;
      requests_.emplace(kept, std::make_shared<Request>(*this, kept, Entry{}, nullptr));
    }
    return finish(*held, {held->sent > 0 ? static_cast<int>(held->sent) : -ECANCELED});
  }
}

void KernelRing::finish(Request& request, Outcome outcome) {
  const bool broken_off = outcome.result == -EPIPE || outcome.result == -ECONNRESET;
  const bool sends =
      request.sqe.opcode == IORING_OP_SEND || request.sqe.opcode == IORING_OP_SENDMSG;
  if (broken_off && sends && !request.channel() &&
      World::current().canary_strikes(Canary::kLeaveRest, 0.5)) {
    outcome.result = -EIO;
  }
  World::current().trace("done", process_.number(), request.sqe.opcode, request.file()->number,
                         outcome.result, outcome.flags);
  const auto file = request.file_reference();
  const bool skips_success = (request.sqe.flags & IOSQE_CQE_SKIP_SUCCESS) != 0;
  const uint64_t user_data = request.sqe.user_data;
  const bool success = request.vectors.empty();
  if (!outcome.more) requests_.erase(request.id());
  if (skips_success) {
    // Within the submission, or never.
    if (!success) push({user_data, outcome.result, outcome.flags});
    return;
  }
  post(user_data, outcome.result, outcome.flags, file.get());
}

void KernelRing::post(uint64_t user_data, int result, uint32_t flags, File* file) {
  World& world = World::current();
  Instant when = world.now();
  if (world.happens(Mishap::kLateCompletion)) {
    when += Duration(static_cast<Duration::rep>(world.random().magnitude(1'000, 20'000'000)));
  }
  if (file != nullptr) file->last_completion = when = std::max(when, file->last_completion);
  const Result entry{user_data, result, flags};
  const uint64_t order = ++posted_;
  const auto arrive = [this, entry, order] {
    if (order < latest_pushed_) World::current().count(Mishap::kOvertaking);
    latest_pushed_ = std::max(latest_pushed_, order);
    push(entry);
  };
  // A process that slept may have let the time of some pass that are still on their way.
  const auto due = file != nullptr ? file->completions_due : nullptr;
  if (when <= world.now() && (due == nullptr || *due == 0)) return arrive();
  if (due != nullptr) ++*due;
  world.at(when, [arrive, due, alive = std::weak_ptr(alive_)] {
    if (due != nullptr) --*due;
    if (!alive.expired()) arrive();
  });
}

void KernelRing::push(const Result& result) {
  if (cq_tail_ - cq_head_ == cq_size_) {
    overflow_.push_back(result);
  } else {
    put(result);
  }
}

void KernelRing::put(const Result& result) {
  io_uring_cqe& entry = completions_[cq_tail_++ & (cq_size_ - 1)];
  entry.user_data = result.user_data;
  entry.res = result.result;
  entry.flags = result.flags;
}

void KernelRing::kill() {
  dead_ = true;
  for (const auto& [id, request] : std::exchange(requests_, {})) {
    // Behind what happened to the same descriptor before.
    post(request->sqe.user_data, -ECANCELED, 0, request->file());
  }
  files_.clear();
}

}  // namespace virtproxy::sim
