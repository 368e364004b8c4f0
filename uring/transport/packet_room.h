// How many packets of protocol 1 a channel takes in one call, whole.
//
// Half a packet in a channel leaves a peer of 2010 deaf for good, and a process can be killed
// between any two calls. So no call may be able to end in the middle of a packet:
//
//   unix socket   takes what fits one socket buffer as a whole, or nothing
//   TCP           takes as much as its send buffer has room for, which is asked before
//   virtio port   takes one write of up to 32 KiB as a whole, or nothing
//   tty           takes a packet as a whole when a poll finds it writable: a pty makes a buffer for
//                 it then, a serial port has less than 256 bytes left to send
//
// What lies in a unix socket is also kept small: when a client aborts, the peer gives its number to
// the next one, which is then given all that was under way for the first. A batch of at most 15
// packets is planned when the socket is found writable. The socket then holds no more than a quarter
// of its buffer (23 packets by their bytes, 20 as the kernel counts its buffers), so that it never
// holds more than that quarter and one batch. An end of 2010 has 15 packets in its buffer.
#pragma once

#include <cstddef>

#include "uring/transport/transport_source.h"

namespace virtproxy {

class PacketRoom {
 public:
  void attach(int fd, const TransportTraits& traits);
  // Which protocol the next batch is of. True for protocol 1, and before there is any: a greeting
  // is a packet, too.
  void speak_packets(bool packets, bool up);
  bool packets() const { return packets_; }

  // Bytes that a batch of packets may have.
  size_t most_batch() const { return most_batch_; }
  // Whether it is known how much lies unread: in a unix socket whose buffer is small.
  bool knows_unread() const { return packets_ && shrunk_; }
  // Of such a socket: whether it takes a batch, of what was written before at most most_unread()
  // bytes being unread; and whether all of that was read.
  bool has_room() const;
  size_t most_unread() const { return quarter_; }
  bool is_drained() const;
  // Bytes that can be read.
  size_t arrived() const;

  // Bytes of the `left` of a batch to write now: whole packets, or the rest of one that was cut. 0
  // when there is no room; once a poll has found some, ask with `polled`.
  size_t next(size_t left, bool polled) const;

 private:
  size_t tcp_room() const;

  enum class Family { kOther, kUnix, kTcp };

  int fd_ = -1;
  bool asks_for_room_ = false;  // of a line, before each packet
  Family family_ = Family::kOther;
  bool packets_ = false;
  int send_buffer_ = 0;  // of a unix socket, as it was
  bool shrunk_ = false;
  size_t most_ = 0;  // bytes a call
  size_t most_batch_ = 0;
  size_t quarter_ = 0;  // of the send buffer: a socket with less in it is writable
};

}  // namespace virtproxy
