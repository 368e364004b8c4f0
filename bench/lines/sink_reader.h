// Reads what arrives at the far end: follows a file, or serves a socket that a log daemon connects
// to. One thread, which is the caller's.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "lines/endpoint.h"
#include "lines/message.h"
#include "uring/base/unique_fd.h"

namespace virtproxy::bench::lines {

class SinkReader {
 public:
  // A message; `whole` is false for what was left of one when its connection or its file ended.
  using OnMessage = std::function<void(std::string_view message, bool whole)>;

  // Where a file is read from that is there already.
  enum class Begin { kStart, kEnd };

  // Listens, or opens the file, which need not exist. Throws Failure.
  SinkReader(const Endpoint& endpoint, Framing framing, Begin begin, OnMessage on_message);
  ~SinkReader();

  // Waits for at most `timeout_ms` for something to arrive, and handles what is there. Returns
  // whether anything was.
  bool poll(int timeout_ms);
  // Reads what is there without waiting, and the unfinished rest of every stream.
  void finish();

  // The file became shorter than what was read of it, so some of that is not in it any more.
  bool taken_back() const { return taken_back_; }
  // Reads the file, and those that it replaced, from where they began. Sinks other than files:
  // nothing.
  void read_again();
  uint64_t oversized() const;

 private:
  struct Stream {
    Stream(UniqueFd descriptor, Framing framing) : fd(std::move(descriptor)), splitter(framing) {}
    UniqueFd fd;
    MessageSplitter splitter;
  };
  struct File {
    UniqueFd fd;
    uint64_t begin = 0;  // where the run began
    uint64_t position = 0;
    uint64_t inode = 0;
  };

  bool read_stream(Stream& stream, bool& ended);
  bool read_datagrams();
  bool follow();
  bool read_file(File& file);
  bool open_file(bool at_end);
  void accept_all();
  void end_of(MessageSplitter& splitter);

  const Endpoint endpoint_;
  const Framing framing_;
  const OnMessage on_message_;
  std::vector<char> buffer_;
  UniqueFd listener_;
  std::string socket_file_;
  std::vector<std::unique_ptr<Stream>> streams_;
  UniqueFd notify_;
  std::deque<File> files_;  // the last one grows
  std::unique_ptr<MessageSplitter> file_splitter_;
  uint64_t ended_oversized_ = 0;
  bool taken_back_ = false;
};

}  // namespace virtproxy::bench::lines
