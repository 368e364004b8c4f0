// One simulated daemon: the real loop, channels and sessions in a simulated process, from its start
// to its end or its death, and what must hold of it after every turn.
//
// What uring/daemon/worker.cc does with a thread is done here with calls: set up, turn after turn,
// drain.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/sim/channel_oracle.h"
#include "tests/sim/log_hub.h"
#include "tests/sim/process.h"
#include "uring/daemon/worker.h"
#include "uring/io/loop.h"
#include "uring/io/open_driver.h"
#include "uring/mux/channel.h"
#include "uring/net/resolver_driver.h"
#include "uring/service/logs/log_collector.h"
#include "uring/service/logs/log_shipper.h"
#include "uring/service/socket_forwards.h"

namespace virtproxy::sim {

struct DaemonChannel : ChannelConfig {
  ForwardConfig forwards;
  // Of a channel that ships logs: at the end that ships, and at the one that collects.
  LogLedger* ships = nullptr;
  LogLedger* collects = nullptr;
};

struct DaemonConfig {
  std::string name;
  DriverChoice driver{};
  DriverFeatures features;
  std::vector<DaemonChannel> channels;
  Duration drain_timeout{};
};

class Daemon {
 public:
  // `number` is of its process: each life of a daemon has another one.
  Daemon(Network& network, unsigned number, const DaemonConfig& config);
  ~Daemon();

  // False when an address is still in use; then this life is over.
  bool start();
  bool runnable() const;
  void turn();

  void stop();  // as SIGTERM does
  void kill();  // as SIGKILL does
  // As SIGSTOP does, until then.
  void stand_still(Instant until);
  bool working() const { return phase_ == Phase::kServing; }
  bool over() const { return phase_ == Phase::kOver; }

  const DaemonConfig& config() const { return config_; }
  Process& process() { return process_; }
  // Null when the daemon is not there to be asked.
  Channel* channel(unsigned id);
  // The same, and while it is one of version 2.
  V2Session* session(unsigned id);
  // Whether a session of version 1 is up.
  bool speaks_old(unsigned id);
  // Which of all such sessions it is, 0 if none is up.
  uint64_t old_session(unsigned id);
  // While a session of version 1 is up, no stream may keep the channel from being read for longer
  // than the stall timeout, unless it is alone there. Meanwhile nobody is owed anything.
  void check_held_back(unsigned id);
  // The socket that its only channel runs over, if it runs over one now.
  std::shared_ptr<Socket> channel_socket() const;

  // What holds of the numbers of the logs that it ships.
  void check_logs();
  // Its sources end, and what they gave is sent.
  void end_shipping();
  bool ships() const { return shipper_ && !shipper_->stopped(); }

  // Nothing is left of any stream.
  void check_idle();
  std::string describe();

 private:
  enum class Phase : uint8_t { kServing, kShipping, kDraining, kLastWords, kLettingGo, kOver };

  // What uring/daemon/daemon.cc does before it starts a worker. Nothing when an address is in use.
  std::optional<std::vector<ChannelListenSockets>> bind_listen_sockets();
  // … of the sources of its logs.
  std::optional<std::vector<Listening>> bind_log_sources(const LogLedger& ledger);
  void add_logs(const DaemonChannel& config, std::vector<Listening> sources);
  logs::SpoolFile open_spool(Disk& disk);
  void end_collecting();
  void drain();
  bool drained() const;
  bool idle() const;
  void stop_streams();
  void enter(Phase phase, Duration limit);
  void advance();
  void destroy();
  void check_bounds();
  // What the channel is read from, nothing while it is not there.
  FileRef channel_file(unsigned id) const;
  // While a session of version 1 holds more for a socket than a stream may, the channel is not read
  // and moves at the pace of that socket: a reader that takes little each time lets it be read now
  // and then.
  void note_held_back(unsigned id);

  const DaemonConfig config_;
  Process process_;
  Phase phase_ = Phase::kServing;
  Instant phase_ends_{};
  Instant busy_until_{};
  Instant last_turn_{};
  std::unique_ptr<Loop> loop_;
  std::unique_ptr<ResolverDriver> resolver_driver_;
  std::vector<std::unique_ptr<ChannelOracle>> oracles_;    // of each channel
  std::vector<std::unique_ptr<SocketForwards>> forwards_;  // of each channel; outlive them
  std::vector<std::unique_ptr<Channel>> channels_;
  std::unique_ptr<SimulatedHub> hub_;
  std::unique_ptr<LogCollector> collector_;
  std::unique_ptr<logs::LogShipper> shipper_;
  LogLedger* ledger_ = nullptr;         // of the logs that it ships
  size_t life_ = 0;                     // … which is its own there
  bool connected_ = false;              // it has a stream of logs
  std::optional<Instant> gives_up_at_;  // it was told to end
  // Of a channel, by its id: since when nothing has been read of what there is.
  struct Waiting {
    uint64_t reads = 0;
    Instant since{};
    uint64_t held = 0;  // bytes of the session then
  };
  std::map<unsigned, Waiting> waiting_;
};

// Whether these are the two ends of one session.
bool paired(const V2Session& one, const V2Session& other);

// What must hold between the two sessions of one channel, at any time.
void check_pair(const V2Session& one, const V2Session& other);

}  // namespace virtproxy::sim
