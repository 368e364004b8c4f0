// One application's socket and the stream it belongs to.
//
//   socket ── receive ──▶ outbound buffers ── take() ──▶ channel
//   socket ◀── send ───── slices of a read buffer, or the send queue ◀── deliver() ── channel
//   socket ── splice ───▶ pipe ── take(), splice ─▶ channel      bulk, see pipes.h
//   socket ◀── splice ─── pipes of the send queue ◀── splice_from() ── channel
//
// Receiving is asked for only while the stream has credit and holds few buffers: what is received
// can always be sent to the peer. Sending first tries the bytes where they lie, in the read buffer
// that the channel was read into, without waiting (MSG_DONTWAIT: the kernel answers within the
// submission). What the socket does not take is copied to the send queue, and the read buffer is
// free; the send queue is sent with a request that waits. So the channel's reader never depends on
// a socket.
//
// Life: made with a descriptor, or dialing one; reset or closed by either side; then closing(),
// until the channel has let_go() of it, no operation is pending and the channel destroys it. The
// channel delays let_go() where many close at once. A connection whose session has ended is
// detached() until it is its turn to be aborted.
//
// When one of the two applications breaks off, what it sent before is still owed to the other one
// (connection_break.cc):
//
//   ours     kHere: it takes nothing any more, but what it sent is still received, with credit;
//            kLeaving: all of that is queued, and the session resets the stream once it is written
//   theirs   kThere: what arrived is sent; the socket is reset once its kernel has all of it
//
// Either ends at the latest when nothing has moved for kLongestPause.
#pragma once

#include <optional>
#include <span>

#include "core/session.h"
#include "uring/base/list.h"
#include "uring/buffers/read_buffers.h"
#include "uring/buffers/receive_pool.h"
#include "uring/buffers/send_queue.h"
#include "uring/buffers/slices.h"
#include "uring/io/loop.h"
#include "uring/io/pipes.h"
#include "uring/mux/admission_queue.h"
#include "uring/mux/stream_account.h"
#include "uring/net/connector.h"

namespace virtproxy {

class Channel;

class Connection final : private Completion, private Connector::Client, private Timer::Owner {
 public:
  Connection(Channel& channel, StreamKey stream, std::string_view service, StreamRole role);
  ~Connection();

  // An accepted client.
  void admit(const AcceptedClient& client);
  // A service to connect to; bytes that arrive for it meanwhile are kept.
  void connect(const Address& address, Duration timeout);

  // From the session.
  void deliver(std::span<const std::byte> bytes, ReadBuffer* buffer);
  void peer_ended();
  void credit_arrived();
  void peer_broke_off();
  void abort(Fault fault);  // the stream was reset: so is the socket
  void finish();            // both directions are over
  // From the channel, once after closing(): cancels what is pending and closes the socket.
  void let_go();
  // Its session is over by `fault`: nothing of it reaches the next one. It is to be aborted.
  void detach(Fault fault) {
    detached_ = true;
    account_.close(fault);
    break_state_.reset();
  }
  // A client that nothing was read from yet, so that it can be given to another stream; or nothing.
  // This connection is over then.
  std::optional<AcceptedClient> give_back();

  // Whether so many bytes of payload are best moved from the channel to the socket by a pipe.
  bool can_splice(uint32_t bytes);
  // Moves up to `bytes` of payload that lie in the channel's socket, see SendQueue.
  ssize_t splice_from(int channel, uint32_t bytes);

  // From the channel's writer: the next `bytes` of what was received, in order, one part at a time:
  // a span of a buffer, or a piece of a pipe. The reference to either passes to the caller.
  struct OutSegment {
    std::span<const std::byte> bytes{};
    Buffer* buffer = nullptr;
    Pipe* pipe = nullptr;
    uint32_t piped = 0;
    uint32_t size() const { return piped + static_cast<uint32_t>(bytes.size()); }
  };
  OutSegment take(uint32_t bytes);

  // At the end of a turn: sends what was delivered; without a completion on success, where it can.
  void flush(bool may_skip_success);
  void receive_more();
  // It has to wait for a buffer.
  void buffers_are_short() { account_.stall(StallReason::kMemory); }
  // After wait_for_buffer(): it is this connection's turn.
  void buffer_came();

  bool closing() const { return closing_; }
  bool detached() const { return detached_; }
  bool idle() const;
  bool connecting() const { return connector_ && connector_->running(); }
  StreamKey stream() const { return stream_; }
  const std::string& service() const { return account_.service(); }
  StreamRole role() const { return account_.role(); }
  int fd() const { return file_.fd; }  // of the application's socket, -1 while there is none
  BufferSize receive_size() const { return receive_size_; }

  // Links in the channel's lists.
  bool flush_wanted = false;
  bool settled = false;  // closing and idle: it can be destroyed
  size_t place = 0;      // among those that are closing
  ListLink<Connection> buffer_link;

 private:
  // A stream that one of its applications broke off, until it is reset.
  enum class Break : uint8_t { kNone, kHere, kLeaving, kThere };

  void complete(Op& op, Outcome outcome) override;
  void connected(int fd) override;
  void connect_failed(Fault fault, const std::string& reason) override;
  void connector_settled() override;

  void adopt(int fd, Address::Kind kind);
  // It carries nothing any more: what it still completes leads to nothing.
  bool is_over() const { return closing_ || detached_; }
  uint64_t receivable();
  // Whether there is something to do once all that came is sent.
  bool wants_more_turns() const { return peer_ended_ || break_ == Break::kThere; }
  bool receives() const { return break_ == Break::kNone || break_ == Break::kHere; }
  bool sends() const { return break_ == Break::kNone || break_ == Break::kThere; }
  void receive(uint64_t credit);
  void on_received(Outcome outcome);
  void on_readable(int result);
  void on_sent(int result);
  void on_hangup(Outcome outcome);
  void on_end();
  void queue(Buffer* buffer);
  bool splice_out(uint64_t credit);
  void poll_hangup();
  void send_slices(bool may_skip_success);
  void send_vectors(iovec* vectors, size_t count, int flags);
  void skip_success(size_t bytes);
  void send_slices_now();
  void send_queued();
  void slices_sent(size_t bytes);
  void consumed(size_t bytes);
  void park_slices();
  void end_sending();
  // connection_break.cc
  void expired(Timer& timer) override;
  void send_failed(int error);
  void break_off();
  void begin_break(Break kind);
  void deliver_rest_from_now();
  void deliver_rest();
  void end_break();
  void note_movement();
  void drop_inbound();
  enum class End : uint8_t { kReset, kClose, kGivenBack };
  void begin_closing(End end, Fault fault);
  void drop_outbound();

  Channel& channel_;
  StreamAccount account_;
  StreamKey stream_;
  File file_;
  std::unique_ptr<Connector> connector_;
  std::optional<AcceptedClient> client_;  // that was admitted; its descriptor is file_.fd
  bool closing_ = false;
  End end_ = End::kReset;  // of the socket, once closing_
  bool detached_ = false;
  Address::Kind kind_ = Address::Kind::kTcp;
  Break break_ = Break::kNone;
  struct BreakState {
    Timer timer;
    Instant moved_at;      // when bytes moved last
    Duration interval{};   // until the socket is looked at again
    int unacknowledged{};  // bytes, when it was looked at last
  };
  std::unique_ptr<BreakState> break_state_;
  bool io_started_ = false;  // something may have been read from it, or written to it

  // Socket to channel.
  Op receive_op_;
  bool polling_ = false;     // receive_op_ waits for readiness only (no provided buffers)
  bool readable_ = false;    // a poll reported it, and nothing was spliced since
  bool poll_first_ = true;   // the last receive emptied the socket
  bool input_ended_ = false;
  BufferSize receive_size_ = BufferSize::kSmall;
  Buffer* outbound_head_ = nullptr;
  Buffer* outbound_tail_ = nullptr;
  uint32_t outbound_buffers_ = 0;
  Pipe* outbound_pipe_ = nullptr;  // what it holds comes after the buffers
  uint32_t outbound_piped_ = 0;    // bytes of it that the channel's writer has not taken
  unsigned full_in_row_ = 0;       // receives that filled a large buffer
  unsigned small_in_row_ = 0;      // splices that moved little
  bool splices_ = false;
  Op hangup_op_;

  // Channel to socket.
  enum class Sending : uint8_t { kSlices, kQueue, kNothing };  // nothing: it waits for room
  Op send_op_;
  Sending sending_ = Sending::kSlices;
  SliceList slices_;
  SendQueue send_queue_;
  bool peer_ended_ = false;
  bool end_told_ = false;  // the socket's write side is shut
};

}  // namespace virtproxy
