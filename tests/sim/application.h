// The programs on the outside: clients and services, each following a plan that was drawn for it,
// and the oracle that compares what each of them sees with what the other one did.
//
// What an application sends begins with its number; every later byte follows from that number and
// the byte's position. So whoever receives it knows which application it hears, and what must come.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/sim/socket.h"
#include "uring/daemon/options.h"

namespace virtproxy::sim {

// A service on one side of a channel that clients reach on the other.
struct Route {
  unsigned channel = 0;  // its id
  std::string service;
  bool from_host = true;  // the clients are on the host
  Address client_end;
  Address service_end;
};

// As the network knows it.
std::string network_name(const Address& address);

struct Plan {
  enum class Ending : uint8_t {
    kHalfClose,  // says everything, hears everything
    kReset,
    kVanish,  // the process dies: the kernel closes its socket
  };

  uint64_t total = 8;  // bytes to send, the number included
  Ending ending = Ending::kHalfClose;
  uint64_t ending_at = 0;  // … after so many bytes
  size_t write_piece = 4096;
  size_t read_piece = 4096;
  Duration write_pause{};
  Duration read_pause{};
  uint64_t stall_at = UINT64_MAX;  // bytes received
  Instant stall_until{};
};

class Exchange;

class Application final : private File::Waiter {
 public:
  enum class Role : uint8_t { kClient, kService };

  Application(Exchange& exchange, uint64_t number, Role role, const Route& route,
              std::shared_ptr<Socket> socket, const Plan& plan);
  ~Application();

  uint64_t number() const { return number_; }
  bool over() const { return socket_ == nullptr; }
  bool abnormal() const { return abnormal_at_.has_value(); }
  std::string describe() const;

  void act_now() { act(); }
  // No more pauses and stalls.
  void hurry();

  // Oracles.
  void check_progress(Instant now, Duration patience);
  void check_end() const;

 private:
  friend class Exchange;

  void file_changed() override;
  void act();
  void act_later(Instant when);
  void receive();
  void send();
  void hear(std::span<const std::byte> bytes);
  void on_end();
  void on_error(int error);
  void end_abruptly();
  void leave();
  void note_break();
  bool on_host() const { return (role_ == Role::kClient) == route_.from_host; }
  bool excused() const;
  // Whether a hostile program was at the other end in its life: then it need only end.
  bool beside_hostile() const;
  bool heard_what_was_owed() const;
  // What of the life of this one was of protocol 1.
  bool spoken_old() const;
  bool excused_of_old() const;
  bool half_closed() const;
  bool held_back() const;
  bool heard_out(const Application& other) const;
  bool missed_words_of(const Application& other) const;
  bool lost_touch(Instant when) const;
  bool line_lied() const;

  Exchange& exchange_;
  const uint64_t number_;
  const Role role_;
  const Route& route_;
  std::shared_ptr<Socket> socket_;
  Plan plan_;
  Application* partner_ = nullptr;
  const Instant began_;

  uint64_t sent_ = 0;
  std::optional<uint64_t> end_at_;  // the kernel has told the other side that no more will come
  std::optional<Instant> ended_at_;
  bool sending_over_ = false;
  Instant write_not_before_{};
  Instant last_said_{};

  uint64_t received_ = 0;
  uint64_t partner_number_ = 0;
  bool receiving_over_ = false;
  bool complete_ = false;  // everything the partner said was received, and its end
  bool garbled_ = false;   // what came is not from anybody, and nobody could know
  Instant read_not_before_{};
  Instant willing_since_;
  Instant last_progress_;
  Instant stalled_since_{};
  Instant stalled_until_{};

  const bool crawls_;
  const Family family_;
  bool reset_ = false;
  bool abandoned_full_ = false;  // the daemon let go while there was something to be read
  bool abrupt_ = false;
  bool failed_to_send_ = false;
  std::optional<Instant> abnormal_at_;  // when the daemon let go of it
  std::optional<Instant> left_at_;
  Duration longest_stall_{};
  const std::shared_ptr<const bool> faulted_;
  const std::shared_ptr<const Instant> kept_waiting_at_;
  const std::shared_ptr<const uint64_t> taken_back_;

  bool scheduled_ = false;
  Instant scheduled_for_{};
  uint64_t schedule_ = 0;
};

// All applications of a world.
class Exchange {
 public:
  // `route` must outlive the exchange.
  Application& add(Application::Role role, const Route& route, std::shared_ptr<Socket> socket,
                   const Plan& plan);
  Application* find(uint64_t number);
  // Whether something explains that one that has heard nobody is not connected to anybody.
  bool explains_silence(const Application& unheard) const;
  // Whether one beside it, which receives from the same channel on the same side, has stood still
  // since then though there is something for it to read.
  bool stands_beside_stalled(const Application& application, Instant since) const;

  bool all_over() const { return running_ == 0; }
  size_t running(unsigned channel) const;
  void one_left() { --running_; }

  void hurry();
  // Of the applications of one channel.
  void check_progress(unsigned channel, Duration patience);
  // Instead, where no patience is long enough.
  void skip_progress(unsigned channel) { judgements_.skipped += running(channel); }
  void check_ends() const;
  std::string describe_running() const;
  // Of independence, on streams which only the daemons can have kept waiting.
  struct Judgements {
    uint64_t made = 0;
    uint64_t beside_stalled = 0;
    uint64_t skipped = 0;
    uint64_t old = 0;  // made with protocol 1
  };
  Judgements& judgements() { return judgements_; }
  const Judgements& judgements() const { return judgements_; }
  struct Totals {
    uint64_t complete = 0;
    uint64_t abnormal = 0;
    uint64_t bytes = 0;
  };
  Totals totals() const;
  const std::vector<std::unique_ptr<Application>>& all() const { return applications_; }

 private:
  std::vector<std::unique_ptr<Application>> applications_;
  size_t running_ = 0;
  Judgements judgements_;
};

}  // namespace virtproxy::sim
