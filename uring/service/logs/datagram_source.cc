#include "uring/service/logs/datagram_source.h"

#include <linux/sock_diag.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "uring/base/anonymous_mapping.h"

namespace virtproxy::logs {
namespace {

constexpr size_t kPage = 4096;
// Each slot begins so much further in its first page than the one before. Were they all at the
// beginning of a page, short lines would share a few sets of the caches.
constexpr size_t kStagger = 320;

size_t pages_of(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

}  // namespace

DatagramSource::DatagramSource(Loop& loop, LineTarget& target, uint16_t source, UniqueFd fd,
                               BoundPath path, SocketEnd end, bool counts_losses)
    : Input(loop, fd.get()),
      target_(target),
      source_(source),
      fd_(std::move(fd)),
      path_(std::move(path)),
      end_(end),
      counts_losses_(counts_losses),
      slot_size_(pages_of(target.max_line())),
      stride_(slot_size_ + kPage),
      slots_(map_anonymous(kMostMessages * stride_)),
      messages_(kMostMessages),
      vectors_(kMostMessages),
      controls_(kMostMessages * kControl) {
  // An earlier process had the socket, and counted its own.
  losses_ = losses_so_far();
  for (size_t i = 0; i < kMostMessages; ++i) {
    vectors_[i] = {slots_ + i * stride_ + i * kStagger % kPage, slot_size_};
    messages_[i].msg_hdr.msg_iov = &vectors_[i];
    messages_[i].msg_hdr.msg_iovlen = 1;
  }
}

DatagramSource::~DatagramSource() { munmap(slots_, kMostMessages * stride_); }

Input::Progress DatagramSource::read_some() {
  if (offered_ < received_) return offer_rest();
  const auto most = static_cast<unsigned>(large_ ? kFewMessages : kMostMessages);
  for (unsigned i = 0; i < most; ++i) {
    messages_[i].msg_hdr.msg_control = controls_.data() + i * kControl;
    messages_[i].msg_hdr.msg_controllen = kControl;
    messages_[i].msg_hdr.msg_flags = 0;
  }
  // With MSG_TRUNC the length is that of the datagram, however much of it fits.
  const int got = recvmmsg(fd_.get(), messages_.data(), most, MSG_DONTWAIT | MSG_TRUNC, nullptr);
  if (got < 0) {
    const int error = errno;
    count_losses();
    if (error == EAGAIN || error == EWOULDBLOCK) return Progress::kEmpty;
    // An error that an earlier send of the socket's peer left behind.
    return error == EINTR || error == ECONNREFUSED ? Progress::kMore : Progress::kOver;
  }
  received_ = static_cast<size_t>(got);
  offered_ = 0;
  count_losses();
  const auto progress = offer_rest();
  // Less than was asked for: nothing is left.
  if (progress == Progress::kMore && received_ < most) return Progress::kEmpty;
  return progress;
}

Input::Progress DatagramSource::offer_rest() {
  while (offered_ < received_) {
    const mmsghdr& message = messages_[offered_];
    const size_t size = std::min<size_t>(message.msg_len, slot_size_);
    if (!target_.offer(source_, line_of(message.msg_hdr, size), message.msg_len)) {
      return Progress::kBlocked;
    }
    ++offered_;
  }
  large_ = false;
  for (size_t i = 0; i < received_; ++i) {
    if (messages_[i].msg_len <= kLarge) continue;
    large_ = true;
    madvise(slots_ + i * stride_, stride_, MADV_DONTNEED);
  }
  return Progress::kMore;
}

Line DatagramSource::line_of(const msghdr& message, size_t size) const {
  Line line;
  line.bytes = {static_cast<const std::byte*>(message.msg_iov->iov_base), size};
  auto* const header = const_cast<msghdr*>(&message);
  for (cmsghdr* part = CMSG_FIRSTHDR(header); part != nullptr; part = CMSG_NXTHDR(header, part)) {
    if (part->cmsg_level != SOL_SOCKET) continue;
    if (part->cmsg_type == SCM_TIMESTAMPNS) {
      timespec time{};
      std::memcpy(&time, CMSG_DATA(part), sizeof time);
      line.time =
          static_cast<UnixTime>(time.tv_sec) * 1'000'000'000 + static_cast<UnixTime>(time.tv_nsec);
    } else if (part->cmsg_type == SCM_CREDENTIALS) {
      ucred who{};
      std::memcpy(&who, CMSG_DATA(part), sizeof who);
      line.credentials = Credentials{static_cast<uint32_t>(who.pid), who.uid, who.gid};
    }
  }
  if (line.time == 0) line.time = target_.wall();
  return line;
}

uint32_t DatagramSource::losses_so_far() const {
  uint32_t info[SK_MEMINFO_VARS] = {};
  socklen_t size = sizeof info;
  if (getsockopt(fd_.get(), SOL_SOCKET, SO_MEMINFO, info, &size) != 0) return losses_;
  return size < (SK_MEMINFO_DROPS + 1) * sizeof info[0] ? losses_ : info[SK_MEMINFO_DROPS];
}

void DatagramSource::count_losses() {
  if (!counts_losses_) return;
  const uint32_t losses = losses_so_far() - losses_;
  losses_ += losses;
  if (losses > 0) target_.lost_by_kernel(source_, losses);
}

// A unix socket refuses datagrams from now on, and those in its queue stay readable: a sender whose
// datagram was taken knows that it is read. Without this, what is sent between the last read and the
// close would be lost. UDP promises nothing of that kind. A socket that is left to the next process
// must not be shut down: it reads the rest.
void DatagramSource::on_drain() {
  if (end_ == SocketEnd::kClosed) (void)shutdown(fd_.get(), SHUT_RD);
}

// What was received and not taken is offered once more: a source that blocks does not any more.
void DatagramSource::on_over() {
  if (offered_ < received_) offer_rest();
  count_losses();
  path_.remove();
  fd_.reset();
}

}  // namespace virtproxy::logs
