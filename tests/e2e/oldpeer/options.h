// The command line: that of the original, habits to switch, faults to commit.

#ifndef VIRTPROXY_OLDPEER_OPTIONS_H_
#define VIRTPROXY_OLDPEER_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace oldpeer {

// NAME:ADDR:PORT, where NAME is a channel method or a service.
struct Place {
  std::string name;
  std::string address;
  std::string port;

  bool IsPath() const { return port == "-"; }
};

// The defaults are what the original does.
struct Habits {
  bool nonblocking_writes = false;
  bool large_numbers = false;
  bool forget_on_reconnect = false;
  bool realign_on_reconnect = false;
  bool resync = false;
  bool half_close = false;
  bool background_dial = false;
  bool reconnect = false;
  bool die_of_sigpipe = false;
  bool refuse_unknown_service = false;
  bool refuse_failed_dial = false;
  bool hold_clients = false;
  bool shared_lookup = true;
  bool unchecked_numbers = true;
  bool ignore_unknown_control = true;
  bool raw_tty = true;
  bool stale_readiness = true;
};

struct Faults {
  bool ack_twice = false;
  bool ack_for_closed = false;
  bool never_ack = false;
  bool close_both = false;
  bool same_client_number_twice = false;
  bool data_before_ack = false;
  bool data_after_close = false;
  bool stray_data = false;
  std::optional<int64_t> bad_bytes_field;
  std::optional<int64_t> stray_byte_after;
  std::optional<int64_t> bad_magic_after;
  std::optional<int64_t> drop_in_mid_packet;
  std::optional<int64_t> garbage;
  std::optional<int64_t> unknown_control;
  std::optional<int64_t> unknown_type;
  std::optional<int64_t> fault_after;
  std::optional<int64_t> slow_dial;
  std::optional<std::string> init_unknown;
};

struct Options {
  std::vector<Place> channels;
  std::vector<Place> oforwards;
  std::vector<Place> iforwards;
  Habits habits;
  Faults faults;
  int64_t number_base = 1'000'000;
  // Bytes taken from the channel before clients and services get their turn. Less than four packets
  // is what makes four streams each way block both ends, and three not.
  int64_t read_size = 4096;
  // Of every listener: a burst of clients has its SYNs dropped, and sent again after 1, 3, 7 s.
  int64_t backlog = 1;
  bool log = false;
};

// Returns nothing when the process shall end with *exit_code.
std::optional<Options> ParseOptions(int argc, char** argv, int* exit_code);

}  // namespace oldpeer

#endif  // VIRTPROXY_OLDPEER_OPTIONS_H_
