// A program of the guest that writes lines to a source of log shipping, one connection after the
// other.
//
// Some lines are counted, the others end with LF. A line may be empty, or longer than the daemon
// keeps; the last one of a connection may have no end. A connection that the program closes itself
// is followed by another one only when the daemon has numbered all of its lines: so their order is
// known.
#pragma once

#include <memory>
#include <string>

#include "tests/sim/log_ledger.h"
#include "tests/sim/process.h"

namespace virtproxy::sim {

class LogWriter final : private File::Waiter {
 public:
  struct Plan {
    uint16_t source = 0;
    std::string address;
    uint64_t bytes = 0;  // of lines, in all
    Instant until{};     // they come in bursts until then
    size_t longest = 0;  // line, bytes
    Duration longest_pause{};
  };

  LogWriter(Network& network, LogLedger& ledger, const Plan& plan);
  ~LogWriter();

  // No more pauses.
  void hurry();
  bool over() const { return left_ == 0 && frame_.empty(); }
  // Closes its connection.
  void leave();

 private:
  void file_changed() override;
  void act_later(Instant when);
  void act();
  bool connect();
  void next_line();
  void write();
  void drop_connection();

  Network& network_;
  LogLedger& ledger_;
  const Plan plan_;
  uint64_t left_;  // bytes
  bool hurries_ = false;
  Instant pauses_until_{};

  std::shared_ptr<Socket> socket_;
  size_t life_ = 0;      // that it is connected to, or was last
  bool closed_ = false;  // … and has closed itself
  uint64_t lines_ = 0;

  std::string text_;
  std::string frame_;           // of the line that is being written
  size_t written_ = 0;          // of it
  size_t needed_ = 0;           // of it, for the whole line
  bool closes_behind_ = false;  // the connection ends with this line
  bool after_counted_ = false;  // an LF now would belong to the line before

  bool scheduled_ = false;
  Instant scheduled_for_{};
  uint64_t schedule_ = 0;
};

}  // namespace virtproxy::sim
