// The service virtproxy.control of one channel: answers what the other end asks about the channel
// (daemon/FAR.md). Only where the configuration says so (share-stats).
//
//   FarStream ── a line ──▶ FarService ── FarQuestion ──▶ the main thread
//       ◀──── the text ──────── answered() ◀──── through the mailbox of this thread
//
// The other end is not trusted: it can ask so often, so much and for so long, and reads of its own
// channel alone.
#pragma once

#include <chrono>
#include <functional>
#include <list>
#include <memory>
#include <string>

#include "uring/base/mailbox.h"
#include "uring/io/loop.h"
#include "uring/mux/service_registry.h"
#include "uring/service/far_stream.h"

namespace virtproxy {

struct FarQuestion {
  std::string channel;  // the name here of the one that it came over
  std::string line;     // as it came, without its end
  // From any thread, once.
  std::function<void(std::string text)> answer;
};

class FarService final : public Service, private FarStream::Client, private Timer::Owner {
 public:
  static constexpr size_t kMostVisits = 4;  // streams at once
  static constexpr size_t kMostLine = 256;  // bytes
  static constexpr Duration kVisitLimit = std::chrono::seconds(10);
  // Between two questions of one channel: an answer costs the main thread and the channel's.
  static constexpr Duration kPause = std::chrono::milliseconds(100);

  using Ask = std::function<void(FarQuestion)>;

  // `mailbox` is that of the channel's thread. Outlives the channel.
  FarService(Loop& loop, std::string channel, Mailbox& mailbox, Ask ask);
  ~FarService();

  tl::expected<std::unique_ptr<Endpoint>, Fault> open(StreamHandle& stream,
                                                      std::span<const std::byte>) override;

 private:
  struct Visit {
    Visit(Timers& timers, Timer::Owner* owner, uint64_t number)
        : id(number), timer(timers, owner) {}
    const uint64_t id;  // never given out again
    FarStream* stream = nullptr;
    std::string line;
    enum class State : uint8_t {
      kReading,
      kDue,  // after the pause
      kAsked,
    };
    State state = State::kReading;
    Timer timer;  // of the pause, or the end of the visit
  };
  // How answers find this, as long as it is there. Touched in the channel's thread alone.
  struct Box {
    FarService* service;
  };

  bool stream_text(FarStream& stream, std::string_view text) override;
  void stream_over(FarStream& stream, Fault fault) override;
  void expired(Timer& timer) override;
  void pass_on(Visit& visit);
  void answered(uint64_t visit, std::string text);

  Loop& loop_;
  const std::string channel_;
  Mailbox& mailbox_;
  const Ask ask_;
  const std::shared_ptr<Box> box_;
  std::list<Visit> visits_;
  uint64_t next_id_ = 0;
  Instant next_at_{};  // no question is passed on before
};

}  // namespace virtproxy
