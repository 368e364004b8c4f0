// One end of a session of version 1, the protocol of 2010, see session.h. PROTOCOL.md, chapter 18,
// specifies what an end does where that protocol leaves it open.
//
// There is no credit: what the peer sends arrives, whether the application keeps up or not. A
// stream may hold `hold` bytes for a slow socket, less where many streams do. Beyond that
// wants_input() is false and the channel is not read: it moves at the pace of that socket, as
// between two ends of 2010. A stream whose socket takes nothing for stall_timeout, while other
// streams wait for the channel, is closed. Where no other stream is known, the channel is read once
// each stall_timeout, in case a client of the peer waits behind the data. Writing never depends on
// any of this, so two ends cannot wait for each other.
//
// There is no half-close: CLOSE ends both directions. An application that has sent its last byte
// may be waiting for an answer, so CLOSE is held back while packets of the peer still come (see
// finish_input).
//
// Numbers are drawn from one counter for clients and servers, far above those that a peer of 2010
// uses. So none of ours is used twice, and none is mistaken for one of the peer's. A number from
// the wire is looked up; one that is not in use has no effect.
#pragma once

#include <deque>

#include "core/flow/scheduler.h"
#include "core/session.h"
#include "core/v1/number_table.h"
#include "core/v1/stream.h"
#include "core/v1/unread_numbers.h"
#include "core/wire/hello.h"
#include "core/wire/v1_packet.h"

namespace virtproxy {

class V1Session final : public Session {
 public:
  // Streams that end in one call at most, where a peer can make many end at once.
  static constexpr unsigned kMostEndsAtOnce = 64;
  static constexpr int32_t kFirstNumber = 1'000'000;
  static constexpr int32_t kNumbers = 1 << 30;
  // How long an application that has ended its side and sent last gets for the answer. Each packet
  // of the answer renews that time.
  static constexpr Duration kAnswerTime = std::chrono::seconds(3);
  // The same for an application that has been answered: it has probably closed altogether, but the
  // other one may be in the middle of something.
  static constexpr Duration kQuietTime = std::chrono::milliseconds(100);

  // How long a client may take to leave by itself once its service has ended, and after how many
  // clients that did not this is not expected any more.
  static constexpr Duration kLeaveTime = std::chrono::milliseconds(10);
  static constexpr unsigned kLeavesExpected = 8;

  explicit V1Session(const SessionConfig& config);

  // The session is up at once: version 1 has no handshake.
  void begin(Events& events);
  // Ends the session, whether its transport is lost or not.
  void finish(Fault fault, Events& events);

  bool up() const override { return up_; }
  bool uses_trailers() const override { return false; }

  // input() stops behind a HELLO of version 2; this returns it, once.
  std::optional<Hello> take_hello() { return std::exchange(hello_, std::nullopt); }

  bool wants_input(Instant) override { return over_.empty() || peek_; }
  size_t input(std::span<const std::byte> bytes, Instant now, Events& events) override;
  bool wants_to_write(Instant now) const override;
  const Batch& plan(uint64_t bytes, Instant now, Events& events) override;
  uint64_t trailer_for(std::span<const std::byte>) const override { return 0; }
  bool trailer_covers_payload() const override { return false; }
  uint32_t largest_payload() const override { return kV1MostData; }
  uint64_t most_batch() const override { return UINT64_MAX; }
  void on_unread(uint64_t most, uint64_t arrived) override { unread_.on_unread(most, arrived); }
  bool waits_for_unread() const override { return up_ && unread_.waiting(); }

  std::optional<StreamKey> open(std::string_view service, Priority priority,
                                std::span<const std::byte> metadata) override;
  void accepted(StreamKey stream) override;
  uint64_t request_credit(StreamKey stream) override;
  void queue(StreamKey stream, uint64_t bytes) override;
  void end(StreamKey stream) override;
  void reset(StreamKey stream, Fault fault, Events& events) override;
  bool delivers_before_reset(StreamKey stream) override;
  void discard_input(StreamKey stream) override;
  bool reset_after_data(StreamKey stream, Events& events) override;
  void consumed(StreamKey stream, uint64_t bytes) override;
  void delivered(StreamKey stream, Events& events) override;
  void go_away() override { going_away_ = true; }

  std::optional<Instant> deadline() const override;
  void tick(Instant now, Events& events) override;
  bool behind(Instant now) const override;

  Stats stats() override;

 private:
  using State = V1Stream::State;
  using Wait = V1Stream::Wait;
  using WaitList = IndexList<V1Stream, &V1Stream::wait_link>;

  // v1/input.cc
  void on_packet(std::span<const std::byte> packet, Instant now, Events& events);
  void on_control(const V1Head& head, const std::byte* packet, Instant now, Events& events);
  void on_init(int32_t client, const std::byte* packet, Instant now, Events& events);
  void on_ack(int32_t client, int32_t server, Instant now, Events& events);
  void on_close(const V1Head& head, Instant now, Events& events);
  void on_data(const V1Head& head, std::span<const std::byte> packet, Instant now, Events& events);
  void on_boundary_found(Instant now, Events& events);
  V1Stream* named_by(const V1Head& head, uint32_t& slot);
  void close_earlier_bearer(int32_t number, Instant now, Events& events);
  void close_stray(int32_t server, Events& events);
  void note_closed(int32_t server);
  void inherit_numbers(V1Stream& stream, uint32_t slot, const V1Stream& earlier);

  // v1/output.cc
  std::byte* put_head(size_t size);
  void put_control(V1Message message, int32_t client, int32_t server);
  void put_stream_facts(uint32_t slot, Instant now, Events& events);
  void put_data_packets(uint64_t bytes, Instant now, Events& events);
  void put_data(uint32_t slot, uint32_t size);
  void close_frame(StreamKey stream, uint32_t payload);
  void finish_input(uint32_t slot, Instant now, Events& events);

  // v1/session.cc
  void forget_streams();
  int32_t draw_number();
  V1Stream* find_ours(int32_t number, bool opener, uint32_t& slot);
  StreamKey add_stream(bool opener, Priority priority);
  void schedule(uint32_t slot);
  void set_wait(uint32_t slot, Wait wait, Instant until);
  void clear_wait(uint32_t slot);
  WaitList& list_of(Wait wait) { return waits_[static_cast<size_t>(wait)]; }
  bool may_answer() const;
  void push_close(int32_t client, int32_t server);
  void withdraw_close(int32_t number);
  void answer_close(int32_t client, int32_t server, Events& events);
  void say_close(const V1Stream& stream);
  void detach(uint32_t slot);
  void close_stream(uint32_t slot, Events& events);
  void abort_stream(uint32_t slot, Fault fault, Events& events);
  void break_stream(uint32_t slot, Instant now);
  void erase_stream(uint32_t slot);
  void report_glitch(Glitch glitch, int64_t count, Events& events);

  bool is_over(const V1Stream& stream) const;
  uint64_t borrowed(const V1Stream& stream) const;
  void check_over(uint32_t slot, Instant now);
  void consume(V1Stream& stream, uint64_t bytes);
  void begin_over(uint32_t slot, Instant now);
  void end_over(uint32_t slot);
  void review_over();
  void check_stalls(Instant now, Events& events);

  SessionConfig config_;
  bool up_ = false;
  bool going_away_ = false;
  uint64_t sessions_ = 0;
  int32_t next_number_;
  const uint64_t capacity_;  // what all streams together may borrow, bytes
  uint64_t borrowed_ = 0;
  uint64_t held_ = 0;
  uint64_t queued_ = 0;  // of all streams

  Slab<V1Stream> streams_;
  NumberTable ours_;  // slots, by our number
  // … by the peer's number: of streams that it opened, and of acknowledged ones that we opened.
  NumberTable clients_;
  NumberTable servers_;
  Scheduler<V1Stream> scheduler_;
  IndexList<V1Stream, &V1Stream::control_link> control_;
  std::array<WaitList, 6> waits_;  // each in order of time, since all of one kind wait equally long
  IndexList<V1Stream, &V1Stream::over_link> over_;
  Instant check_at_{};  // while over_ is not empty: when to look who has taken something
  Instant peek_at_{};   // … and when to read on although it is not
  bool peek_ = false;   // read on, once

  // CLOSE packets to be sent, for streams that need nothing else any more. One that was withdrawn
  // has no number.
  struct Close {
    int32_t client;
    int32_t server;
  };
  std::deque<Close> closes_;
  uint32_t first_close_ = 0;  // the count of those that were sent
  NumberTable closing_;       // which one is the latest with a number of the peer's
  UnreadNumbers unread_;
  // So many services that end have CLOSE held back for their client to leave first. Set where a
  // client left while CLOSE was on its way to it, which may have hit the next one.
  unsigned leaving_ = 0;
  // The latest of the peer's server numbers that CLOSE was sent for and that are not in use again.
  std::array<int32_t, 64> closed_servers_{};
  size_t next_closed_ = 0;

  // Where packets are: in step, or what was skipped since that was lost.
  bool in_step_ = true;
  uint64_t skipped_ = 0;
  std::array<std::byte, kV1DataHead> lost_head_{};  // of the packet that had no magic
  std::optional<Hello> hello_;

  Batch batch_;
  uint32_t head_at_ = 0;  // where the heads of the next piece begin
};

}  // namespace virtproxy
