// The whole sending side without its sources and its files: a Buffer, where there is one a Spool,
// and a Sender. It moves batches from one to the next and has no state of its own but where each
// stands.
//
// Without a spool, batches that were sent are kept until they are acknowledged, in `window` bytes;
// only what was not sent yet is dropped when memory is short.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/logs/buffer.h"
#include "core/logs/sender.h"
#include "core/logs/spool.h"
#include "core/logs/spool_reader.h"

namespace virtproxy::logs {

struct ShipperConfig {
  BufferConfig buffer;
  size_t window = 1u << 20;                           // bytes sent and not acknowledged
  Duration state_interval = std::chrono::seconds(5);  // between STATEs, when nothing else is sent
};

class Shipper {
 public:
  // `log` is drawn at random for this start. `spool`: with its recovery's state.
  struct SpoolStart {
    SpoolConfig config;
    Superblock recovered;
  };
  Shipper(const ShipperConfig& config, std::vector<SourceConfig> sources, const LogId& log,
          const LogId& boot, std::optional<SpoolStart> spool);
  Shipper(const Shipper&) = delete;
  Shipper& operator=(const Shipper&) = delete;

  Buffer& buffer() { return buffer_; }
  const Buffer& buffer() const { return buffer_; }
  Spool* spool() { return spool_ ? &*spool_ : nullptr; }
  const Spool* spool() const { return spool_ ? &*spool_ : nullptr; }
  const Sender& sender() const { return sender_; }

  // Numbers of the source in the log of this start that are acknowledged.
  uint64_t acknowledged(uint16_t source) const;

  // A stream to the receiver is there, or is gone.
  void connected(Instant now);
  void disconnected();
  StreamFault feed(std::span<const std::byte> bytes);

  // Moves on what can be moved. To be called after lines were offered, bytes came, an operation on
  // the spool ended, out() was emptied, or due() has come. `wall`: for what is written to the
  // spool.
  void pump(Instant now, UnixTime wall);
  // When pump() has something to do that it has not now.
  std::optional<Instant> due(Instant now) const;
  // Bytes for the stream, taken away by the caller. Above `window` bytes nothing is added but what
  // explains and controls.
  std::vector<std::byte>& out() { return sender_.out(); }

  // Without a spool: of the batches that were sent and are not acknowledged.
  size_t kept_bytes() const { return kept_bytes_; }

  // Read operations on the spool; writes are those of spool().
  std::optional<SpoolRead> next_read();
  void read(std::span<const std::byte> bytes);

  // No line will be offered any more. Without a spool, what is held is sent, or with `give_up`
  // dropped as kShutdown; then the log ends. With one, what is held goes there and stays for the
  // next start.
  void stop(bool give_up, Instant now);
  // With stop(): nothing is left to be done, or with a spool, nothing that is not written.
  bool stopped() const;

 private:
  // Where the log that is sent comes from.
  enum class Source : uint8_t {
    kNone,
    kOpening,  // of the spool: its first segment is being read
    kSending
  };
  struct Kept {
    BatchHeader header;
    Mark end;
    std::vector<std::byte> bytes;
  };

  Buffer::Traffic traffic() const;
  void fill_spool(Instant now, UnixTime wall);
  void send_memory(Instant now);
  void begin_memory_log();
  void send_spool(UnixTime wall);
  DropReason missing_before(uint64_t segment) const;
  void begin_spool_log();
  void describe_spool_log(const SegmentHeader* header, DropReason missing);
  uint64_t end_of_first_log() const;
  void on_acknowledged();
  std::vector<Mark> numbered() const;

  ShipperConfig config_;
  LogId log_;
  LogId boot_;
  uint64_t key_;
  Buffer buffer_;
  Sender sender_;
  bool connected_ = false;
  Source source_ = Source::kNone;
  std::optional<Instant> state_due_;
  bool stopping_ = false;
  UnixTime wall_ = 0;

  // Without a spool.
  std::deque<Kept> kept_;
  size_t kept_bytes_ = 0;
  uint64_t position_ = 0;
  size_t unsent_ = 0;  // how many of kept_, at its end, were not sent on this stream
  std::vector<Mark> acked_;

  // With one.
  std::optional<Spool> spool_;
  std::optional<SpoolReader> reader_;
  std::optional<PendingBatch> waiting_;  // taken from the buffer, without room in the spool
  uint64_t opening_ = 0;                 // the segment that is read with kOpening
  bool reading_ = false;                 // a read is wanted
  bool read_given_ = false;              // … and under way
  bool stale_read_ = false;              // … for a place that is of no interest any more
  bool positioned_ = false;              // the reader is where the receiver wants it
};

}  // namespace virtproxy::logs
