// What the reader, the writer and the session of a channel have to know of what it runs over.
//
// They ask for a property, never for a kind, so that another kind of channel is another row. The
// kind that the command line names (transport_kind.h) decides how a channel is set up; what was
// opened decides how it is read and written, because either kind of device may turn out to be a
// tty.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "core/wire/frame.h"
#include "uring/buffers/receive_pool.h"

namespace virtproxy {

// Of every kind: the reader's buffers are made for it, bytes.
inline constexpr uint32_t kLargestPayload = 256 * 1024;

struct TransportTraits {
  // The descriptor is a socket: recv(2), send(2) and splice(2) work on it, it may be registered
  // with the ring, and reading ends when the other end is gone. Otherwise it is a device, which may
  // also lose a wake-up.
  bool is_socket;
  // Reading tells when the other end is gone or was replaced. Where it does not, every frame has a
  // trailer that belongs to one session.
  bool reports_peer_loss;
  // Every byte arrives as it was sent. Where it may not, every frame has a checksum.
  bool preserves_bytes;
  // Reads 0 bytes while the other side is not open, does not report when it is opened, and polls as
  // hung up all that time.
  bool has_presence;
  // The time of a handshake depends on the speed of a line.
  bool has_line_speed;
  // Receive buffers keep room for the header and the trailer of a frame, see ReceivePool.
  bool frame_headroom;
  // Bytes that one read returns at most, if a full one means that more are there; else 0.
  size_t read_portion;
  // Bytes that one write takes at most, if several of them are made in a row; else 0.
  size_t write_portion;
  // Bytes of one batch: what a small message may wait behind.
  uint64_t max_batch;
  // A part of a batch with fewer bytes is copied, because a vector of its own costs more.
  size_t copy_below;
  // Payload of one frame, at most kLargestPayload, and what a stream sends before the next one has
  // its turn, bytes.
  uint32_t max_frame;
  uint32_t quantum;
  // What streams may be promised together, how many there may be, and the window of one, whatever
  // the options say.
  uint64_t max_memory;
  uint32_t max_streams;
  uint32_t max_window;
};

namespace transport_traits {

inline constexpr auto kAny64 = std::numeric_limits<uint64_t>::max();
inline constexpr auto kAny32 = std::numeric_limits<uint32_t>::max();

// Below 2 KiB a copy costs less than a vector of its own (measured with batches on one socket; the
// crossing lies between 1 and 8 KiB). Spliced payload gains from large frames.
inline constexpr TransportTraits kSocket{
    .is_socket = true,
    .reports_peer_loss = true,
    .preserves_bytes = true,
    .has_presence = false,
    .has_line_speed = false,
    .frame_headroom = false,
    .read_portion = 0,
    .write_portion = 0,
    .max_batch = 256 * 1024,
    .copy_below = 2048,
    .max_frame = kLargestPayload,
    .quantum = 64 * 1024,
    .max_memory = kAny64,
    .max_streams = kAny32,
    .max_window = kAny32,
};

// virtio-serial. virtio_console hands out one buffer of 4 KiB at a time and takes at most 32 KiB a
// write, where a vector is a write. A batch is several writes: between two batches the guest's
// processor would switch to the application and back. It is whole frames of whole buffers, since
// what is left of a larger one would put all that follows out of step. A frame fills one receive
// buffer, so that neither is cut for the other.
inline constexpr TransportTraits kPort{
    .is_socket = false,
    .reports_peer_loss = false,
    .preserves_bytes = true,
    .has_presence = true,
    .has_line_speed = false,
    .frame_headroom = true,
    .read_portion = 4096,
    .write_portion = 32 * 1024,
    .max_batch = 2 * (kHeaderSize + ReceivePool::kFramedBytes + kTrailerSize),
    .copy_below = 16 * 1024,
    .max_frame = ReceivePool::kFramedBytes,
    .quantum = 64 * 1024,
    .max_memory = kAny64,
    .max_streams = kAny32,
    .max_window = kAny32,
};

// A serial line carries about 10 bytes per millisecond: a frame, a window and the turns of the
// streams before a small message must not take seconds. A guest's tty keeps about 1.25 MiB for a
// daemon that is slow to read and drops the rest.
inline constexpr TransportTraits kTty{
    .is_socket = false,
    .reports_peer_loss = false,
    .preserves_bytes = false,
    .has_presence = false,
    .has_line_speed = true,
    .frame_headroom = false,
    .read_portion = 0,
    .write_portion = 0,
    .max_batch = 2048,
    .copy_below = std::numeric_limits<size_t>::max(),
    .max_frame = 1024,
    .quantum = 4 * 1024,
    .max_memory = 1024 * 1024,
    .max_streams = 1024,
    .max_window = 32 * 1024,
};

}  // namespace transport_traits

}  // namespace virtproxy
