// Options while they are put together: what was given, where it stood, and what is wrong with it.
//
//   command line, files ─▶ Draft ─▶ resolve(), check() ─▶ Options
#pragma once

#include <map>
#include <string>
#include <vector>

#include "uring/daemon/command_line.h"
#include "uring/daemon/config_tree.h"
#include "uring/daemon/option_table.h"
#include "uring/daemon/options.h"

namespace virtproxy {

// Problems of one configuration that are shown.
inline constexpr size_t kMostProblems = 100;

// Which rows were given in one place, and where exactly.
using Given = std::map<const OptionRow*, Origin>;

struct ChannelDraft {
  ChannelOptions options;
  Origin at;
  bool has_name = false;  // or a number
  bool usable = true;     // its transport could be read
  Given given;            // for this channel alone
};

struct ForwardDraft {
  ForwardSpec spec;
  ChannelSettings settings;
  Origin at;
  std::string channel = "0";  // the name or number that it asks for
  Given given;                // for this forward alone
};

struct Draft {
  ProcessSettings process;
  ChannelSettings defaults;
  Given given;  // for the process and for all channels
  std::vector<ChannelDraft> channels;
  std::vector<ForwardDraft> oforwards;
  std::vector<ForwardDraft> iforwards;
  std::map<std::string, size_t> places;  // of channels, by name and by number
  uint64_t memory = 0;                   // bytes, of all channels together
  std::vector<Problem> problems;

  void complain(const Origin& origin, std::string what, std::string right = {}) {
    problems.push_back({origin, std::move(what), std::move(right)});
  }
  // About an argument of -c, -o or -i, which messages of the command line quote.
  void complain_of(const Origin& origin, const std::string& text, const std::string& what,
                   std::string right = {}) {
    complain(origin, origin.in_file() ? what : "error parsing arg: " + text + ": " + what,
             std::move(right));
  }
};

// Adds what [process] and [defaults] say, …
void read_config(const ConfigNode& tree, Draft& draft);
// … what the options of the command line say, which takes their place, …
void read_options(const CommandLine& line, Draft& draft);
// … and then the channels and forwards, which begin with all that: of the files, …
void read_config_channels(const ConfigNode& tree, Draft& draft);
// … and of the command line.
void read_arguments(const CommandLine& line, Draft& draft);

// The arguments of -c, -o and -i (channel_args.cc). `draft` gets them, or what is wrong with them.
void read_channel(const std::string& arg, Draft& draft);
void read_forward(const std::string& arg, char option, Draft& draft);
// The same as a file has them. Both read the value of a key into what is given; false, and a
// problem, where that is not possible.
bool read_transport(const ConfigNode& value, ChannelDraft& channel, Draft& draft);
bool read_address(const ConfigNode& value, const std::string& text, AddressUse use,
                  ForwardDraft& forward, Draft& draft);
// What is wrong with the name of a service.
std::optional<std::string> service_fault(std::string_view service);

// Gives channels their numbers and names, forwards their channels, and all of them what the command
// line says of single ones (--priority, --peer-timeout).
void resolve(const CommandLine& line, Draft& draft);

// What only shows when everything is there.
void check(Draft& draft);

}  // namespace virtproxy
