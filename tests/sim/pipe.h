// Pipes, and splice(2) between them and sockets.
//
// A pipe has slots, and is full when all of them are taken, however few bytes each of them refers
// to: a page at most of what was written, a fragment of a socket's buffer of what was spliced.
#pragma once

#include <deque>

#include "tests/sim/file.h"
#include "tests/sim/socket.h"

namespace virtproxy::sim {

class Pipe {
 public:
  size_t size() const { return bytes_.size(); }
  bool full() const { return slots_.size() >= slot_limit_; }
  void set_slots(size_t count) { slot_limit_ = count; }

  // These return bytes moved or a negative errno, as write(2), read(2) and splice(2) do.
  int64_t write(std::span<const std::byte> from);
  int64_t read(std::span<std::byte> to);
  int64_t fill(Socket& from, size_t size);
  int64_t drain(Socket& to, size_t size);
  int64_t pour(Pipe& to, size_t size);

 private:
  struct Slot {
    size_t size;
    size_t room;  // for what is written next
  };
  void consume(size_t count);

  Fifo bytes_;
  std::deque<Slot> slots_;
  size_t slot_limit_ = 16;
};

class PipeEnd final : public File {
 public:
  explicit PipeEnd(std::shared_ptr<Pipe> pipe) : pipe_(std::move(pipe)) {}

  Pipe& pipe() const { return *pipe_; }
  int64_t read(std::span<std::byte> to) override { return pipe_->read(to); }
  int64_t write(std::span<const std::byte> from) override { return pipe_->write(from); }
  uint32_t poll() const override { return 0; }  // nobody asks

 private:
  std::shared_ptr<Pipe> pipe_;
};

// splice(2) that does not block.
int64_t splice(File& from, File& to, size_t size);

}  // namespace virtproxy::sim
