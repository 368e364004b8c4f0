// What a stream ends in, and what that may see of its channel.
//
//   channel ── deliver(), peer_ended() ──▶ Endpoint ── consumed(), eof_delivered() ──▶ StreamHandle
//   channel ◀── take() ─────────────────── Endpoint ── queue(), end() ──────────────▶ StreamHandle
//
// The socket of an application is one Endpoint (uring/service/connection.h), and a part of this
// process may be another. A Service or an Opener makes them (service_registry.h).
//
// Ownership: the channel's StreamTable owns the StreamHandle of each stream, and that owns its
// Endpoint. An endpoint holds a reference to its handle from its construction on, and makes no call
// to it before start().
//
// Life of a stream, as its handle sees it:
//
//   kOpen ── over() ─────────────────────────▶ kEnded ── let_go() ──▶ kLetGo ── idle() ──▶ kSettled
//     └── its session is over ──▶ kDetached ── over() ──▲
//
// The table delays let_go() where many streams end at once, and destroys what is kSettled. After
// over(), and once detached, nothing that an endpoint reports reaches a session.
//
// The calls of Endpoint are made once for each event, batch or frame, never for each byte. All of
// them are made on the thread of the channel, and none may block.
#pragma once

#include <sys/types.h>

#include <cerrno>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "core/session.h"
#include "uring/base/list.h"
#include "uring/buffers/outbound_queue.h"
#include "uring/buffers/read_buffers.h"
#include "uring/buffers/receive_pool.h"
#include "uring/buffers/slices.h"
#include "uring/io/pipes.h"
#include "uring/mux/admission_queue.h"
#include "uring/mux/channel_context.h"
#include "uring/mux/stream_account.h"

namespace virtproxy {

class StreamTable;

class Endpoint {
 public:
  virtual ~Endpoint() = default;

  // The stream is open. Where the peer opened it, this end reaches what the service stands for, and
  // then calls accepted() or refuse().
  virtual void start() = 0;

  // --- from the peer --------------------------------------------------------------------------
  // `bytes` lie in `buffer`, which may be referenced for as long as they are needed. Each byte is
  // to be reported as consumed() once. All of them were granted by earlier reports.
  virtual void deliver(std::span<const std::byte> bytes, ReadBuffer* buffer) = 0;
  // No more bytes come; eof_delivered() once that was passed on.
  virtual void peer_ended() = 0;
  // The peer's application broke off: reset() once what it sent before was passed on.
  virtual void peer_broke_off() = 0;
  // Prepares to take so many bytes of payload from the channel's socket without their being read;
  // false where reading is better. splice_from() then moves at most `bytes`, reports them as
  // spliced(), and returns their number, 0 at the end of the socket, or a negative errno.
  virtual bool begin_splice(uint32_t /*bytes*/) { return false; }
  virtual ssize_t splice_from(int /*socket*/, uint32_t /*bytes*/) { return -ENOBUFS; }
  // Called after want_flush(): sends what was delivered in this turn. With `may_skip_success`,
  // nothing waits for the completion of that.
  virtual void flush(bool may_skip_success) = 0;

  // --- to the peer ----------------------------------------------------------------------------
  // There is credit again, or take() has taken some of what was queued.
  virtual void may_queue() = 0;
  // Called after wait_for_buffer(): a buffer of that size is free.
  virtual void buffer_came() {}
  // The next bytes of what was queued, in order: at least one, at most `bytes`, which is never more
  // than is queued.
  virtual OutSegment take(uint32_t bytes) = 0;

  // --- the end --------------------------------------------------------------------------------
  // The stream was reset by `fault`, or its session is over by it. Calls over(fault).
  virtual void abort(Fault fault) = 0;
  // Both directions are over. Calls over(Fault::kNone).
  virtual void finish() = 0;
  // True if nothing was read from its client or written to it, so that its opener may give it
  // another stream. The endpoint then calls over(Fault::kUpgraded), and has no client any more.
  virtual bool give_back() { return false; }
  // Called once after over(): cancels what is pending. Calls settled() if idle() becomes true
  // later.
  virtual void let_go() = 0;
  // Neither an operation of the kernel nor anything else refers to the endpoint.
  virtual bool idle() const = 0;

  // --- stats ----------------------------------------------------------------------------------
  // The descriptor of its application, for observers; -1 while there is none.
  virtual int fd() const { return -1; }
};

class StreamHandle final {
 public:
  enum class State : uint8_t { kOpen, kDetached, kEnded, kLetGo, kSettled };

  StreamHandle(StreamTable& table, ChannelContext& channel, StreamKey key, std::string_view service,
               StreamRole role, std::span<const std::byte> client)
      : table_(table),
        channel_(channel),
        key_(key),
        account_(channel.observers, channel.loop, channel.counters, key, service, role, client) {}
  StreamHandle(const StreamHandle&) = delete;
  StreamHandle& operator=(const StreamHandle&) = delete;

  std::string_view service() const { return account_.service(); }
  const std::string& channel() const { return channel_.label; }
  StreamRole role() const { return account_.role(); }
  Endpoint& endpoint() { return *endpoint_; }

  // --- the opening, where the peer opened the stream --------------------------------------------
  void accepted();
  // The service cannot be reached: resets the stream by `fault`, and reports the reason. The
  // endpoint calls over(fault) next.
  void refuse(Fault fault, const std::string& reason);

  // --- to the peer ----------------------------------------------------------------------------
  // Bytes that may be queued now. Zero asks for may_queue().
  uint64_t request_credit();
  // At most as many as there is credit for; the endpoint keeps them for take().
  void queue(uint64_t bytes) {
    session().queue(key_, bytes);
    account_.sent(bytes);
    want_write();
  }
  // No more bytes will be queued.
  void end() {
    session().end(key_);
    want_write();
  }
  // Prepares the channel for bytes that are queued in a pipe; false where it takes none.
  bool prepare_pipes();

  // --- from the peer --------------------------------------------------------------------------
  // `bytes` were passed on: the peer may send as many more.
  void consumed(uint64_t bytes) {
    session().consumed(key_, bytes);
    account_.received(bytes);
    want_write();
  }
  // The application does not take bytes at the moment, or takes them again.
  void stall() { account_.stall(StallReason::kApplication); }
  void unstall() { account_.unstall(StallReason::kApplication); }
  // True if consuming `bytes` would not trigger a CREDIT, so that it may be reported later.
  bool credit_unaffected_by(uint64_t bytes) { return session().credit_unaffected_by(key_, bytes); }
  void spliced(uint32_t bytes) { session().spliced(bytes); }
  void eof_delivered() {
    session().delivered(key_, channel_.events);
    want_write();
  }

  // --- breaking off, see core/session.h ---------------------------------------------------------
  void reset(Fault fault) {
    session().reset(key_, fault, channel_.events);
    want_write();
  }
  // False when the stream is over at once.
  bool reset_after_data() {
    want_write();
    return session().reset_after_data(key_, channel_.events);
  }
  bool delivers_before_reset() { return session().delivers_before_reset(key_); }
  void discard_input() { session().discard_input(key_); }

  // --- the end ----------------------------------------------------------------------------------
  bool is_over() const { return state_ != State::kOpen; }
  bool has_ended() const { return state_ >= State::kEnded; }
  // The endpoint has ended, by `fault` or because both directions ended in order. May call let_go()
  // at once.
  void over(Fault fault);
  // idle() may have become true.
  void settled();

  // --- the turn and its resources ---------------------------------------------------------------
  Loop& loop() { return channel_.loop; }
  ReceivePool& buffers() { return channel_.buffers; }
  SlicePool& slices() { return channel_.slices; }
  PipePool& pipes() { return channel_.pipes; }
  // The bytes that all endpoints of the channel keep because they could not be passed on at once.
  // Each endpoint adds and subtracts its own.
  uint64_t& held_bytes() { return channel_.held_bytes; }
  void want_write() { channel_.wakeup.wake(); }
  void want_flush();
  // Endpoints that wait for a receive buffer get one in the order in which they began to wait.
  bool waits_for_buffer() const { return buffer_link_.linked; }
  bool buffers_are_short(BufferSize size) const;
  void wait_for_buffer(BufferSize size);
  void stop_waiting();

 private:
  friend class StreamTable;

  Session& session() { return channel_.selector.session(); }

  StreamTable& table_;
  ChannelContext& channel_;
  const StreamKey key_;
  State state_ = State::kOpen;
  bool opening_ = false;  // start() was called for the peer, and neither accepted() nor refuse()
  bool flush_wanted_ = false;
  BufferSize awaited_size_ = BufferSize::kSmall;
  size_t place_ = 0;  // among those that were let go of
  ListLink<StreamHandle> buffer_link_;
  std::optional<WaitingClient> client_;  // of a stream that this end opened
  StreamAccount account_;
  std::unique_ptr<Endpoint> endpoint_;
};

}  // namespace virtproxy
