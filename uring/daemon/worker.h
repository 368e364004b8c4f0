// A thread with its own loop and its own channels; workers share nothing but the process.
//
// The main thread leaves tasks in a worker's mailbox. Answers, heartbeats for a watchdog and the
// end of the thread come to the main thread's own mailbox. Channels come, change and go while a
// worker runs (worker_change.h).
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <future>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "uring/base/mailbox.h"
#include "uring/daemon/worker_change.h"
#include "uring/io/loop.h"
#include "uring/io/open_driver.h"
#include "uring/mux/channel.h"
#include "uring/mux/event_ring.h"
#include "uring/net/resolver_driver.h"
#include "uring/service/far_asker.h"
#include "uring/service/far_service.h"
#include "uring/service/logs/log_collector.h"
#include "uring/service/logs/log_shipper.h"
#include "uring/service/socket_forwards.h"

namespace virtproxy {

struct WorkerConfig {
  size_t index = 0;  // among the workers, for figures
  DriverChoice driver = DriverChoice::kAuto;
  DriverFeatures features;
  std::vector<ChannelConfig> channels;
  // Of each of them.
  std::vector<ForwardConfig> forwards;
  std::vector<ChannelListenSockets> listen_sockets;
  // Of the worker whose channel ships lines: what is opened for it, and which channel that is.
  std::optional<logs::ShipStart> ship;
  size_t ship_channel = 0;
  // Where the logs of its channels go, which outlives the worker; null where they are not collected.
  // `vms` are the numbers of the channels there.
  ParcelHub* log_hub = nullptr;
  std::vector<size_t> vms;
  Duration drain_timeout{};
  Duration heartbeat{};         // the interval of heartbeats; zero for none
  EventRing* events = nullptr;  // of the process, for what happens to the channels; outlives the worker
  // Where questions of other ends go; called in the worker's thread.
  FarService::Ask answer_far;
};

class Worker final : private Completion, private Timer::Owner {
 public:
  class Client {
   public:
    // The loop has turned since clear_heartbeat(). Reported once until that is called again.
    virtual void worker_beat() = 0;
    // A channel of a change that had to wait for another one to end could not begin.
    virtual void channel_failed(const std::string& name) = 0;
    // The thread has ended.
    virtual void worker_ended() = 0;

   protected:
    ~Client() = default;
  };

  explicit Worker(WorkerConfig config);
  ~Worker();

  using Started = tl::expected<void, std::string>;
  // Starts the thread; the future says whether everything is ready. No byte of a peer or client is
  // read before go(), which every worker that was started needs.
  std::future<Started> start();
  void go() { go_.set_value(); }

  // From any thread. To end: new streams are refused, open ones may finish within the limit.
  void request_drain() {
    mailbox_.post([this] { wanted_ = std::max(wanted_, Wanted::kDrain); });
  }
  // The same without that time: open streams are reset. What is sent last and the end of requests
  // to the kernel keep their own limits.
  void request_stop() {
    mailbox_.post([this] { wanted_ = Wanted::kStop; });
  }
  void request_stats() {
    mailbox_.post([this] { log_stats(); });
  }
  // Calls `question` in the worker's thread, with its channels. Where the thread has ended, the
  // question is destroyed instead. It must be short: while it runs, no stream moves.
  using Channels = std::span<const std::unique_ptr<Channel>>;
  void ask(std::function<void(Channels, Instant now)> question) {
    mailbox_.post([this, question = std::move(question)] { question(channels_, loop_->now()); });
  }
  // Begins a change, whose sockets belong to the worker from then on, and calls `finish` in the
  // worker's thread. A worker that is ending only closes them; one that has ended destroys
  // `finish`.
  void apply(std::shared_ptr<WorkerChange> change, std::function<void(WorkerChanged)> finish);
  // Asks the other end of a channel, and calls `finish` in the worker's thread with what it has
  // answered; with nothing where the worker has no such channel.
  using FarFinish = std::function<void(std::optional<FarAsker::Answer>)>;
  void ask_far(std::string channel, std::string line, FarFinish finish);
  // As ask(), with the loop.
  void ask_loop(std::function<void(const Loop& loop)> question) {
    mailbox_.post([this, question = std::move(question)] { question(*loop_); });
  }
  // Waits for the thread to end.
  void join();
  // Once it has started.
  DriverKind driver() const { return driver_; }
  const std::vector<std::string>& warnings() const { return warnings_; }
  // Whether the thread ended for another reason than being asked to.
  bool failed() const { return failed_; }

  // Reports to `client` through the mailbox of its thread. Both outlive the worker. Call before
  // start().
  void report_to(Mailbox& mailbox, Client* client) {
    reports_ = &mailbox;
    client_ = client;
  }
  // True if the loop has turned since clear_heartbeat(), or has ended.
  bool has_heartbeat() const { return heartbeat_ || ended_; }
  void clear_heartbeat() { heartbeat_ = false; }

 private:
  void run(std::promise<Started> started);
  Started set_up();
  Started try_to_set_up();
  void serve();
  void drain();
  void stop_shipping();
  void abandon();
  void complete(Op& op, Outcome outcome) override;
  void log_stats();
  void expired(Timer& timer) override;
  void beat();
  void beat_in_time();
  bool turn();
  void on_failure(int error);
  bool turn_until(Duration limit, const std::function<bool()>& done);

  // worker_change.cc
  void begin_changes(WorkerChange& change, WorkerChanged& changed);
  void end_channel(const std::string& name);
  void change_forwards(WantedChannel wanted);
  std::optional<std::string> begin_channel(WantedChannel& wanted);
  void add_channel(const ChannelConfig& config, ForwardConfig forwards);
  void start_channel(ChannelListenSockets listen_sockets);
  void advance_endings();
  void give_up_waiting();
  // channels_.size() where there is none of that name.
  size_t place_of(std::string_view name) const;
  bool is_ending(const Channel& channel) const;
  uint16_t free_buffer_group() const;

  WorkerConfig config_;
  std::atomic<bool> failed_{false};
  std::atomic<bool> heartbeat_{false};
  std::atomic<bool> ended_{false};
  std::promise<void> go_;
  Mailbox mailbox_;
  Mailbox* reports_ = nullptr;
  Client* client_ = nullptr;
  uint64_t wake_count_ = 0;
  std::thread thread_;
  // Written by the thread before it has started, and never again.
  DriverKind driver_{};
  std::vector<std::string> warnings_;

  // Owned by the thread.
  std::unique_ptr<Loop> loop_;
  std::unique_ptr<ResolverDriver> resolver_driver_;
  std::vector<std::unique_ptr<SocketForwards>> forwards_;  // of each channel; outlive them
  std::unique_ptr<logs::LogShipper> shipper_;              // of one channel, outlives it
  std::vector<std::unique_ptr<LogCollector>> collectors_;  // of each channel, or none; the same
  // Of each channel, in their places; all of them outlive it.
  struct Attendants {
    std::unique_ptr<EventRecorder> recorder;  // of a process with a control socket
    std::unique_ptr<FarAsker> asker;
    std::unique_ptr<FarService> far;  // where its peer may ask
  };
  std::vector<Attendants> attendants_;
  std::vector<std::unique_ptr<Channel>> channels_;
  std::list<ChannelEnding> endings_;     // of some of them
  std::vector<WantedChannel> waiting_;   // for one of the same name to end
  std::unique_ptr<Timer> ending_timer_;  // has the next look at them
  std::unique_ptr<Timer> heartbeat_timer_;
  Instant beat_at_{};  // the next one, by the monotonic clock
  Op wake_op_;
  // What was asked for last, of what ends the thread.
  enum class Wanted : uint8_t { kServe, kDrain, kStop };
  Wanted wanted_ = Wanted::kServe;
  bool ending_ = false;
  bool broken_ = false;
};

}  // namespace virtproxy
