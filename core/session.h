// One end of a multiplexed channel without any I/O, whatever protocol it speaks.
//
//                bytes read from the channel
//                          │ input()
//                          ▼
//     events ◀──────  Session  ◀────── open() queue() end() reset() consumed() delivered()
//                          │ plan()
//                          ▼
//             heads and payload to write to the channel
//
// V2Session speaks version 2, V1Session the protocol of 2010; ProtocolSelector
// (protocol_selector.h) owns both and finds out which of them the other end understands.
//
// The driver reads the channel whenever bytes are there and wants_input() allows it: version 2
// never objects, since all that can arrive was granted before. It hands the bytes to input() and
// acts on the events, whose spans point into the bytes it gave. Payload in the other direction
// never enters the core: the driver keeps it and reports with queue() how much there is (never more
// than request_credit() allows). The Batch of plan() lists the heads, and between them the bytes of
// each stream that go there.
//
// A key is valid from open() or an kOpened event until the driver calls reset(), or is told kReset
// or kClosed (kReset also answers reset_after_data()); afterwards the driver must forget it. kDown
// forgets all of them at once. A call for a stream whose end is among the events that the driver
// has yet to read does nothing, and so does one with a key of another session.
//
// Events are a record of the past, in order. When the driver handles one, the session is ahead of
// it: the stream that the event names may be over, and its slot may have been given out again. So:
//
//   1. kUp and kDown end the call that added them, except that kDown may be followed by the kUp of
//      its successor. input() leaves the bytes behind such a boundary unused; feed() gives them to
//      it again. Whatever the driver asks about the session while it handles kUp or kDown is
//      therefore true of the session that began or ended there.
//   2. The driver handles the events of every call that may add a boundary before it makes the next
//      call of input(), tick(), transport_up() or transport_down().
//   3. Handling an event may call anything that takes the key of a stream, but never open(): a new
//      stream could get the slot that an event further on still names. open() is called only when
//      no event is left.
//   4. When the driver takes the link down, it discards the events that are left: all of them are
//      about sessions on that link.
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

#include "core/fault.h"
#include "core/flow/limits.h"
#include "core/flow/priority.h"
#include "core/glitch.h"
#include "core/siphash.h"
#include "core/slab.h"
#include "core/time.h"
#include "core/wire/hello.h"

namespace virtproxy {

using StreamKey = SlabKey;

struct SessionConfig {
  SessionLimits limits;
  uint64_t wanted_features = 0;  // feature::…; trailers on channels that cannot tell of a lost peer
  uint64_t supported_features = feature::kAll;
  // All random and of this end alone. A peer sees what is made of the first and of the last, so
  // nothing else may be made of a key, and no two of them of each other.
  HashKey epoch_key{};       // of the epochs, which must not be predictable
  HashKey number_key{};      // of the look-up of numbers that a peer chooses
  uint64_t number_seed = 0;  // where the numbers of version 1 begin; a peer can tell most of it
  uint32_t quantum = 65536;  // bytes a stream sends before the next one's turn
  V1Limits v1;               // of version 1 alone
};

struct Event {
  enum class Kind : uint8_t {
    kUp,         // the peer is there; streams may be opened
    kDown,       // the session is over: `fault` says why; every key is void
    kOpened,     // the peer opened `stream` to `service`; `bytes` is the client's metadata
    kData,       // `bytes` arrived; call consumed() once the local socket has them
    kEnd,        // no more bytes will come; call delivered() once the socket has been told
    kReset,      // the stream is over by `fault`, the peer's doing or the session's; the key is
                 // void. `count` is the peer's number for it, where it gives numbers out
    kAborted,    // the peer's application broke off: no more bytes come, and none are sent; call
                 // reset() once the socket has those that came before
    kClosed,     // both directions are over; the key is void
    kCredit,     // request_credit() gave 0 when last called and would give more now
    kGoingAway,  // the peer opens no more and takes no more streams
    kNoVersion,  // the peer speaks no version of ours
    kGlitch,     // the peer did what `glitch` says, and `count` is about; it is dealt with
  };
  Kind kind;
  Fault fault = Fault::kNone;
  Priority priority = Priority::kNormal;
  Glitch glitch = Glitch::kNone;
  StreamKey stream{};
  std::span<const std::byte> bytes{};
  std::string_view service{};
  int64_t count = 0;
};

using Events = std::vector<Event>;

// Where the events of a call end, rule 1.
inline bool is_boundary(const Event& event) {
  return event.kind == Event::Kind::kUp || event.kind == Event::Kind::kDown;
}

// Gives `bytes` to `session` in as many calls of input() as they take. `handle` handles the events
// after each of them, and returns whether the link is still of use. Returns how many bytes were
// used.
template <typename Reader, typename Handle>
size_t feed(Reader& session, std::span<const std::byte> bytes, Instant now, Events& events,
            Handle handle) {
  for (size_t used = 0;;) {
    const size_t before = events.size();
    used += session.input(bytes.subspan(used), now, events);
    const bool boundary = events.size() > before && is_boundary(events.back());
    if (!handle() || !boundary || used == bytes.size()) return used;
  }
}

// What to write to the channel next, in order: for each frame its head bytes, then `payload` bytes
// taken from the front of the stream's queue, then, if `has_trailer`, kTrailerSize bytes from
// trailer_for().
struct PlannedFrame {
  StreamKey stream{};
  uint32_t head_at = 0;    // into Batch::heads
  uint32_t head_size = 0;  // one or several frames; the last of them is the payload's header
  uint32_t payload = 0;
  bool has_trailer = false;
};

struct Batch {
  std::vector<std::byte> heads;
  std::vector<PlannedFrame> frames;
  uint64_t size = 0;  // bytes on the wire

  std::span<const std::byte> head(const PlannedFrame& frame) const {
    return {heads.data() + frame.head_at, frame.head_size};
  }
  bool empty() const { return frames.empty(); }
  void clear() {
    heads.clear();
    frames.clear();
    size = 0;
  }
};

class Session {
 public:
  virtual ~Session() = default;

  virtual bool up() const = 0;
  virtual bool uses_trailers() const = 0;

  // --- reading --------------------------------------------------------------------------------
  // Whether the driver may read the channel now. False only for a bounded time; deadline() says
  // when to ask again.
  virtual bool wants_input(Instant now) = 0;
  // Takes what was read. Returns how many bytes were used; the driver keeps the rest and puts it
  // before what it reads next. A session fault appears as kDown, and the session greets anew, the
  // more slowly the more faults there were. Stops behind kUp and kDown, see feed().
  virtual size_t input(std::span<const std::byte> bytes, Instant now, Events& events) = 0;

  // Payload that need not go through input(): `left` bytes of what arrives next belong to the
  // stream, and were granted. A driver that can move them to the stream's socket without reading
  // them says with spliced() how many it took from the link; consumed() follows as ever.
  struct Arriving {
    StreamKey stream;
    uint32_t left = 0;  // bytes
  };
  virtual Arriving arriving() const { return {}; }
  virtual void spliced(uint32_t) {}

  // --- writing --------------------------------------------------------------------------------
  virtual bool wants_to_write(Instant now) const = 0;
  // The next at most (about) `bytes` bytes: at least one frame if there is one. The batch is valid
  // until the next call. Its payload bytes count as sent.
  virtual const Batch& plan(uint64_t bytes, Instant now, Events& events) = 0;
  // The trailer of a frame that has one. Its header and payload lie contiguously in `frame`; the
  // header alone will do unless trailer_covers_payload().
  virtual uint64_t trailer_for(std::span<const std::byte> frame) const = 0;
  virtual bool trailer_covers_payload() const = 0;
  // Bytes of payload that follow one head, at most.
  virtual uint32_t largest_payload() const = 0;
  // More than this at once is too much for what the peer says of its end of the line, bytes.
  virtual uint64_t most_batch() const = 0;
  // Of all that was planned at most `most` bytes were not read by the peer, and `arrived` bytes of
  // the peer's are there that input() has not used. Wanted soon while waits_for_unread().
  virtual void on_unread(uint64_t /*most*/, uint64_t /*arrived*/) {}
  virtual bool waits_for_unread() const { return false; }

  // --- streams --------------------------------------------------------------------------------
  // Opens a stream to the peer's `service` (1 to protocol_limits::kMaxService characters). Nothing
  // when the limit of either end is reached, the session is not up or the peer is going away.
  virtual std::optional<StreamKey> open(std::string_view service, Priority priority,
                                        std::span<const std::byte> metadata) = 0;
  // The service that the peer asked for is connected. A stream that it cannot be is reset.
  virtual void accepted(StreamKey stream) = 0;
  // How many more bytes may be queued. After zero, kCredit comes when there are some.
  virtual uint64_t request_credit(StreamKey stream) = 0;
  virtual void queue(StreamKey stream, uint64_t bytes) = 0;
  virtual void end(StreamKey stream) = 0;
  virtual void reset(StreamKey stream, Fault fault, Events& events) = 0;
  // Whether the peer delivers what is sent before a reset, see reset_after_data().
  virtual bool delivers_before_reset(StreamKey stream) = 0;
  // The application takes nothing any more: what arrives is dropped without an event, and no more
  // is asked for. Sending goes on.
  virtual void discard_input(StreamKey stream) = 0;
  // The application broke off after what was queued: the stream is reset once that is written, and
  // kReset follows; until then the driver keeps the queue, and the peer delivers it first. False
  // when the reset was immediate, as that of reset(): nothing was queued, or
  // delivers_before_reset() is.
  virtual bool reset_after_data(StreamKey stream, Events& events) = 0;
  virtual void consumed(StreamKey stream, uint64_t bytes) = 0;
  // Whether consumed(stream, bytes) would lead to nothing now, so that it may as well be called
  // later.
  virtual bool credit_unaffected_by(StreamKey, uint64_t /*bytes*/) { return false; }
  virtual void delivered(StreamKey stream, Events& events) = 0;
  // What both ends call the stream on the wire, where that names it together with who opened it.
  virtual std::optional<uint32_t> number(StreamKey) { return std::nullopt; }

  // No new streams of the peer, from now on in every session.
  virtual void go_away() = 0;

  // --- time -----------------------------------------------------------------------------------
  virtual std::optional<Instant> deadline() const = 0;
  virtual void tick(Instant now, Events& events) = 0;
  // tick() has more to do now, but others come first.
  virtual bool behind(Instant) const { return false; }

  // Asks the peer for a sign that it has read all that was written before. No more than one answer
  // is waited for.
  virtual void probe() {}
  // It has not come. False as well where a session has no such question.
  virtual bool awaits_probe() const { return false; }

  // --- stats ------------------------------------------------------------------------------------
  struct Stats {
    uint64_t borrowed = 0;   // credit beyond the promised windows, bytes
    uint64_t held = 0;       // received, not taken yet, bytes
    uint64_t queued = 0;     // ready to be sent, bytes
    uint64_t in_flight = 0;  // sent, not reported as read by the peer, bytes
    size_t streams = 0;
    uint64_t sessions = 0;  // established so far
    Duration round_trip{};  // from a write until the peer had read it, when measured last; or zero
  };
  virtual Stats stats() = 0;
};

}  // namespace virtproxy
