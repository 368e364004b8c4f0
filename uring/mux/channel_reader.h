// Reads a channel. It never waits for an application, because everything that arrives was granted.
//
// Bytes are read into read buffers and parsed where they lie. What the session cannot use yet (the
// beginning of a frame) stays in place while the read buffer has room behind it, else it is moved
// to the front of the next one. Small frames take long to parse: when this turn has used up its
// time, the rest stays in its read buffer for the next turn, so that other channels have theirs.
//
// While bulk arrives, payload is spliced from the channel's socket to the application's. Only the
// headers between are read, each by itself.
//
// While its other side is not open, a virtio port reads 0 bytes, and does not report when that
// changes. So it is read again at an interval. It may also lose a wake-up: it has bytes, and the
// request that waits for them does not complete. recheck() finds such a request.
#pragma once

#include <span>
#include <string>

#include "uring/buffers/read_buffers.h"
#include "uring/io/loop.h"
#include "uring/transport/transport_source.h"

namespace virtproxy {

class ChannelReader final : private Completion, private Timer::Owner {
 public:
  // A frame up to this size, header and trailer included, can be parsed in one piece.
  static constexpr size_t kLargestFrame = 288 * 1024;

  class Client {
   public:
    // True if more bytes may be read now.
    virtual bool wants_input() = 0;
    // Returns how many of the bytes were used. They lie in `buffer`, which the client may
    // reference.
    virtual size_t channel_input(std::span<const std::byte> bytes, ReadBuffer* buffer) = 0;
    // Bytes of payload that come next.
    virtual uint32_t payload_ahead() = 0;
    // True if payload may be moved without being read on this transport at all.
    // begin_splice() prepares that for what comes next, and is false where it has to be read.
    // splice_payload() then moves some from the socket: their number, 0 at its end, or a negative
    // errno (-EAGAIN: none is there, -ENOBUFS: read them).
    virtual bool splices() = 0;
    virtual bool begin_splice() = 0;
    virtual ssize_t splice_payload(int fd) = 0;
    // The bytes that were spliced may be sent to the applications now.
    virtual void channel_spliced() = 0;
    // There may be more bytes, which wait for the next turn.
    virtual void channel_readable() = 0;
    // The other side of a port was found open, or not open any more.
    virtual void port_present(bool present) = 0;
    virtual void channel_failed(const std::string& reason) = 0;
    // It was detached, and has become idle.
    virtual void channel_settled() = 0;

   protected:
    ~Client() = default;
  };

  ChannelReader(Loop& loop, Client* client);

  void attach(File file, const TransportTraits& traits);
  // Nothing more is reported; the file may be closed once idle().
  void detach();
  bool idle() const { return !op_.pending; }

  // Asks for the next bytes, unless a request is under way already; once a turn.
  void read_on();
  // For a device, at an interval: if a request was pending at the last call too and the device has
  // bytes, the request is made anew. True if no wake-up can be lost.
  bool recheck();
  // Gives the client the bytes again that it has not used.
  void offer_again();
  // Returns memory that is not in use to the system.
  void trim() { buffers_.trim(); }

 private:
  enum class State : uint8_t {
    kDetached,  // without a transport; op_ may not have completed yet
    kAbsent,    // a port whose other side is not open, which absence_ asks again
    kIdle,      // no request: the client wants no input, or every read buffer is in use
    kDry,       // the same, of a device that had nothing: the next request waits for it
    kPolling,   // op_ waits until there is something
    kReading,   // op_ reads
  };
  bool attached() const { return state_ != State::kDetached; }
  bool has_request() const { return state_ == State::kPolling || state_ == State::kReading; }
  void begin_request(State state);

  void complete(Op& op, Outcome outcome) override;
  void expired(Timer& timer) override;

  void splice_on();
  void stop_splicing();
  bool read_header();
  void read_normally();
  bool make_room();
  size_t read_port(size_t count);
  void on_bytes(size_t count);
  void parse();
  void on_nothing();

  Loop& loop_;
  Client* client_;
  Op op_;
  Timer absence_;  // until the port is asked again
  ReadBuffers buffers_;
  ReadBuffer* buffer_ = nullptr;
  size_t begin_ = 0;  // first byte not used yet
  size_t end_ = 0;
  size_t offered_ = 0;     // from there on: bytes the client has seen and could not use
  bool unparsed_ = false;  // there are more that it has not seen
  Instant parsed_at_{};    // the turn that left something unparsed
  File file_;
  const TransportTraits* traits_ = nullptr;  // since attach()
  State state_ = State::kDetached;
  bool readable_ = false;  // a poll reported it, and nothing was spliced since
  bool poll_first_ = false;
  bool rechecked_ = false;     // the request was pending at the last recheck()
  bool splicing_ = false;      // bulk: headers are read, and payload is spliced
  unsigned reads_in_row_ = 0;  // while splicing, without anything spliced
  unsigned skips_ = 0;         // large reads to go before splicing is tried again
  unsigned next_skips_ = 0;
};

}  // namespace virtproxy
