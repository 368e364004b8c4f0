#include "transfer.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <span>

#include "net.h"

namespace virtproxy::traffic {
namespace {

// One thread, so one scratch buffer for each direction serves every stream.
std::array<char, kLargestWrite> read_buffer;
std::array<char, kLargestWrite> write_buffer;

Family FamilyOf(int fd) {
  sockaddr_storage name{};
  socklen_t length = sizeof(name);
  getsockname(fd, reinterpret_cast<sockaddr*>(&name), &length);
  return name.ss_family == AF_UNIX ? Family::kUnix : Family::kTcp;
}

}  // namespace

Transfer::Transfer(Loop* loop, Owner* owner, int fd, const Announcement& plan, bool connecting)
    : loop_(loop),
      owner_(owner),
      side_(Side::kClient),
      fd_(fd),
      connecting_(connecting),
      own_family_(FamilyOf(fd)),
      plan_(plan) {
  plan_.family = own_family_;
  prefix_out_.assign(reinterpret_cast<const char*>(&plan_), sizeof(plan_));
  Begin();
  interest_ = EPOLLIN | EPOLLOUT;
  loop_->Add(fd_, interest_, this);
}

Transfer::Transfer(Loop* loop, Owner* owner, int fd)
    : loop_(loop), owner_(owner), side_(Side::kService), fd_(fd), own_family_(FamilyOf(fd)) {
  last_progress_ = last_received_ = last_sent_ = Clock::now();
  interest_ = EPOLLIN;
  loop_->Add(fd_, interest_, this);
}

Transfer::~Transfer() {
  loop_->ClearTimer(this);
  if (fd_ >= 0) close(fd_);
}

// The plan is known: at once for a client, with the announcement for a service.
void Transfer::Begin() {
  introduced_or_client_ = true;
  sends_at_once_ = plan_.order == Order::kTogether || plan_.First(side_);
  expected_ = plan_.SentBy(Other(side_));
  send_total_ = send_limit_ = plan_.SentBy(side_);
  in_content_ = Content(Derive(plan_, Other(side_), "content"));
  out_content_ = Content(Derive(plan_, side_, "content"));
  write_rhythm_ = Rhythm(plan_.style, Derive(plan_, side_, "write"));
  read_rhythm_ = Rhythm(plan_.style, Derive(plan_, side_, "read"));
  kills_ = plan_.KilledBy(side_);
  if (kills_) {
    kill_ = DrawKillPoint(plan_, side_);
    send_limit_ = kill_.by_received ? send_total_ - 1 : kill_.offset;
  }
  last_progress_ = last_received_ = last_sent_ = Clock::now();
}

void Transfer::OnEvents(uint32_t events) {
  if (!Alive()) return;
  if (connecting_) {
    if ((events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) == 0) return;
    const int error = TakeError(fd_);
    if (error != 0) return HandleError(error, "connect");
    connecting_ = false;
    Progress();
  }
  if ((events & (EPOLLERR | EPOLLHUP)) != 0) read_again_ = write_again_ = TimePoint();
  Step();
}

void Transfer::OnTimer() {
  if (Alive()) Step();
}

void Transfer::Step() {
  Read();
  if (Alive()) Write();
  if (Alive()) MaybeKill();
  if (Alive()) MaybeFinish();
  if (Alive()) UpdateInterest();
}

uint64_t Transfer::ReadLimit() const {
  if (!introduced_) return PrefixSize() - prefix_in_.size();
  if (kills_ && kill_.by_received) return kill_.offset - received_;
  return read_buffer.size();
}

void Transfer::Read() {
  if (ended_ || Clock::now() < read_again_) return;
  for (int round = 0; round < 4; ++round) {
    const uint64_t limit = std::min<uint64_t>(ReadLimit(), read_buffer.size());
    if (limit == 0) return;
    const ssize_t n = recv(fd_, read_buffer.data(), limit, 0);
    if (n < 0) {
      if (errno == EAGAIN || errno == EINTR) return;
      return HandleError(errno, "recv");
    }
    if (n == 0) return HandleEnd();
    const auto size = static_cast<size_t>(n);
    if (!introduced_) {
      if (!TakePrefix(read_buffer.data(), size)) return;
      continue;
    }
    if (!TakePayload(read_buffer.data(), size)) return;
    const uint64_t pause = read_rhythm_.NextPause();
    if (pause != 0) {
      read_again_ = Clock::now() + std::chrono::milliseconds(pause);
      return;
    }
  }
}

// False when the stream has failed.
bool Transfer::TakePrefix(const char* data, size_t size) {
  prefix_in_.append(data, size);
  Progress();
  if (prefix_in_.size() < PrefixSize()) return true;
  if (side_ == Side::kService) {
    std::memcpy(&plan_, prefix_in_.data(), sizeof(plan_));
    if (!plan_.Valid()) {
      plan_ = Announcement();
      Fail(0, "the first bytes are not an announcement");
      return false;
    }
    other_family_ = plan_.family;
    Begin();
    Greeting greeting;
    greeting.stream = plan_.stream;
    greeting.family = static_cast<uint32_t>(own_family_);
    prefix_out_.assign(reinterpret_cast<const char*>(&greeting), sizeof(greeting));
  } else {
    Greeting greeting;
    std::memcpy(&greeting, prefix_in_.data(), sizeof(greeting));
    if (greeting.magic != Greeting::kMagic || greeting.stream != plan_.stream) {
      Fail(0, greeting.magic == Greeting::kMagic
                  ? "answered by stream " + std::to_string(greeting.stream)
                  : std::string("the first bytes are not a greeting"));
      return false;
    }
    other_family_ = static_cast<Family>(greeting.family);
    last_received_ = Clock::now();
  }
  introduced_ = true;
  owner_->OnIntroduced(this);
  return Alive();
}

bool Transfer::TakePayload(const char* data, size_t size) {
  const auto wrong = in_content_.FirstDifference(received_, std::span<const char>(data, size));
  if (wrong && received_ + *wrong < expected_) {
    Fail(received_ + *wrong, "wrong byte");
    return false;
  }
  if (received_ + size > expected_) {
    Fail(expected_, "bytes after the expected end");
    return false;
  }
  received_ += size;
  Progress();
  receive_gap_ms_ = std::max(receive_gap_ms_, Milliseconds(last_progress_ - last_received_));
  last_received_ = last_progress_;
  return true;
}

void Transfer::HandleEnd() {
  if (introduced_ && received_ == expected_) {
    ended_ = true;
    Progress();
    if (expected_ > 0) {
      receive_gap_ms_ = std::max(receive_gap_ms_, Milliseconds(last_progress_ - last_received_));
    }
    return;
  }
  if (plan_.KilledBy(Other(side_)) && CutIsRight()) return Finish(Outcome::kCut);
  Fail(received_, introduced_ ? "end of stream, but " + std::to_string(expected_) + " bytes are due"
                              : std::string("end of stream before the first answer"));
}

bool Transfer::CutIsRight() const {
  return own_family_ == Family::kUnix || other_family_ == Family::kUnix;
}

void Transfer::HandleError(int error, const char* during) {
  if (plan_.KilledBy(Other(side_)) && (error == ECONNRESET || error == EPIPE)) {
    Drain();
    if (Alive()) Finish(Outcome::kReset);
    return;
  }
  Fail(received_, std::string(during) + ": " + ErrorText(error));
}

// What had arrived before the reset must still be a right prefix.
void Transfer::Drain() {
  while (introduced_) {
    const ssize_t n = recv(fd_, read_buffer.data(), read_buffer.size(), 0);
    if (n <= 0 || !TakePayload(read_buffer.data(), static_cast<size_t>(n))) return;
  }
}

bool Transfer::FlushPrefix() {
  if (prefix_out_.empty()) return true;
  const ssize_t n = send(fd_, prefix_out_.data(), prefix_out_.size(), MSG_NOSIGNAL);
  if (n < 0) {
    if (errno != EAGAIN && errno != EINTR) HandleError(errno, "send");
    return false;
  }
  prefix_out_.erase(0, static_cast<size_t>(n));
  return prefix_out_.empty();
}

void Transfer::Write() {
  if (connecting_ || shut_ || Clock::now() < write_again_) return;
  if (!FlushPrefix() || !MaySend()) return;
  for (int round = 0; round < 8 && sent_ < send_limit_; ++round) {
    if (chunk_left_ == 0) chunk_left_ = write_rhythm_.NextSize();
    const uint64_t size = std::min({chunk_left_, send_limit_ - sent_, kLargestWrite});
    out_content_.Fill(sent_, std::span<char>(write_buffer.data(), size));
    const ssize_t n = send(fd_, write_buffer.data(), size, MSG_NOSIGNAL);
    if (n < 0) {
      if (errno == EAGAIN || errno == EINTR) return;
      return HandleError(errno, "send");
    }
    sent_ += static_cast<uint64_t>(n);
    chunk_left_ -= static_cast<uint64_t>(n);
    Progress();
    send_gap_ms_ = std::max(send_gap_ms_, Milliseconds(last_progress_ - last_sent_));
    last_sent_ = last_progress_;
    if (static_cast<uint64_t>(n) < size) return;
    const uint64_t pause = chunk_left_ == 0 ? write_rhythm_.NextPause() : 0;
    if (pause != 0) {
      write_again_ = Clock::now() + std::chrono::milliseconds(pause);
      return;
    }
  }
  if (sent_ == send_total_ && !kills_) {
    shutdown(fd_, SHUT_WR);  // An error here shows up again in the next recv.
    shut_ = true;
  }
}

void Transfer::MaybeKill() {
  if (!kills_ || !introduced_ || !prefix_out_.empty()) return;
  if ((kill_.by_received ? received_ : sent_) < kill_.offset) return;
  loop_->Remove(fd_);
  CloseHard(fd_);
  fd_ = -1;
  Finish(Outcome::kKilled);
}

void Transfer::MaybeFinish() {
  if (shut_ && ended_) Finish(Outcome::kComplete);
}

void Transfer::UpdateInterest() {
  const TimePoint now = Clock::now();
  const bool wants_write =
      connecting_ || !prefix_out_.empty() || (MaySend() && !shut_ && sent_ < send_limit_);
  uint32_t events = 0;
  std::optional<TimePoint> wake;
  if (!ended_ && ReadLimit() != 0) {
    if (read_again_ > now) {
      wake = read_again_;
    } else {
      events |= EPOLLIN;
    }
  }
  if (wants_write) {
    if (write_again_ > now) {
      wake = wake ? std::min(*wake, write_again_) : write_again_;
    } else {
      events |= EPOLLOUT;
    }
  } else if (MaySend() && !shut_ && !kills_) {
    wake = wake ? std::min(*wake, write_again_) : write_again_;  // Only the end is left to send.
  }
  if (events != interest_) {
    interest_ = events;
    loop_->Modify(fd_, events, this);
  }
  if (wake) {
    loop_->SetTimer(this, *wake);
  } else {
    loop_->ClearTimer(this);
  }
}

void Transfer::Progress() { last_progress_ = Clock::now(); }

void Transfer::Finish(Outcome outcome) {
  outcome_ = outcome;
  if (fd_ >= 0) {
    loop_->Remove(fd_);
    close(fd_);
    fd_ = -1;
  }
  loop_->ClearTimer(this);
  owner_->OnDone(this);
}

void Transfer::Fail(uint64_t offset, const std::string& what) {
  if (fd_ >= 0) {
    loop_->Remove(fd_);
    close(fd_);
    fd_ = -1;
  }
  loop_->ClearTimer(this);
  owner_->OnFailed(this, offset, what);
}

std::string Transfer::Describe() const {
  std::string text = "stream=" + std::to_string(plan_.stream) + " side=" + std::string(Name(side_));
  if (!introduced_) text += " not yet introduced";
  text += " sent=" + std::to_string(sent_) + "/" + std::to_string(send_total_) +
          " received=" + std::to_string(received_) + "/" + std::to_string(expected_);
  if (ended_) text += " end-received";
  if (shut_) text += " end-sent";
  return text;
}

}  // namespace virtproxy::traffic
