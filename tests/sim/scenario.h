// A whole simulated history, drawn from one seed.
//
//   1. the daemons start and find each other
//   2. clients come and go while everything that this seed allows goes wrong
//   3. the world heals: every application and every stream must come to its end
//   4. new clients, for whom nothing may go wrong any more
//   5. nothing is left; the daemons are asked to end, and nothing is left of them
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "tests/sim/application.h"
#include "tests/sim/daemon.h"
#include "tests/sim/hostile_peer.h"
#include "tests/sim/link.h"
#include "tests/sim/log_writer.h"

namespace virtproxy::sim {

class Scenario {
 public:
  explicit Scenario(World& world);
  ~Scenario();

  void run();
  Exchange::Totals totals() const { return exchange_.totals(); }
  const Exchange::Judgements& judgements() const { return exchange_.judgements(); }
  uint64_t turns() const { return turns_; }
  LogLedger::Counts log_counts() const { return ledger_ ? ledger_->counts() : LogLedger::Counts{}; }

 private:
  // A daemon's place: who is there changes when it is killed or stopped.
  struct Place {
    DaemonConfig config;
    std::unique_ptr<Daemon> daemon;
    std::vector<unsigned> channels;  // ids of those that end here
    unsigned restarts_left = 0;
    bool wanted = true;
  };

  void draw_mishaps();
  void draw_topology();
  bool streams_open(unsigned id);
  void draw_routes(SimulatedLink& link, DaemonConfig& host, DaemonConfig& guest);
  DriverFeatures draw_features();
  // Of the daemon that is started next.
  DriverChoice next_driver() const;
  DaemonChannel draw_channel(unsigned index);
  void draw_protocol_one(ChannelConfig& one, ChannelConfig& other);
  Plan draw_plan(unsigned channel);
  Plan polite_plan();
  void draw_clients(Instant until);
  void draw_misfortunes(Instant until);

  void start(Place& place);
  void misfortune();
  // Hostile programs in the place of a daemon, for a while.
  void draw_hostility();
  void draw_attacks();
  void attack();
  void attack(Place& place, SimulatedLink& link);
  void end_attacks();
  // Restarts the daemon that is attacked.
  void disturb_attacked(size_t far, size_t link);
  // Clients for the daemon of an attacked channel, while it finds out what to speak.
  void send_clients(unsigned channel, Duration within);
  // Connections that send nothing, to the listener of a daemon that has just started.
  void draw_strangers();
  void send_strangers(const Place& place, unsigned channel);
  // Logs that a guest's daemon ships on one of the channels.
  void draw_logs();
  void begin_logs();
  void draw_log_misfortunes();
  bool logs_settled() const;
  void end_logs();
  bool ships_on(unsigned channel) const {
    return ledger_ != nullptr && ledger_->plan().channel == channel;
  }
  void stand_still(Place& place);
  void take_down(Place& place, bool killed);
  void end_life(Place& place, bool killed, Duration pause);
  ProtocolMode& mode(size_t place, size_t link);
  bool expects_old(size_t link) {
    return mode(0, link) == ProtocolMode::kV1 || mode(1 + link, link) == ProtocolMode::kV1;
  }
  void change_protocol(Place& place);
  void connect_client(size_t route, bool polite);
  void connect_polite_clients();  // one for each route

  // Runs until `done` holds or time is up.
  template <typename Done>
  bool run_until(Instant limit, Done done);
  bool run_once();
  static V2Session* session_of(Place& place, const SimulatedLink& link);
  // The one that both ends of a link are in, 0 if they are in none.
  uint64_t session_on(size_t link);
  uint64_t old_session_on(size_t link);
  // Every two ends are in one session.
  bool everything_up();
  void check_sessions();
  void check_faults();
  void check_soon();
  std::string describe();
  Daemon* guest_of(size_t link) { return places_[1 + link].daemon.get(); }

  World& world_;
  Random& random_;
  Network network_;
  Exchange exchange_;
  std::unique_ptr<LogLedger> ledger_;
  std::vector<std::unique_ptr<LogWriter>> writers_;
  std::vector<std::unique_ptr<SimulatedLink>> links_;
  std::vector<bool> changing_;  // of each link: an end that is replaced may speak another protocol
  std::deque<Route> routes_;    // services refer to them
  std::vector<std::unique_ptr<Service>> services_;
  std::vector<Place> places_;                     // the host, then one guest for each link
  std::vector<std::unique_ptr<Daemon>> leaving_;  // dead or told to end, not gone yet
  struct Attack {
    Place* place;
    std::vector<std::unique_ptr<HostilePeer>> peers;  // on each channel that ends there
  };
  std::vector<Attack> attacks_;  // that go on
  unsigned processes_ = 0;
  uint64_t turns_ = 0;
  bool killing_ = false;
  bool cutting_ = false;
  bool hostile_ = false;
  bool strange_ = false;  // strangers come
  std::vector<std::shared_ptr<Socket>>
      rejected_peers_;  // they stay until nothing goes wrong any more
  bool stalling_ = false;
  bool standing_ = false;    // daemons stand still
  bool old_spoken_ = false;  // in the last turn
  bool settled_ = false;     // nothing goes wrong any more and every two ends have met
  bool bulky_ = false;       // some applications have much to say
  bool unruly_ = false;      // applications misbehave
  Instant heals_at_{};
  Instant stands_until_{};  // the last of them that does
};

}  // namespace virtproxy::sim
