// Lists the streams of all workers for a control command, a piece at a time: each question to a
// worker looks at kSlotsPerPiece slots, and the main thread asks the next one when it has the
// answer. So a list of thousands of streams stops no turn for longer than one piece takes.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "uring/base/mailbox.h"
#include "uring/daemon/stream_rows.h"
#include "uring/daemon/worker.h"

namespace virtproxy {

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
    size_t channel = 0;          // of the worker, to go on with
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
