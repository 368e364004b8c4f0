// Packets on their way to the channel, and the faults committed there.

#ifndef VIRTPROXY_OLDPEER_SENDER_H_
#define VIRTPROXY_OLDPEER_SENDER_H_

#include <cstdint>

#include "channel.h"
#include "options.h"
#include "packet.h"
#include "writer.h"

namespace oldpeer {

class Sender {
 public:
  Sender(const Options& options, Channel* channel, Writer* writer)
      : faults_(options.faults), log_(options.log), channel_(channel), writer_(writer) {}

  // Returns after the whole packet was written (or queued). Without a channel it is lost.
  void Send(Packet packet);
  // Commits what shall be done once and is due; to be called when the channel came up, too.
  void CommitDueFaults();

 private:
  bool IsDue(const std::optional<int64_t>& after) const { return after && sent_ >= *after; }
  void Alter(Packet* packet);
  void Write(const void* data, size_t size);
  void Plain(const Packet& packet);
  void Tell(const std::string& text) const;

  Faults faults_;
  const bool log_;
  Channel* const channel_;
  Writer* const writer_;
  int64_t sent_ = 0;
  bool committed_ = false;
};

}  // namespace oldpeer

#endif  // VIRTPROXY_OLDPEER_SENDER_H_
