// One application's socket and the stream it belongs to.
//
//   socket ── receive ──▶ outbound buffers ── take() ──▶ channel
//   socket ◀── send ───── slices of a read slab, or the rope ◀── deliver() ── channel
//
// Receiving is asked for only while the stream has credit and holds few buffers: what is received
// can always be sent to the peer. Sending first tries the bytes where they lie, in the slab that
// the channel was read into, without waiting (MSG_DONTWAIT: the kernel answers within the
// submission). What the socket does not take is copied to a rope, and the slab is free; the rope is
// sent with a request that waits. So the channel's reader never depends on a socket.
//
// Life: made with a descriptor, or dialing one; reset or closed by either side; then closing(),
// until no operation is pending and the channel destroys it.
#pragma once

#include <span>

#include "core/session.h"
#include "uring/dial.h"
#include "uring/loop.h"
#include "uring/read_slabs.h"
#include "uring/receive_pool.h"
#include "uring/rope.h"
#include "uring/slices.h"

namespace virtproxy {

class Channel;

class Connection final : private Completion, private Dial::Client {
 public:
  Connection(Channel& channel, StreamKey stream, std::string_view service);
  ~Connection();

  // An accepted client.
  void adopt(int fd);
  // A service to connect to; bytes that arrive for it meanwhile are kept.
  void dial(const Endpoint& endpoint, Duration timeout);

  // From the session.
  void deliver(std::span<const std::byte> bytes, ReadSlab* slab);
  void peer_ended();
  void credit_arrived() { receive_more(); }
  void abort();   // the stream was reset: so is the socket
  void finish();  // both directions are over
  // The descriptor of a client that nothing was read from yet, so that it can be given to another
  // stream; or -1. This connection is over then.
  int give_back();

  // From the channel's writer: the next `bytes` of what was received, in order, one span at a time.
  struct Part {
    std::span<const std::byte> bytes;
    Buffer* buffer;
  };
  Part take(uint32_t bytes);

  // At the end of a turn: sends what was delivered.
  void flush();
  // Buffers may be there again.
  void receive_more();

  bool closing() const { return closing_; }
  bool idle() const;
  bool dialing() const { return dial_ && dial_->running(); }
  StreamKey stream() const { return stream_; }
  std::string_view service() const { return service_; }
  // Which application it is, for the log.
  std::string describe() const;
  size_t held() const { return rope_.size(); }
  BufferSize receive_size() const { return receive_size_; }

  // Links in the channel's lists.
  bool flush_wanted = false;
  bool waits_for_buffer = false;

 private:
  void complete(Op& op, int result, uint32_t flags) override;
  void dialed(int fd) override;
  void dial_failed(Fault fault, const std::string& reason) override;
  void dial_settled() override;

  void on_received(int result, uint32_t flags);
  void on_readable(int result);
  void on_sent(int result);
  void on_hangup(int result);
  void queue(Buffer* buffer);
  void watch_for_hangup();
  void send_slices();
  void send_rope();
  void park_slices();
  void end_sending();
  void fail(Fault fault);
  void begin_closing();
  void drop_outbound();

  Channel& channel_;
  StreamKey stream_;
  std::string service_;
  File file_;
  std::unique_ptr<Dial> dial_;
  bool closing_ = false;
  bool is_unix_ = false;
  bool dialed_ = false;   // a service, not a client
  bool touched_ = false;  // something may have been read from it, or written to it

  // Socket to channel.
  Op receive_op_;
  bool polling_ = false;     // receive_op_ waits for readiness only (no provided buffers)
  bool expect_wait_ = true;  // the last receive emptied the socket
  bool input_ended_ = false;
  BufferSize receive_size_ = BufferSize::kSmall;
  Buffer* outbound_head_ = nullptr;
  Buffer* outbound_tail_ = nullptr;
  uint32_t outbound_buffers_ = 0;
  Op hangup_op_;
  bool hangup_seen_ = false;

  // Channel to socket.
  Op send_op_;
  bool sending_slices_ = false;
  SliceList slices_;
  Rope rope_;
  bool peer_ended_ = false;
  bool end_told_ = false;  // the socket's write side is shut
};

}  // namespace virtproxy
