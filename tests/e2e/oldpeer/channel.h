// The channel: comes up, delivers whole packets, is lost.

#ifndef VIRTPROXY_OLDPEER_CHANNEL_H_
#define VIRTPROXY_OLDPEER_CHANNEL_H_

#include <cstddef>
#include <string>
#include <vector>

#include "options.h"
#include "packet.h"
#include "writer.h"

namespace oldpeer {

class Channel {
 public:
  // Takes its place and habits from the options.
  Channel(const Options& options, Writer* writer)
      : place_(options.channels.front()),
        habits_(options.habits),
        read_size_(static_cast<size_t>(options.read_size)),
        backlog_(static_cast<int>(options.backlog)),
        writer_(writer) {}

  // Listens, or connects; false with a line in the log when that failed and is not tried again.
  bool Start();

  bool up() const { return fd_ >= 0 && !defunct_; }
  // Where to write; also while the channel is defunct.
  int fd() const { return fd_; }
  // Where to accept the next channel while there is none, or -1.
  int listener() const { return up() ? -1 : listener_; }
  // Whether TryConnect is due from time to time.
  bool connecting() const { return fd_ < 0 && habits_.reconnect && listener_ < 0; }

  // Both return whether the channel has come up.
  bool Accept();
  bool TryConnect();

  // Reads once; adds the packets that are whole now. False at the end of the channel.
  bool Read(std::vector<Packet>* packets);
  // After its end. What the original keeps of half a packet stays; a channel that was connected is
  // defunct: not read any more, and still written to, which is what SIGPIPE comes from.
  void Lose();
  // Closes it in any case.
  void Drop();

 private:
  bool IsListening() const { return place_.name.ends_with("-listen"); }
  int Open() const;
  bool ComeUp(int fd);

  const Place place_;
  const Habits habits_;
  const size_t read_size_;
  const int backlog_;
  Writer* const writer_;
  int listener_ = -1;
  int fd_ = -1;
  bool defunct_ = false;
  std::string partial_;
};

}  // namespace oldpeer

#endif  // VIRTPROXY_OLDPEER_CHANNEL_H_
