// Lines in a stream of bytes: connections to a unix or TCP socket, or standard input.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "uring/base/unique_fd.h"
#include "uring/net/sockets.h"
#include "uring/service/logs/input.h"

namespace virtproxy::logs {

// What is common to the connections of a source.
struct StreamContext {
  LineTarget& target;
  uint16_t source;
  Framing framing;
};

// One stream. A source that is blocked reads none of its streams: at most one of them holds bytes
// that were read and not taken.
class StreamInput final : public Input {
 public:
  class Client {
   public:
    virtual void stream_over() = 0;

   protected:
    ~Client() = default;
  };
  // A descriptor that blocks is read only where it is known to have something.
  enum class Reads : uint8_t { kAnyTime, kWhenReady };
  // `credentials`: of the program at the other end, if they are known.
  StreamInput(Loop& loop, const StreamContext& context, UniqueFd fd, Reads reads,
              std::optional<Credentials> credentials, Client* client);

 private:
  Progress read_some() override;
  void on_over() override;
  void on_idle() override { client_->stream_over(); }
  bool offer(std::span<const std::byte> line);
  // Offers the lines in `bytes`. False where the source is blocked: the rest is kept.
  bool take(std::span<const std::byte> bytes);
  bool take_kept();
  bool take_last();
  void keep(std::span<const std::byte> bytes);

  const StreamContext context_;
  UniqueFd fd_;
  const std::optional<Credentials> credentials_;
  const Reads reads_;
  Client* client_;
  LineSplitter splitter_;
  UnixTime time_ = 0;
  bool ended_ = false;
  // While the source is blocked: the line that was not taken, and the bytes behind it.
  std::optional<std::vector<std::byte>> kept_;
  size_t line_size_ = 0;
};

// Connections of one source.
class StreamSource final : public LogSource,
                           private StreamInput::Client,
                           private Loop::Deferred,
                           private Timer::Owner {
 public:
  // Of a listening socket. Connections beyond this wait to be accepted.
  static constexpr size_t kMostConnections = 1024;
  StreamSource(Loop& loop, const StreamContext& context, Listening listening);
  // Of one stream, such as standard input.
  StreamSource(Loop& loop, const StreamContext& context, UniqueFd stream);
  ~StreamSource() override;

  void start() override;
  void resume() override;
  void drain() override;
  void stop() override;
  bool is_over() const override;
  bool idle() const override;

 private:
  class Acceptor;

  void accepted(int fd);
  bool full() const { return streams_.size() >= kMostConnections; }
  void stream_over() override;
  void run_deferred() override;
  void expired(Timer& timer) override;

  Loop& loop_;
  const StreamContext context_;
  BoundPath path_;
  std::vector<std::unique_ptr<Acceptor>> acceptors_;
  std::vector<std::unique_ptr<StreamInput>> streams_;
  Timer retry_;  // of accepting, where descriptors ran out
  bool reaping_ = false;
  bool draining_ = false;
};

}  // namespace virtproxy::logs
