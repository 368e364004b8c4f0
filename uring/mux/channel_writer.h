// Writes a channel: one batch at a time, one request at a time.
//
// Heads and small payloads are copied side by side into the staging buffer, large payloads go from
// the buffers they were received in, with header and trailer beside them where there is room (see
// receive_pool.h). A socket takes a batch as one SENDMSG. A port issues one device write per vector
// and takes at most 32 KiB each, so there it pays to copy what is not larger than a few of them.
// All of a batch is copied for a tty, which is slow and takes little at a time, and where trailers
// are computed over the payload.
//
// Packets of protocol 1 are written in calls that take whole ones, or nothing (packet_room.h). What
// a unix socket has no room for is not planned yet, so that nothing is sent for a stream that ends
// meanwhile.
//
// A batch with payload in pipes is put together in one more pipe, headers and payload in turn, and
// leaves from there, most often in one system call: each write to a socket wakes its reader, and a
// header alone would wake it for nothing. The ring is asked only to wait for room.
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
    // The endpoint whose bytes go out; it exists as long as the stream has something queued.
    virtual Endpoint& endpoint_of(StreamKey stream) = 0;
    virtual void channel_failed(const std::string& reason) = 0;
    // A batch has left; there may be more to write.
    virtual void channel_written() = 0;
    // Detached, and idle from now on.
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
  // Gives back what is not needed while no stream is open.
  void trim();

  // Of a device, from time to time: a request that has waited for room since the last call is made
  // anew if there is room. A device may lose the wake-up. A port is not waited for, see complete().
  void recheck();

  // Writes what the session has to say, unless a batch is still on its way. With
  // `may_skip_success`, nobody waits for it to have left.
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
  void reference(std::span<const std::byte> bytes, Buffer* buffer);
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
  bool rechecked_ = false;      // the request was pending at the last recheck()
  bool skips_success_ = false;  // the request, see Driver::skip_success()

  PacketRoom room_;
  std::vector<std::byte> staging_;
  size_t staged_ = 0;
  std::vector<iovec> vectors_;
  size_t vector_at_ = 0;  // the first that is not written yet, to a device or to the assembly
  std::vector<Buffer*> buffers_;
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
