// The sending end of a log stream. It begins one log after the other, sends batches that its caller
// has stored, and explains what is missing among them; the caller owns the batches until they are
// acknowledged.
//
// Every batch that send() is given continues its source or leaves a gap. A gap is explained by a
// drop record in a batch without a place of its own, so that the receiver can account for each
// number: kCorrupt when a stored batch could not be read, the description's reason for what is no
// longer stored.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <vector>

#include "core/logs/account.h"
#include "core/logs/batch.h"
#include "core/logs/message.h"
#include "core/logs/stream_fault.h"

namespace virtproxy::logs {

struct LogDescription {
  LogId id;
  LogId boot;
  uint64_t position = 0;  // of the first batch that is stored
  // What is stored of this log ends before it. A receiver may have more of a log whose end was lost
  // with the power, and then its position belongs to what was written there later.
  uint64_t end = kMaxNumber;
  std::vector<HelloSource> sources;          // 1 to kMaxSources
  DropReason missing = DropReason::kOldest;  // why numbers from `acked` to `start` are not stored
  UnixTime time = 0;                         // not after the first stored line
  // By source, how far it is numbered in what is stored. Where this is told, marks of WANT that are
  // not behind it are taken for those of the batches before its position, and an ACK before that
  // position is of no use: which marks belong to it is not known. Otherwise had() tells.
  std::vector<Mark> stored{};
};

class Sender {
 public:
  enum class Phase : uint8_t {
    kDown,      // no stream, or none that a log was begun on
    kGreeting,  // HELLO is sent, WANT is due
    kSending,
    kFinishing,  // the final STATE is sent
    kFinished    // … and acknowledged: the next log may begin
  };

  // `window`: bytes sent and not acknowledged at which may_send() turns false; one batch may exceed
  // it.
  explicit Sender(size_t window) : window_(window) {}

  Phase phase() const { return phase_; }
  // Begins a log on a new stream, or behind a finished one.
  void begin(LogDescription log);
  // The stream is gone. What was not acknowledged will be asked for again.
  void lost();

  // Bytes of the receiver. After a fault the stream is to be reset; the sender is down.
  StreamFault feed(std::span<const std::byte> bytes);

  // True once the receiver has told what it needs, while the window has room.
  bool may_send() const { return phase_ == Phase::kSending && in_flight_ < window_; }
  // With kSending: where the first batch to be sent lies, not below the description's position.
  uint64_t position() const { return position_; }
  // Sends a sealed batch of this log, whose header is `header` and whose last record ends at `end`.
  // Its check is the caller's to verify if it was stored.
  void send(std::span<const std::byte> batch, const BatchHeader& header, const Mark& end);
  // The receiver has had such a batch from a stream before this one: by the WANT it lies before the
  // position, or the log is finished. It is acknowledged like those that are sent. Batches are
  // named in order, and before any is sent.
  void had(const BatchHeader& header, const Mark& end);
  // Explains all numbers up to `marks` that were not sent. `time`: not before the last of them.
  void explain(std::span<const Mark> marks, DropReason reason, UnixTime time);
  // Tells how far the sources are numbered, so that the receiver can tell silence from loss.
  void send_state(std::span<const Mark> marks);
  // Ends the log at `marks`: explains what is missing as kCorrupt.
  void finish(std::span<const Mark> marks, UnixTime time);

  // Everything before it is acknowledged and needed no more. 0: nothing is yet on this stream, of
  // which the position at which it began tells nothing.
  uint64_t acked_position() const { return acked_position_ > log_.position ? acked_position_ : 0; }
  const std::vector<Mark>& acked() const { return acked_; }
  AckLevel acked_level() const { return acked_level_; }
  const LogDescription& log() const { return log_; }
  // What explain() and the receiver's rejects came to since the log was begun.
  const std::array<Tally, kDropReasons>& explained() const { return explained_; }

  // Bytes for the receiver, in order; the caller takes them away.
  std::vector<std::byte>& out() { return out_; }
  const std::vector<std::byte>& out() const { return out_; }

 private:
  struct Sent {
    uint64_t end;  // acknowledged by this position
    uint16_t source;
    size_t size;
    Mark mark;
  };

  StreamFault take(std::span<const std::byte> bytes, const MessageHeader& header);
  StreamFault on_want(const Want& want);
  void take_for_sent(const Want& want);
  StreamFault on_ack(const Ack& ack);
  void explain_source(uint16_t source, const Mark& until, DropReason reason, UnixTime time);
  void note_sent(uint64_t end, uint16_t source, size_t size, const Mark& mark);
  void note_acked(uint16_t source, const Mark& mark);

  size_t window_;
  Phase phase_ = Phase::kDown;
  LogDescription log_;
  uint64_t key_ = 0;
  uint64_t position_ = 0;  // behind the last batch that was sent
  uint64_t most_ack_ = 0;  // the receiver may acknowledge up to here
  uint64_t least_ack_ = 0;
  uint64_t acked_position_ = 0;
  AckLevel acked_level_ = AckLevel::kMemory;
  std::vector<Mark> sent_;   // by source: what comes before was sent or explained
  std::vector<Mark> acked_;  // by source
  UnixTime time_ = 0;        // of the last batch that was sent
  std::deque<Sent> unacked_;
  size_t in_flight_ = 0;
  std::array<Tally, kDropReasons> explained_{};
  std::vector<std::byte> in_;  // a message that is not complete
  std::vector<std::byte> out_;
};

}  // namespace virtproxy::logs
