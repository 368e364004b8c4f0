#include "options.h"

#include <getopt.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <iterator>

#include "log.h"

namespace oldpeer {
namespace {

struct HabitSwitch {
  const char* name;
  const char* no_name;
  bool Habits::*value;
  const char* help;
};

constexpr HabitSwitch kHabits[] = {
    {"nonblocking-writes", "no-nonblocking-writes", &Habits::nonblocking_writes,
     "queue what a destination does not take, and go on reading the channel"},
    {"large-numbers", "no-large-numbers", &Habits::large_numbers,
     "numbers count up from --number-base and are never reused"},
    {"forget-on-reconnect", "no-forget-on-reconnect", &Habits::forget_on_reconnect,
     "close every connection when the channel is lost"},
    {"realign-on-reconnect", "no-realign-on-reconnect", &Habits::realign_on_reconnect,
     "forget half a packet when the channel is lost"},
    {"resync", "no-resync", &Habits::resync, "after a bad magic try the next byte"},
    {"half-close", "no-half-close", &Habits::half_close,
     "the end of one direction is kept to oneself and closes nothing"},
    {"background-dial", "no-background-dial", &Habits::background_dial,
     "the loop does not wait for a service to accept"},
    {"reconnect", "no-reconnect", &Habits::reconnect,
     "dial the channel until it is there, and again when it is lost"},
    {"die-of-sigpipe", "no-die-of-sigpipe", &Habits::die_of_sigpipe, "SIGPIPE is not ignored"},
    {"refuse-unknown-service", "no-refuse-unknown-service", &Habits::refuse_unknown_service,
     "answer CLOSE(client, -1) instead of nothing"},
    {"refuse-failed-dial", "no-refuse-failed-dial", &Habits::refuse_failed_dial,
     "answer CLOSE(client, -1) instead of ACK(client, -1)"},
    {"hold-clients", "no-hold-clients", &Habits::hold_clients,
     "accept clients only while the channel is up"},
    {"shared-lookup", "no-shared-lookup", &Habits::shared_lookup,
     "CLOSE finds the newest connection with that number, of either direction (on)"},
    {"unchecked-numbers", "no-unchecked-numbers", &Habits::unchecked_numbers,
     "data is written to the descriptor it names, whatever that is (on)"},
    {"ignore-unknown-control", "no-ignore-unknown-control", &Habits::ignore_unknown_control,
     "an unknown CONTROL message does not end the channel (on)"},
    {"raw-tty", "no-raw-tty", &Habits::raw_tty, "make a terminal raw (on)"},
    {"stale-readiness", "no-stale-readiness", &Habits::stale_readiness,
     "whoever has a descriptor that was found readable is read, and waited for (on)"},
};

struct FaultSwitch {
  const char* name;
  bool Faults::*flag;
  std::optional<int64_t> Faults::*number;
  const char* help;
};

constexpr FaultSwitch kFaults[] = {
    {"ack-twice", &Faults::ack_twice, nullptr, "send every ACK twice"},
    {"ack-for-closed", &Faults::ack_for_closed, nullptr,
     "send the ACK again after a service's connection was closed by either side"},
    {"never-ack", &Faults::never_ack, nullptr, "connect to the service, but send no ACK"},
    {"close-both", &Faults::close_both, nullptr, "CLOSE names both numbers"},
    {"same-client-number-twice", &Faults::same_client_number_twice, nullptr,
     "send every INIT twice"},
    {"data-before-ack", &Faults::data_before_ack, nullptr,
     "read clients at once; data says server -1 until the ACK"},
    {"data-after-close", &Faults::data_after_close, nullptr,
     "data for the stream after its CLOSE was sent"},
    {"stray-data", &Faults::stray_data, nullptr,
     "once: CLIENT and SERVER data and CLOSE for numbers never given out"},
    {"bad-bytes-field", nullptr, &Faults::bad_bytes_field,
     "once: the next data packet has N as its number of bytes"},
    {"stray-byte-after", nullptr, &Faults::stray_byte_after,
     "once: one byte too many after N packets"},
    {"bad-magic-after", nullptr, &Faults::bad_magic_after,
     "once: the packet after N has a wrong magic"},
    {"drop-in-mid-packet", nullptr, &Faults::drop_in_mid_packet,
     "once: after N packets half a packet, then the channel is closed"},
    {"garbage", nullptr, &Faults::garbage, "once: N bytes of noise"},
    {"unknown-control", nullptr, &Faults::unknown_control, "once: CONTROL with message N"},
    {"unknown-type", nullptr, &Faults::unknown_type, "once: a packet of type N"},
    {"fault-after", nullptr, &Faults::fault_after,
     "hold back what is done once, and bad-bytes-field, until N packets were sent (0: at once)"},
    {"slow-dial", nullptr, &Faults::slow_dial, "every dial takes N ms more, in the loop"},
};

enum Code : int {
  kFirstHabit = 1000,
  kFirstNoHabit = 2000,
  kFirstFault = 3000,
  kInitUnknown = 4000,
  kNumberBase,
  kReadSize,
  kBacklog
};

void PrintUsage() {
  std::printf(
      "Usage: virtproxy-oldpeer -c METHOD:ADDR:PORT [-o SERVICE:ADDR:PORT]... "
      "[-i SERVICE:ADDR:PORT]... [switches]\n"
      "METHOD: unix-connect unix-listen tcp-connect tcp-listen virtserial-open\n"
      "Port - : ADDR is a path.  --log or -v: a line for every packet.\n"
      "--number-base N: the first number of --large-numbers (1000000)\n"
      "--read-size N: bytes read from the channel in one turn of the loop (4096)\n"
      "--backlog N: of every listener (1)\n\n"
      "Habits (--NAME or --no-NAME; off unless marked):\n");
  for (const auto& habit : kHabits) std::printf("  --%-26s %s\n", habit.name, habit.help);
  std::printf("\nFaults:\n  --%-26s %s\n", "init-unknown SERVICE",
              "once: INIT for this service with a number nobody has");
  for (const auto& fault : kFaults) {
    std::printf("  --%-26s %s\n", (std::string(fault.name) + (fault.number ? " N" : "")).c_str(),
                fault.help);
  }
}

std::vector<option> LongOptions() {
  std::vector<option> all = {
      {"channel", required_argument, nullptr, 'c'},
      {"oforward", required_argument, nullptr, 'o'},
      {"iforward", required_argument, nullptr, 'i'},
      {"verbose", no_argument, nullptr, 'v'},
      {"log", no_argument, nullptr, 'v'},
      {"help", no_argument, nullptr, 'h'},
      {"version", no_argument, nullptr, 'V'},
      {"init-unknown", required_argument, nullptr, kInitUnknown},
      {"number-base", required_argument, nullptr, kNumberBase},
      {"read-size", required_argument, nullptr, kReadSize},
      {"backlog", required_argument, nullptr, kBacklog},
  };
  int index = 0;
  for (const auto& habit : kHabits) {
    all.push_back({habit.name, no_argument, nullptr, kFirstHabit + index});
    all.push_back({habit.no_name, no_argument, nullptr, kFirstNoHabit + index});
    ++index;
  }
  index = 0;
  for (const auto& fault : kFaults) {
    const int argument = fault.number != nullptr ? required_argument : no_argument;
    all.push_back({fault.name, argument, nullptr, kFirstFault + index++});
  }
  all.push_back({nullptr, 0, nullptr, 0});
  return all;
}

// NAME:ADDR:PORT[:ID], where ADDR may be an IPv6 address in brackets.
std::optional<Place> ParsePlace(const std::string& text) {
  Place place;
  const size_t colon = text.find(':');
  if (colon == std::string::npos || colon == 0) return std::nullopt;
  place.name = text.substr(0, colon);
  std::string rest = text.substr(colon + 1);
  const bool bracket = !rest.empty() && rest.front() == '[';
  const size_t end = rest.find(bracket ? "]:" : ":");
  if (end == std::string::npos) return std::nullopt;
  place.address = bracket ? rest.substr(1, end - 1) : rest.substr(0, end);
  rest.erase(0, end + (bracket ? 2 : 1));
  place.port = rest.substr(0, rest.find(':'));
  if (place.address.empty() || place.port.empty()) return std::nullopt;
  return place;
}

std::optional<int64_t> ParseNumber(const char* text) {
  char* end = nullptr;
  errno = 0;
  const long long value = std::strtoll(text, &end, 0);
  if (end == text || *end != '\0' || errno != 0) return std::nullopt;
  return value;
}

bool AddPlace(std::vector<Place>* places) {
  const auto place = ParsePlace(optarg);
  if (place) places->push_back(*place);
  return place.has_value();
}

// Returns whether the option's argument is good.
bool Apply(int code, Options* options) {
  if (code >= kInitUnknown) {
    if (code == kInitUnknown) {
      options->faults.init_unknown = optarg;
      return true;
    }
    const auto number = ParseNumber(optarg);
    int64_t& value = code == kNumberBase ? options->number_base
                     : code == kReadSize ? options->read_size
                                         : options->backlog;
    value = number.value_or(0);
    return number && *number > 0;
  }
  if (code >= kFirstFault) {
    const FaultSwitch& fault = kFaults[code - kFirstFault];
    if (fault.flag != nullptr) options->faults.*fault.flag = true;
    if (fault.number == nullptr) return true;
    options->faults.*fault.number = ParseNumber(optarg);
    return (options->faults.*fault.number).has_value();
  }
  const bool on = code < kFirstNoHabit;
  options->habits.*kHabits[code - (on ? kFirstHabit : kFirstNoHabit)].value = on;
  return true;
}

bool ApplyShort(int code, Options* options) {
  switch (code) {
    case 'c':
      return AddPlace(&options->channels);
    case 'o':
      return AddPlace(&options->oforwards);
    case 'i':
      return AddPlace(&options->iforwards);
    case 'v':
      options->log = true;
      return true;
    default:
      return Apply(code, options);
  }
}

constexpr std::array kMethods = {"unix-connect", "unix-listen", "tcp-connect", "tcp-listen",
                                 "virtserial-open"};

bool Check(const Options& options) {
  if (options.channels.empty()) {
    Say("no channel specified");
    return false;
  }
  for (const Place& channel : options.channels) {
    if (std::find(kMethods.begin(), kMethods.end(), channel.name) == kMethods.end()) {
      Say("invalid channel type: " + channel.name);
      return false;
    }
  }
  return true;
}

}  // namespace

std::optional<Options> ParseOptions(int argc, char** argv, int* exit_code) {
  *exit_code = 1;
  Options options;
  const std::vector<option> all = LongOptions();
  for (int code; (code = getopt_long(argc, argv, "c:o:i:vhV", all.data(), nullptr)) != -1;) {
    if (code == '?') return std::nullopt;
    if (code == 'h' || code == 'V') {
      *exit_code = 0;
      if (code == 'h') PrintUsage();
      return std::nullopt;
    }
    if (!ApplyShort(code, &options)) {
      Say(std::string("error parsing arg: ") + optarg);
      return std::nullopt;
    }
  }
  if (optind < argc) {
    Say(std::string("error parsing arg: ") + argv[optind]);
    return std::nullopt;
  }
  if (!Check(options)) return std::nullopt;
  *exit_code = 0;
  return options;
}

}  // namespace oldpeer
