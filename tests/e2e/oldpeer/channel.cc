#include "channel.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "log.h"
#include "net.h"

namespace oldpeer {

bool Channel::Start() {
  if (IsListening()) {
    listener_ = Listen(place_, backlog_);
    if (listener_ < 0) Say(WithErrno("cannot listen for the channel on " + place_.address));
    return listener_ >= 0;
  }
  if (TryConnect() || habits_.reconnect) return true;
  Say(WithErrno("cannot open the channel " + place_.address));
  return false;
}

bool Channel::Accept() { return ComeUp(accept(listener_, nullptr, nullptr)); }

bool Channel::TryConnect() { return ComeUp(Open()); }

int Channel::Open() const {
  if (place_.name != "virtserial-open") return Dial(place_);
  const int fd = OpenDevice(place_, habits_.raw_tty);
  if (fd < 0 || !habits_.reconnect) return fd;
  // A device whose other end is not there reads as ended.
  pollfd entry{fd, POLLIN, 0};
  if (poll(&entry, 1, 0) == 1 && (entry.revents & (POLLHUP | POLLIN)) == POLLHUP) {
    close(fd);
    return -1;
  }
  return fd;
}

bool Channel::ComeUp(int fd) {
  if (fd < 0) return false;
  fd_ = fd;
  writer_->Adopt(fd);
  Say("channel up");
  return true;
}

bool Channel::Read(std::vector<Packet>* packets) {
  std::vector<char> chunk(read_size_);
  const ssize_t count = read(fd_, chunk.data(), chunk.size());
  if (count < 0 && (errno == EINTR || errno == EAGAIN)) return true;
  if (count <= 0) return false;
  partial_.append(chunk.data(), static_cast<size_t>(count));
  size_t at = 0;
  while (partial_.size() - at >= kPacketSize) {
    Packet& packet = packets->emplace_back();
    std::memcpy(packet.bytes().data(), partial_.data() + at, kPacketSize);
    at += habits_.resync && !packet.HasMagic() ? 1 : kPacketSize;
  }
  partial_.erase(0, at);
  return true;
}

void Channel::Lose() {
  if (IsListening() || habits_.reconnect) return Drop();
  defunct_ = true;
  Say("channel lost");
}

void Channel::Drop() {
  writer_->CloseNow(fd_);
  fd_ = -1;
  if (habits_.realign_on_reconnect) partial_.clear();
  Say("channel lost");
}

}  // namespace oldpeer
