// Lists the streams of all workers for a control command, a piece at a time: each question to a
// worker looks at kSlotsPerPiece slots, and the main thread asks the next one when it has the
// answer. So a list of thousands of streams stops no turn for longer than one piece takes.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "uring/base/mailbox.h"
#include "uring/daemon/worker.h"

namespace virtproxy {

// How an operator names a stream: CHANNEL/SLOT.GENERATION.
struct StreamName {
  std::string channel;
  StreamKey key;
};
std::string to_string(const StreamName& name);
std::optional<StreamName> parse_stream_name(std::string_view text);

struct StreamRow {
  StreamName name;
  std::optional<uint32_t> number;  // of both ends, see Session::number()
  std::string service;
  StreamRole role;
  std::string client;  // of a stream that was opened here; else empty
  StreamBytes bytes;
  Duration age;
  std::optional<StallReason> waits_for;
  Duration waits;
  StallTimes waited;
};

// Listeners of one forward that cannot accept their clients.
struct ListenerRow {
  std::string channel;
  std::string service;
  StallReason reason;
  Duration waits;
  Duration waited;  // with those before
};

enum class StreamOrder : uint8_t { kAge, kSent, kReceived, kWaiting };
std::optional<StreamOrder> parse_stream_order(std::string_view name);

struct StreamQuery {
  static constexpr size_t kUsualLimit = 1000;

  std::string channel;           // of this channel; empty: of all
  std::optional<StreamKey> key;  // this stream of it
  bool only_waiting = false;
  StreamOrder order = StreamOrder::kAge;  // the largest first
  size_t limit = 0;                       // rows, at most
};

struct StreamRows {
  std::vector<StreamRow> rows;
  size_t matching = 0;                 // before the limit
  std::vector<ListenerRow> listeners;  // of a query for what waits, unless it is for one stream
};

class StreamList : public std::enable_shared_from_this<StreamList> {
 public:
  static constexpr size_t kSlotsPerPiece = 128;

  using Workers = std::vector<std::unique_ptr<Worker>>;
  using Finish = std::function<void(StreamRows)>;

  // Calls `finish` in the thread of `mailbox`, the caller's. `workers` must outlive the list.
  static void make(const Workers& workers, std::shared_ptr<Mailbox> mailbox, StreamQuery query,
                   Finish finish);

 private:
  struct Piece {
    std::vector<StreamRow> rows;
    std::vector<ListenerRow> listeners;
    size_t channel;              // of the worker, to go on with
    std::optional<size_t> slot;  // to go on from; nothing: the worker has no more
  };

  StreamList(const Workers& workers, std::shared_ptr<Mailbox> mailbox, StreamQuery query,
             Finish finish)
      : workers_(workers),
        mailbox_(std::move(mailbox)),
        query_(std::move(query)),
        finish_(std::move(finish)) {}

  static Piece look(const StreamQuery& query, Worker::Channels channels, size_t channel,
                    size_t slot, Instant now);
  void ask();
  void take(Piece piece);
  void keep_best();

  const Workers& workers_;
  const std::shared_ptr<Mailbox> mailbox_;
  const StreamQuery query_;
  const Finish finish_;
  size_t worker_ = 0;
  size_t channel_ = 0;
  size_t slot_ = 0;
  StreamRows found_;
};

}  // namespace virtproxy
