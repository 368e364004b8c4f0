// The commands of the control socket, and the metrics. Runs in the main thread; what only a worker
// knows it asks for through the worker's mailbox, and answers when all workers have.
//
// Commands, one a line; with --json behind it the answer is one JSON document on one line:
//
//   status               the process
//   channels             one line a channel
//   forwards             one line a -o or -i, with counts and bytes
//   streams [CHANNEL]    one line a stream; --sort KEY (age, sent, received or waiting), --limit N
//   why [CHANNEL|STREAM] the streams that wait, what each waits for, and for how long
//   far WHAT [CHANNEL]   status, streams or why of the other end, beside what is known here
//   kill STREAM          resets a stream, as `streams` names it
//   channel add ARG      as -c on the command line; channel remove NAME
//   forward add -o ARG   as on the command line, or -i; forward remove the same
//   reload               reads the files of --config again
//   config               the configuration in effect
//   reset CHANNEL        drops the connection of a channel, with its streams; it gets another one
//   events [CHANNEL]     the last events; --after N: those behind number N alone
//   metrics              the text of the metrics listener
//   log-level [LEVEL]    the level, or a new one
//   drain [CHANNEL]      ends as SIGTERM does, or one channel
//   stop                 the same without waiting for open streams
//   help
//
// An answer ends with an empty line; what failed begins with "error: ".
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "uring/base/mailbox.h"
#include "uring/daemon/channel_change.h"
#include "uring/daemon/control_table.h"
#include "uring/daemon/far_text.h"
#include "uring/daemon/log_tables.h"
#include "uring/daemon/options.h"
#include "uring/daemon/request_server.h"
#include "uring/daemon/stream_list.h"
#include "uring/daemon/worker.h"
#include "uring/mux/event_ring.h"
#include "uring/mux/stats_text.h"

namespace virtproxy {

// What the process is, for `status` and the metrics.
struct ProcessFacts {
  std::string driver;      // how it waits for the kernel
  bool sandbox = false;    // system calls are filtered
  size_t descriptors = 0;  // open now
  uint64_t log_lines_dropped = 0;
  uint64_t log_lines_suppressed = 0;
  std::string state;  // "serving" or "draining"
};

class Control final : private RequestServer::Handler {
 public:
  static constexpr size_t kMostFarQuestions = 8;  // of other ends, that wait for their answer

  struct Actions {
    std::function<ProcessFacts()> facts;
    std::function<void(StatVisitor&)> visit_stats;  // what is of no channel
    std::function<void()> drain;
    std::function<void()> stop;
    std::function<void(const ChannelChange&, const ChannelChange::Finish&)> make;
  };

  // `workers`, `options`, `events` and what `actions` refer to must outlive this object. The
  // options are those in effect, and may change.
  Control(const Options& options, std::vector<std::unique_ptr<Worker>>& workers,
          const EventRing& events, Actions actions);
  // Lets go of what tasks that were not run hold.
  ~Control() { mailbox_->close(); }

  // Both at most once, before the first add_to().
  void serve_commands(Listening listening);
  void serve_metrics(Listening listening);
  // Answers, now or later, what the other end of a channel asks. In the main thread.
  void answer_question(const FarQuestion& question);

  void add_to(std::vector<pollfd>& waits) const;
  void handle(const std::vector<pollfd>& waits);

 private:
  // A request on its way through the workers.
  struct Asker {
    RequestServer* server;
    RequestServer::ClientId client;
    bool json = false;
  };

  void handle_request(RequestServer& server, RequestServer::ClientId client,
                      std::string_view request) override;
  // The words of a command behind its name.
  struct Arguments {
    std::string word;  // empty where there is none
    std::string sort;
    std::string limit;
    std::string after;
  };
  // Nothing where there is one too many; the error was sent.
  static std::optional<Arguments> read_arguments(const Asker& asker, std::string_view command,
                                                 const std::vector<std::string_view>& words);
  void handle_command(const Asker& asker, std::string_view command, const Arguments& arguments);
  void handle_http(const Asker& asker, std::string_view head);

  // Calls `collect` in each worker's thread, and then `finish` here with what all of them gave, in
  // the order of the workers. The part of a worker that has ended is an empty one.
  template <typename Part>
  void ask_workers(std::function<Part(Worker::Channels, Instant)> collect,
                   std::function<void(std::vector<Part>)> finish);

  void answer_status(const Asker& asker);
  void answer_channels(const Asker& asker);
  void answer_forwards(const Asker& asker);
  // control_metrics.cc
  void collect_metrics(MetricsFormat format, std::function<void(std::string)> finish);
  void collect_turns(std::function<void(std::vector<DurationHistogram>)> finish);
  void list_streams(const Asker& asker, StreamQuery query, StreamList::Finish finish);
  struct WantedList {
    StreamQuery query;
    StreamList::Finish finish;
  };
  void want_list(WantedList list);
  void begin_list();
  // Answers with an error, and returns true, where a name is given that no channel has.
  bool refuse_unknown_channel(const Asker& asker, std::string_view name) const;
  void answer_streams(const Asker& asker, const Arguments& arguments);
  void answer_events(const Asker& asker, const Arguments& arguments);
  void answer_why(const Asker& asker, const std::string& of);
  // control_far.cc
  void answer_far(const Asker& asker, const std::vector<std::string_view>& words);
  void ask_far(const std::string& channel, const std::string& line,
               std::function<void(FarAsker::Answer)> finish);
  void show_both_ends(const Asker& asker, const std::string& command, const std::string& channel,
                      const std::optional<StreamName>& stream, const FarTable& there);
  void tell_status(const FarQuestion& question);
  void collect_log_rows(std::function<void(const LogRows&)> finish);
  void answer_logs(const Asker& asker, const std::string& channel);
  void kill(const Asker& asker, const std::string& stream);
  void change_channels(const Asker& asker, std::string_view command, const std::string& words);
  void make(const Asker& asker, const ChannelChange& change);
  void answer_config(const Asker& asker);
  void reset_channel(const Asker& asker, const std::string& name);
  void answer_log_level(const Asker& asker, std::string_view level);
  static std::string shown(const Asker& asker, const ControlTable& table, TableShape shape);
  static void reply(const Asker& asker, const ControlTable& table, TableShape shape);
  static void reply(const Asker& asker, std::string text);

  const Options& options_;
  std::vector<std::unique_ptr<Worker>>& workers_;
  const EventRing& events_;
  const Actions actions_;
  const Instant started_;
  // One at a time: a turn of a worker makes one piece of one list, however many clients ask.
  std::deque<WantedList> lists_;
  size_t far_questions_ = 0;          // of other ends
  std::shared_ptr<Mailbox> mailbox_;  // a worker may still hold it when this object is gone
  std::unique_ptr<RequestServer> commands_;
  std::unique_ptr<RequestServer> metrics_;
};

template <typename Part>
void Control::ask_workers(std::function<Part(Worker::Channels, Instant)> collect,
                          std::function<void(std::vector<Part>)> finish) {
  gather<Part>(
      mailbox_, workers_.size(),
      [&](size_t i, std::shared_ptr<Answer<Part>> answer) {
        workers_[i]->ask(
            [answer = std::move(answer), collect](Worker::Channels channels, Instant now) {
              answer->give(collect(channels, now));
            });
      },
      std::move(finish));
}

}  // namespace virtproxy
