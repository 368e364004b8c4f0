// One end of a session of protocol version 2 (PROTOCOL.md), see session.h.
//
// Nothing is sent without credit, so a session never asks the driver to stop reading.
#pragma once

#include "core/flow/credit_pool.h"
#include "core/flow/inflight_limiter.h"
#include "core/flow/scheduler.h"
#include "core/peer_backoff.h"
#include "core/session.h"
#include "core/v2/handshake.h"
#include "core/v2/stream.h"
#include "core/v2/stream_ids.h"
#include "core/wire/frame.h"

namespace virtproxy {

class V2Session final : public Session {
 public:
  explicit V2Session(const SessionConfig& config);

  // --- the link -------------------------------------------------------------------------------
  // The features that the next transport needs, feature::… bits. Only while there is no transport.
  void want_features(uint64_t features);
  // Sends nothing before `now + backoff`, so that the driver can slow down a peer that misbehaves.
  void transport_up(Instant now, Duration backoff = {});
  void transport_down(Events& events);
  bool up() const override { return handshake_.state() == Handshake::State::kEstablished; }
  bool uses_trailers() const override { return trailer_ != TrailerKind::kNone; }

  // --- the handshake, for the protocol selector
  // --------------------------------------------------- The caller found this HELLO in what was
  // read while the session was not up.
  void on_hello(const Hello& hello, Instant now, Events& events);
  // The epoch in this end's HELLO.
  uint64_t epoch() const { return handshake_.epoch(); }
  // When the next HELLO is sent, while the session is not up.
  std::optional<Instant> next_hello_at() const { return handshake_.due_at(); }
  // The interval between unanswered HELLOs grows up to this.
  void set_longest_interval(Duration interval) { handshake_.set_longest_interval(interval); }
  // What looked like faults so far was caused by something else: the peer is not slowed down.
  void forgive(Instant now);
  // As input(), while the session is up.
  size_t input_established(std::span<const std::byte> bytes, Instant now, Events& events);

  // --- Session --------------------------------------------------------------------------------
  bool wants_input(Instant) override { return true; }
  size_t input(std::span<const std::byte> bytes, Instant now, Events& events) override;
  Arriving arriving() const override { return up() ? arriving_ : Arriving{}; }
  void spliced(uint32_t bytes) override;
  bool wants_to_write(Instant now) const override;
  const Batch& plan(uint64_t bytes, Instant now, Events& events) override;
  uint64_t trailer_for(std::span<const std::byte> frame) const override {
    return frame_trailer(trailer_, frame, send_key_);
  }
  bool trailer_covers_payload() const override { return trailer_ == TrailerKind::kChecksum; }
  // A peer that asks for small frames is at the end of a slow line.
  uint64_t most_batch() const override { return uint64_t{8} * send_frame_limit(); }
  uint32_t largest_payload() const override { return send_frame_limit(); }

  std::optional<StreamKey> open(std::string_view service, Priority priority,
                                std::span<const std::byte> metadata) override;
  void accepted(StreamKey) override {}
  uint64_t request_credit(StreamKey stream) override;
  void queue(StreamKey stream, uint64_t bytes) override;
  void end(StreamKey stream) override;
  void reset(StreamKey stream, Fault fault, Events& events) override;
  bool delivers_before_reset(StreamKey stream) override;
  void discard_input(StreamKey stream) override;
  bool reset_after_data(StreamKey stream, Events& events) override;
  void consumed(StreamKey stream, uint64_t bytes) override;
  bool credit_unaffected_by(StreamKey stream, uint64_t bytes) override;
  void delivered(StreamKey stream, Events& events) override;
  std::optional<uint32_t> number(StreamKey stream) override;
  void go_away() override;

  std::optional<Instant> deadline() const override;
  void tick(Instant now, Events& events) override;
  void probe() override {
    if (!up() || probing_) return;
    probing_ = ping_due_ = true;
  }
  bool awaits_probe() const override { return up() && probing_; }

  Stats stats() override;
  const Hello& peer() const { return handshake_.peer(); }
  const Slab<Stream>& streams() const { return streams_; }
  // After kDown by a fault of the peer: how long a driver that drops the peer waits before it takes
  // the next one. On a link that goes on the session waits by itself.
  Duration backoff() const { return backoff_.last(); }

 private:
  // v2/input.cc
  struct Step {
    size_t used = 0;  // 0: more bytes are needed
    Fault fault = Fault::kNone;
    std::optional<Hello> successor{};  // with kPeerRestarted: the HELLO of the new process
    bool answered = false;             // … and that it answers our probe
  };
  size_t input_waiting(std::span<const std::byte> bytes, Instant now, Events& events);
  Step step(std::span<const std::byte> bytes, Instant now, Events& events);
  Step step_hello(std::span<const std::byte> bytes, Instant now);
  bool count_payload(uint32_t bytes);
  void count_received(Stream& stream, uint64_t bytes);
  void end_grant(uint32_t slot);
  size_t take_payload(std::span<const std::byte> bytes, Events& events);
  Step step_unfinished(std::span<const std::byte> frame, Instant now);
  bool contains_ping(std::span<const std::byte> frame, size_t first);
  // The open stream that a frame is about: of the frames of the session, and of an OPEN, none.
  struct Subject {
    Stream* stream = nullptr;
    uint32_t local = IndexLink::kNone;
  };
  Fault check_frame(const FrameHeader& header, Subject& subject);
  Fault check_data(const FrameHeader& header, const Stream& stream) const;
  Fault dispatch(const FrameHeader& header, std::span<const std::byte> payload,
                 const Subject& subject, Instant now, Events& events);
  Fault on_open(const FrameHeader& header, std::span<const std::byte> payload, Events& events);
  void on_data(Stream& stream, StreamKey key, std::span<const std::byte> payload, Events& events);
  Fault on_end(const FrameHeader& header, uint32_t local, Events& events);
  Fault on_done(const FrameHeader& header, Stream& stream);
  void on_reset(uint32_t local, Fault fault, Events& events);
  Fault on_reset_at(const FrameHeader& header, uint32_t local, Events& events);
  Fault on_credit(const FrameHeader& header, uint32_t local, Events& events);

  // v2/output.cc
  uint32_t send_frame_limit() const;
  void put_hello(const Hello& hello);
  void put_frame(const FrameHeader& header, std::span<const std::byte> payload);
  void put_data_frames(uint64_t bytes, Events& events);
  void put_data(uint32_t slot, uint32_t size);
  void put_session_facts();
  bool hides_replacement() const;
  bool going_away_due() const;
  bool ack_due() const { return bytes_received_ - bytes_acknowledged_ >= ack_interval_; }
  bool data_may_go() const { return !scheduler_.empty() && inflight_.available() > 0; }
  void put_stream_facts(uint32_t slot, Events& events);
  void close_frame(StreamKey stream, uint32_t payload, bool has_trailer);

  // v2/session.cc
  void establish(Instant now, Events& events);
  void fail(const Step& step, Instant now, Events& events);
  void forget_streams();
  StreamKey add_stream(uint32_t number, bool ours, Priority priority, uint64_t send_limit);
  Stream* attached(StreamKey key);
  void schedule(uint32_t slot);
  void kill(uint32_t slot);
  static bool renews(const Stream& stream, uint64_t consumed);
  void grant(Stream& stream);
  void set_grant(Stream& stream, uint64_t limit);
  void drop_held(Stream& stream);
  void drop_queued(Stream& stream);
  void release_if_over(uint32_t slot, Events& events);
  void erase_stream(uint32_t slot);

  SessionConfig config_;
  Handshake handshake_;
  Slab<Stream> streams_;
  StreamIds ours_;     // numbers that we give out
  StreamIds theirs_;   // numbers that the peer gives out
  size_t live_ = 0;    // streams that are not dead: these own a promised window
  uint64_t held_ = 0;  // of these, sums of Stream::held() and Stream::queued
  uint64_t queued_ = 0;
  CreditPool credit_pool_;
  Scheduler<Stream> scheduler_;
  IndexList<Stream, &Stream::control_link> control_;

  // Of the present session.
  DirectionKey send_key_;
  DirectionKey receive_key_;
  TrailerKind trailer_ = TrailerKind::kNone;
  bool reliable_reset_ = false;
  uint64_t frames_sent_ = 0;
  uint64_t frames_received_ = 0;
  bool going_away_sent_ = false;
  bool peer_going_away_ = false;
  std::optional<uint64_t> pong_due_;
  bool ping_due_ = false;
  bool probing_ = false;  // a PONG is waited for
  InflightLimiter inflight_{0, 0};
  uint64_t bytes_received_ = 0;
  uint64_t bytes_acknowledged_ = 0;
  uint64_t ack_interval_ = 0;  // bytes between two ACKs of ours
  std::optional<Instant> ping_at_;
  bool uncounted_ = false;  // frames went out since the last PING

  Arriving arriving_;  // in sessions without trailers
  // Bytes of an unfinished frame that were searched already.
  size_t scanned_ = 0;  // … for a greeting
  size_t scanned_for_ping_ = 0;

  bool going_away_ = false;
  uint64_t sessions_ = 0;
  FaultBackoff backoff_;
  Batch batch_;
  uint32_t head_at_ = 0;  // where the heads of the next piece begin
};

}  // namespace virtproxy
