// One end of a multiplexed channel: protocol version 2 without any I/O.
//
//                bytes read from the channel
//                          │ input()
//                          ▼
//     events ◀──────  Session  ◀────── open() queue() end() reset() taken() delivered()
//                          │ plan()
//                          ▼
//                frames to write to the channel
//
// The driver reads the channel whenever bytes are there: all that can arrive was granted before, so
// nothing here ever asks it to stop. It hands the bytes to input() and acts on the events, whose
// spans point into the bytes it gave. Payload in the other direction never enters the core: the
// driver keeps it, says with queue() how much there is (never more than credit() allows), and
// plan() answers with a Batch that says which bytes of which stream go where between which headers.
//
// A key is valid from open() or an kOpened event until the driver calls reset(), or is told kReset
// or kClosed; afterwards the driver must forget it. kDown forgets all of them at once. A call for a
// stream whose end is among the events that the driver has yet to read does nothing.
//
// A batch that was begun must be written to its end whatever happens to its streams or to the
// session, unless the link is lost: the peer must never see a torn frame.
//
// Not thread-safe; no call blocks; nothing is allocated per frame. Time enters as an argument.
#pragma once

#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "core/budget.h"
#include "core/fault.h"
#include "core/flight.h"
#include "core/frame.h"
#include "core/greeting.h"
#include "core/limits.h"
#include "core/scheduler.h"
#include "core/slab.h"
#include "core/stream.h"
#include "core/stream_numbers.h"
#include "core/time.h"

namespace virtproxy {

using StreamKey = SlabKey;

struct SessionConfig {
  SessionLimits limits;
  uint64_t wanted_features = 0;  // feature::…; trailers on channels that cannot tell of a lost peer
  uint64_t secret = 0;           // random; seeds the epochs
  uint32_t quantum = 65536;      // bytes a stream sends before the next one's turn
};

struct Event {
  enum class Kind : uint8_t {
    kUp,         // the peer is there; streams may be opened
    kDown,       // the session is over: `fault` says why; every key is void
    kOpened,     // the peer opened `stream` to `service`; `bytes` is the client's metadata
    kData,       // `bytes` arrived; call taken() once the local socket has them
    kEnd,        // no more bytes will come; call delivered() once the socket has been told
    kReset,      // the peer reset the stream: `fault`; the key is void
    kClosed,     // both directions are over; the key is void
    kCredit,     // credit() was 0 when last asked and is not any more
    kGoingAway,  // the peer opens no more and takes no more streams
    kNoVersion,  // the peer speaks no version of ours
  };
  Kind kind;
  Fault fault = Fault::kNone;
  Priority priority = Priority::kNormal;
  StreamKey stream{};
  std::span<const std::byte> bytes{};
  std::string_view service{};
};

using Events = std::vector<Event>;

// What to write to the channel next, in order: for each piece its head bytes, then `payload` bytes
// taken from the front of the stream's queue, then, if `sealed`, kTrailerSize bytes from seal().
struct Piece {
  StreamKey stream{};
  uint32_t head_at = 0;    // into Batch::heads
  uint32_t head_size = 0;  // one or several frames; the last of them is the payload's header
  uint32_t payload = 0;
  bool sealed = false;
};

struct Batch {
  std::vector<std::byte> heads;
  std::vector<Piece> pieces;
  uint64_t size = 0;  // bytes on the wire

  std::span<const std::byte> head(const Piece& piece) const {
    return {heads.data() + piece.head_at, piece.head_size};
  }
  bool empty() const { return pieces.empty(); }
  void clear();
};

class Session {
 public:
  explicit Session(const SessionConfig& config);

  // --- the link -------------------------------------------------------------------------------
  // What the next link needs: feature::… bits. Only between links.
  void want_features(uint64_t features);
  // Says nothing before `now + patience`, which lets the driver slow down a peer that misbehaves.
  void link_up(Instant now, Duration patience = {});
  void link_down(Events& events);
  bool up() const { return greeting_.state() == Greeting::State::kEstablished; }
  bool uses_trailers() const { return trailer_ != TrailerKind::kNone; }

  // Takes what was read. Returns how many bytes were used; the driver keeps the rest and puts it
  // before what it reads next. A session fault appears as kDown, and the session greets anew, the
  // more slowly the more faults there were.
  size_t input(std::span<const std::byte> bytes, Instant now, Events& events);

  // --- writing --------------------------------------------------------------------------------
  bool wants_to_write(Instant now) const;
  // The next at most (about) `bytes` bytes: at least one frame if there is one. The batch is valid
  // until the next call. Its payload bytes count as sent.
  const Batch& plan(uint64_t bytes, Instant now, Events& events);
  // The trailer of the frame of `piece`, whose header and payload lie contiguously in `frame`.
  uint64_t seal(std::span<const std::byte> frame) const {
    return frame_trailer(trailer_, frame, send_key_);
  }
  // Largest DATA payload the peer takes.
  uint32_t send_frame_limit() const;

  // --- streams --------------------------------------------------------------------------------
  // Opens a stream to the peer's `service` (1 to limit::kMaxService characters). Nothing when the
  // limit of either end is reached, the session is not up or the peer is going away.
  std::optional<StreamKey> open(std::string_view service, Priority priority,
                                std::span<const std::byte> metadata);
  // How many more bytes may be queued. Zero arms kCredit.
  uint64_t credit(StreamKey stream);
  void queue(StreamKey stream, uint64_t bytes);
  void end(StreamKey stream);
  void reset(StreamKey stream, Fault fault, Events& events);
  void taken(StreamKey stream, uint64_t bytes);
  void delivered(StreamKey stream, Events& events);

  void go_away();
  size_t open_streams() const { return streams_.size(); }

  // --- time -----------------------------------------------------------------------------------
  std::optional<Instant> deadline() const;
  void tick(Instant now);

  // --- for the curious ------------------------------------------------------------------------
  struct Figures {
    uint64_t lent = 0;       // credit beyond the promised windows, bytes
    uint64_t held = 0;       // received, not taken yet, bytes
    uint64_t queued = 0;     // ready to be sent, bytes
    uint64_t under_way = 0;  // sent, not reported as read by the peer, bytes
    uint64_t flight_limit = 0;
    size_t streams = 0;
    uint64_t sessions = 0;  // established so far
  };
  Figures figures();
  const Hello& peer() const { return greeting_.peer(); }
  uint64_t epoch() const { return greeting_.epoch(); }
  const Slab<Stream>& streams() const { return streams_; }

 private:
  // session_input.cc
  struct Step {
    size_t used = 0;  // 0: more bytes are needed
    Fault fault = Fault::kNone;
    std::optional<Hello> successor{};  // with kPeerRestarted: what the new life said
    bool answered = false;             // … and that it said so in answer to our probe
  };
  size_t input_waiting(std::span<const std::byte> bytes, Instant now, Events& events);
  Step step(std::span<const std::byte> bytes, Instant now, Events& events);
  Step step_hello(std::span<const std::byte> bytes, Instant now);
  Step step_payload(std::span<const std::byte> bytes, Events& events);
  Step step_unfinished(std::span<const std::byte> frame, Instant now);
  bool contains_ping(std::span<const std::byte> frame);
  Fault check_frame(const FrameHeader& header, Stream*& stream);
  Fault check_data(const FrameHeader& header, const Stream& stream) const;
  Fault dispatch(const FrameHeader& header, std::span<const std::byte> payload, Stream* stream,
                 Instant now, Events& events);
  Fault on_open(const FrameHeader& header, std::span<const std::byte> payload, Events& events);
  void on_data(Stream& stream, StreamKey key, std::span<const std::byte> payload, Events& events);
  Fault on_end(const FrameHeader& header, uint32_t local, Events& events);
  Fault on_done(const FrameHeader& header, Stream& stream);
  void on_reset(const FrameHeader& header, uint32_t local, Events& events);
  Fault on_credit(const FrameHeader& header, uint32_t local, Events& events);

  // session_output.cc
  void put_hello(const Hello& hello);
  void put_frame(const FrameHeader& header, std::span<const std::byte> payload);
  void put_data_frames(uint64_t bytes, Events& events);
  void put_data(uint32_t slot, uint32_t size);
  void put_session_facts();
  bool ack_due() const { return bytes_received_ - bytes_acknowledged_ >= ack_interval_; }
  bool data_may_go() const { return !scheduler_.empty() && flight_.room() > 0; }
  void put_stream_facts(uint32_t slot, Events& events);
  void close_piece(StreamKey stream, uint32_t payload, bool sealed);

  // session.cc
  void establish(Instant now, Events& events);
  void fail(const Step& step, Instant now, Events& events);
  void forget_streams();
  StreamKey add_stream(uint32_t number, bool ours, Priority priority, uint64_t send_limit);
  Stream* attached(StreamKey key);
  void schedule(uint32_t slot);
  void kill(uint32_t slot);
  void grant(Stream& stream);
  void set_grant(Stream& stream, uint64_t limit);
  void release_if_over(uint32_t slot, Events& events);
  void erase_stream(uint32_t slot);

  SessionConfig config_;
  Greeting greeting_;
  Slab<Stream> streams_;
  StreamNumbers ours_;    // numbers that we give out
  StreamNumbers theirs_;  // numbers that the peer gives out
  size_t live_ = 0;       // streams that are not dead: these own a promised window
  Budget budget_;
  Scheduler scheduler_;
  IndexList<Stream, &Stream::control_link> control_;

  // Of the present session.
  DirectionKey send_key_;
  DirectionKey receive_key_;
  TrailerKind trailer_ = TrailerKind::kNone;
  uint64_t frames_sent_ = 0;
  uint64_t frames_received_ = 0;
  bool going_away_sent_ = false;
  bool peer_going_away_ = false;
  std::optional<uint64_t> pong_due_;
  bool ping_due_ = false;
  Flight flight_;
  uint64_t bytes_received_ = 0;
  uint64_t bytes_acknowledged_ = 0;
  uint64_t ack_interval_ = 0;  // bytes between two ACKs of ours
  std::optional<Instant> ping_at_;
  bool uncounted_ = false;  // frames went out since the last PING

  // The DATA frame whose payload is arriving, in sessions without trailers.
  struct Arriving {
    StreamKey stream;
    uint32_t left = 0;  // bytes
  };
  Arriving arriving_;
  // Bytes of an unfinished frame that were searched already.
  size_t scanned_ = 0;  // … for a greeting
  size_t scanned_for_ping_ = 0;

  bool going_away_ = false;
  uint64_t sessions_ = 0;
  Instant established_at_{};
  unsigned faults_in_row_ = 0;
  Batch batch_;
  uint32_t head_at_ = 0;  // where the heads of the next piece begin
};

}  // namespace virtproxy
