// The endpoint of a stream that is the socket of an application.
//
//   socket ── receive ──▶ outbound queue ── take() ──▶ channel
//   socket ◀── send ───── slices of a read buffer, or the send queue ◀── deliver() ── channel
//   socket ── splice ───▶ its pipe ── take(), splice ─▶ channel  bulk, see pipes.h
//   socket ◀── splice ─── pipes of the send queue ◀── splice_from() ── channel
//
// It receives only while the stream has credit and few buffers are held, so what is received can
// always be sent to the peer. Bytes from the channel are sent from the read buffer they lie in,
// without waiting (SendMode::kNow: the kernel answers within the submission). What the socket does
// not take is copied to the send queue, which frees the read buffer; it is sent in the same way
// once a poll finds room. So the channel's reader never depends on a socket.
//
// When one of the two applications breaks off, what it sent before is still delivered to the other
// one (connection_break.cc):
//
//   ours     kHere: its socket takes nothing any more, but what it sent is still received, with
//            credit; kLeaving: all of that is queued, and the session resets the stream once it is
//            written
//   theirs   kThere: what arrived is sent; the socket is reset once its kernel has all of it
//
// Both end at the latest when no byte has moved for kLongestPause.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "uring/buffers/outbound_queue.h"
#include "uring/buffers/receive_pool.h"
#include "uring/buffers/send_queue.h"
#include "uring/buffers/slices.h"
#include "uring/io/loop.h"
#include "uring/io/pipes.h"
#include "uring/mux/endpoint.h"
#include "uring/net/address.h"
#include "uring/net/connector.h"
#include "uring/net/forward_spec.h"
#include "uring/net/socket_closer.h"

namespace virtproxy {

// Shared by the connections of one channel, and outlives them.
struct ConnectionContext {
  ResolverDriver& resolver_driver;
  SocketCloser& closer;
  Duration connect_timeout;  // where a service has none of its own
};

class Connection final : public Endpoint,
                         private Completion,
                         private Connector::Client,
                         private Timer::Owner {
 public:
  // For an accepted client, whose descriptor it owns from start() on. `clients` counts it until this
  // object is gone; one that is given back is counted on.
  Connection(ConnectionContext& context, StreamHandle& stream, int fd, Address::Kind kind,
             std::shared_ptr<size_t> clients);
  // For a service, which start() connects to. Bytes that arrive before it is connected are kept.
  Connection(ConnectionContext& context, StreamHandle& stream,
             std::shared_ptr<const ForwardSpec> service);
  ~Connection() override;

  void start() override;
  void deliver(std::span<const std::byte> bytes, ReadBuffer* buffer) override;
  void peer_ended() override;
  void peer_broke_off() override;
  bool begin_splice(uint32_t bytes) override;
  ssize_t splice_from(int socket, uint32_t bytes) override;
  void flush(bool may_skip_success) override;
  void may_queue() override { receive_more(); }
  void buffer_came() override;
  OutSegment take(uint32_t bytes) override;
  void abort(Fault fault) override;  // resets the socket
  void finish() override;            // closes it
  bool give_back() override;
  void let_go() override;
  bool idle() const override;
  int fd() const override { return file_.fd; }

 private:
  // Which application has broken off; see above.
  enum class Break : uint8_t { kNone, kHere, kLeaving, kThere };

  // From the socket to the channel, and from the channel to the socket. Each begins idle, goes from
  // there to another state and back; the last one is final.
  enum class Receive : uint8_t {
    kIdle,       // there is no credit, or enough is held
    kPolling,    // receive_op_ waits until the socket can be read
    kReceiving,  // receive_op_ receives into a buffer that the driver picks
    kSplicing,   // a pipe holds what was received, and has to be taken first
    kWaiting,    // in line for a buffer of the channel
    kEnded,      // the application has sent its end
  };
  enum class Send : uint8_t {
    kIdle,     // there is nothing, or it is not asked to leave yet
    kSlices,   // send_op_ sends from read buffers, without waiting
    kQueue,    // send_op_ sends what was copied, without waiting
    kPolling,  // send_op_ waits for room
    kShut,     // the write side of the socket is shut
  };
  void set(Receive next);
  void set(Send next);

  void complete(Op& op, Outcome outcome) override;
  void connected(int fd) override;
  void connect_failed(Fault fault, const std::string& reason) override;
  void connector_settled() override;

  void adopt(int fd);
  void receive_more();
  void wait_for_buffer();
  uint64_t request_credit();
  // The stream is over: completions have no effect.
  bool is_over() const { return stream_.is_over(); }
  bool connecting() const { return connector_ && connector_->running(); }
  // Whether bytes may be received, as far as this side is concerned. While a pipe is full, credit
  // is asked for nevertheless: without any, a hang-up is polled for.
  bool may_receive() const {
    return (receive_ == Receive::kIdle || receive_ == Receive::kSplicing) && file_.fd >= 0 &&
           receives() && !is_over();
  }
  // True if something has to be done after all bytes from the channel were sent.
  bool wants_more_turns() const { return peer_ended_ || break_ == Break::kThere; }
  bool receives() const { return break_ == Break::kNone || break_ == Break::kHere; }
  bool sends() const { return break_ == Break::kNone || break_ == Break::kThere; }
  // send_op_ is pending.
  bool is_sending() const { return send_ != Send::kIdle && send_ != Send::kShut; }
  bool input_ended() const { return receive_ == Receive::kEnded; }
  bool is_shut() const { return send_ == Send::kShut; }
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
  void send_vectors(iovec* vectors, size_t count);
  void skip_success(size_t bytes);
  void send_slices_now();
  void send_queued();
  void await_room();
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

  ConnectionContext& context_;
  StreamHandle& stream_;
  File file_;
  std::unique_ptr<Connector> connector_;
  const std::shared_ptr<const ForwardSpec> service_;  // to connect to; null for a client
  const std::shared_ptr<size_t> clients_;             // of its opener; null for a service
  const Address::Kind kind_;
  End end_ = End::kReset;  // of the socket, once the stream is over
  Break break_ = Break::kNone;
  struct BreakState {
    Timer timer;
    Instant moved_at;      // when bytes moved last
    Duration interval{};   // until the socket is looked at again
    int unacknowledged{};  // bytes, when it was looked at last
  };
  std::unique_ptr<BreakState> break_state_;
  bool io_started_ = false;  // something may have been read from the socket, or written to it

  // Socket to channel.
  Op receive_op_;
  Receive receive_ = Receive::kIdle;
  bool readable_ = false;   // a poll reported it, and nothing was spliced since
  bool poll_first_ = true;  // the last receive emptied the socket
  BufferSize receive_size_ = BufferSize::kSmall;
  OutboundQueue outbound_;
  unsigned full_in_row_ = 0;   // receives that filled a large buffer
  unsigned small_in_row_ = 0;  // splices that moved little
  bool splices_ = false;
  Op hangup_op_;

  // Channel to socket.
  Op send_op_;
  Send send_ = Send::kIdle;
  size_t asked_ = 0;  // bytes that the send in flight would send if there were room
  SliceList slices_;
  SendQueue send_queue_;
  bool peer_ended_ = false;  // no more bytes come from the channel
};

}  // namespace virtproxy
