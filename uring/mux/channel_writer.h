// Writes a channel: one batch at a time, one request at a time.
//
// Heads and small payloads are copied side by side into the staging buffer. Large payloads are
// written from the buffers they were received in, with header and trailer beside them where there
// is room (receive_pool.h). A socket takes a batch in one sendmsg(2). A port makes one device write
// of each vector and takes at most 32 KiB each, so payloads up to that order are copied. All of a
// batch is copied for a tty, which is slow and takes little at a time, and where trailers cover the
// payload.
//
// Packets of protocol 1 are written in calls that take whole packets or nothing (packet_room.h). A
// batch is planned only when a unix socket has room for it, so that nothing is sent for a stream
// that ends meanwhile.
//
// A batch with payload in pipes is put together in one more pipe, headers and payload in turn, and
// spliced from there, most often in one system call: each write to a socket wakes its reader, and a
// header alone would wake it for nothing. The driver only polls for room.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <span>
#include <string>
#include <vector>

#include "core/protocol_selector.h"
#include "uring/buffers/receive_pool.h"
#include "uring/io/loop.h"
#include "uring/io/pipes.h"
#include "uring/mux/endpoint.h"
#include "uring/transport/packet_room.h"
#include "uring/transport/transport_source.h"

namespace virtproxy {

class ChannelWriter final : private Completion, private Timer::Owner {
 public:
  class Client {
   public:
    // The endpoint of which so many bytes are written. It exists while the stream has queued bytes.
    virtual Endpoint& endpoint_sending(StreamKey stream, uint32_t bytes) = 0;
    virtual void channel_failed(const std::string& reason) = 0;
    // A batch was written; there may be more.
    virtual void channel_written() = 0;
    // It was detached, and has become idle.
    virtual void channel_settled() = 0;

   protected:
    ~Client() = default;
  };

  ChannelWriter(Loop& loop, ProtocolSelector& selector, ReceivePool& pool, PipePool& pipes,
                Client* client);

  void attach(File file, const TransportTraits& traits);
  void detach();
  bool idle() const { return !op_.pending; }
  // Prepares for payload in pipes, until the transport is lost or trim() is called. False if there
  // is no pipe to put batches together in.
  bool prepare_pipes();
  // Releases the memory that is not needed while no stream is open.
  void trim();

  // For a device, at an interval: if a poll for room was pending at the last call too and there is
  // room, it is made anew, because a device may lose the wake-up. A port is not polled.
  void recheck();

  // Writes one batch of what the session has pending, unless the last batch is still being written.
  // With `may_skip_success`, nothing waits for the completion.
  void write_on(Events& events, bool may_skip_success);

 private:
  enum class State : uint8_t {
    kDetached,      // without a transport; op_ may not have completed yet
    kIdle,          // no batch
    kAwaitingRoom,  // op_ waits for room before a batch is planned
    kPolling,       // op_ waits for room for the rest of a batch
    kPausing,       // the same of a port, which cannot be polled for: retry_ tries again
    kWriting,       // op_ writes, or a call that does not wait is being made
  };

  void complete(Op& op, Outcome outcome) override;
  void expired(Timer& timer) override;

  void lay_out(const Batch& batch);
  void lay_out(const PlannedFrame& planned, std::span<const std::byte> head, Endpoint& endpoint);
  bool put_before(const OutSegment& segment, std::span<const std::byte> head);
  void copy(std::span<const std::byte> bytes);
  bool may_refer_to(const OutSegment& segment, size_t copy_below) const;
  void add_vector(const std::byte* data, size_t size);
  void submit(bool polled = false);
  void poll_for_room(State state);
  std::span<const std::byte> next_write() const;
  bool write_port();
  void write_packets(bool polled);
  ssize_t write_now(std::span<const std::byte> bytes);
  void wait_for_room();
  bool has_room();
  void watch_unread();
  void push();
  void advance(size_t bytes);
  bool assembled() const {
    return pipe_segment_at_ == pipe_segments_.size() && vector_at_ == vectors_.size();
  }
  ssize_t assemble();
  void batch_left();
  void release_buffers();
  void let_go();
  uint64_t batch_limit() const;

  Loop& loop_;
  ProtocolSelector& selector_;
  ReceivePool& pool_;
  PipePool& pipes_;
  Client* client_;
  Op op_;
  Timer retry_;   // a device that is full and cannot be polled for
  Timer unread_;  // to look again whether the peer has read everything
  Duration unread_interval_{};
  File file_;
  const TransportTraits* traits_ = nullptr;  // since attach()
  State state_ = State::kDetached;
  bool rechecked_ = false;      // the poll was pending at the last recheck() too
  bool skips_success_ = false;  // the request, see Driver::skip_success()

  PacketRoom room_;
  std::vector<std::byte> staging_;
  size_t staged_ = 0;
  std::vector<iovec> vectors_;
  size_t vector_at_ = 0;  // the first that is not written yet, to a device or to the assembly
  // What holds the memory of the vectors, beside the staging.
  std::vector<Buffer*> buffers_;
  std::vector<std::shared_ptr<const void>> owners_;
  msghdr message_{};
  std::vector<Endpoint*> laid_out_;

  // Bytes of a pipe, and the vectors that go before them.
  struct PipeSegment {
    size_t vectors;  // index of the first one that comes after
    Pipe* pipe;
    uint32_t bytes;
  };
  std::vector<PipeSegment> pipe_segments_;
  size_t pipe_segment_at_ = 0;  // the first that is not in the assembly yet
  Pipe* assembly_ = nullptr;
};

}  // namespace virtproxy
