// Sources of lines: what each of them reads, and where lines go.
//
// A source waits for its descriptors with Driver::poll() and reads with calls that do not wait,
// many lines in one call where the kernel has one (recvmmsg(2)). So a burst costs one wait, and
// both drivers are served alike. A source reads for a turn's budget and goes on in the next turn.
#pragma once

#include <cstdint>
#include <span>

#include "core/logs/batch.h"
#include "core/logs/line_splitter.h"
#include "uring/io/loop.h"

namespace virtproxy::logs {

// Takes the lines of all sources. Sources are named by their place in the log.
class LineTarget {
 public:
  // False: the source is blocked. The line was not taken, and is to be offered again after
  // resume().
  virtual bool offer(uint16_t source, const Line& line, uint64_t full_length) = 0;
  // Lines that the kernel lost in front of the source, which counted them.
  virtual void lost_by_kernel(uint16_t source, uint64_t lines) = 0;
  virtual bool blocked(uint16_t source) const = 0;
  virtual UnixTime wall() const = 0;
  // For what one call reads: of use until the call of the source returns.
  virtual std::span<std::byte> scratch() = 0;
  virtual size_t max_line() const = 0;
  virtual LineSplitter::Held& held() = 0;

 protected:
  ~LineTarget() = default;
};

// One descriptor that is polled and read; another one may take its place.
class Input : private Completion, private Loop::Deferred {
 public:
  Input(Loop& loop, int fd);
  virtual ~Input() = default;

  void start();
  // The source is not blocked any more.
  void resume();
  // Reads what is there and is over once nothing is; waits for more only while awaits_more().
  void drain();
  // Reads no more.
  void stop();
  bool is_over() const { return state_ == State::kOver; }
  bool idle() const { return !op_.pending && !deferred_; }

 protected:
  enum class Progress : uint8_t {
    kMore,       // something was read, and there may be more
    kEmpty,      // nothing is there now
    kBlocked,    // until resume()
    kSuspended,  // the descriptor is of no use any more, until renew()
    kOver        // nothing will come any more
  };
  // Reads what one call gives.
  virtual Progress read_some() = 0;
  // What is sent from now on need not be read.
  virtual void on_drain() {}
  // While draining: what has to be read is still to come, and ends with kOver.
  virtual bool awaits_more() const { return false; }
  // awaits_more() is false from now on.
  void await_no_more();
  // Reads from that descriptor after kSuspended.
  void renew(int fd);
  bool draining() const { return draining_; }
  // After kOver, or stop().
  virtual void on_over() {}
  // idle() may have become true after the end.
  virtual void on_idle() {}

  int fd() const { return fd_; }
  Loop& loop() { return loop_; }

 private:
  enum class State : uint8_t {
    kNew,
    kPolling,
    kReading,  // goes on in the next turn
    kBlocked,
    kSuspended,
    kOver
  };

  void complete(Op& op, Outcome outcome) override;
  void run_deferred() override;
  void read();
  void read_later();
  void poll();
  void end();

  Loop& loop_;
  int fd_;
  Op op_;
  State state_ = State::kNew;
  bool draining_ = false;
  bool deferred_ = false;
  bool waited_ = false;  // because the turn had taken long
};

// A source as the shipper sees it. All of it is of the shipper's thread.
class LogSource {
 public:
  virtual ~LogSource() = default;

  virtual void start() = 0;
  virtual void resume() = 0;
  // Reads what is there, and closes each descriptor as soon as nothing is: what is sent to it then
  // is refused, and not lost. A socket that a service manager keeps stays open there.
  virtual void drain() = 0;
  // Reads no more. Lines without an end are lines now.
  virtual void stop() = 0;
  virtual bool is_over() const = 0;
  // Lines may come now. One that is down and not over comes up again by itself.
  virtual bool up() const { return !is_over(); }
  virtual bool idle() const = 0;
  // Numbers of the source up to `numbered` are safe; asked for by sources with a cursor.
  virtual void safe(uint64_t /*numbered*/) {}
};

}  // namespace virtproxy::logs
