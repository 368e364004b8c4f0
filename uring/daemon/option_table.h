// The options: one row each. The command line, --help, the keys of configuration files, the printed
// configuration, the list in OPERATING.md and the dictionary of the fuzzers are made from these
// rows.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "uring/daemon/settings.h"

namespace virtproxy {

// What is wrong with a value, and what would be right; both complete a sentence of one line.
struct Complaint {
  std::string what;
  std::string right;  // may be empty where `what` says it
};

enum class OptionGroup {
  kChannels,
  kLimits,
  kProtocol,
  kContainment,
  kCollection,
  kLog,
  kLogShipping,
  kOperation,
  kKernel,
  kConfiguration,
  kInformation,
};

// Where an option may stand. In a file, what a forward may have may also stand in its channel, and
// what a channel or forward may have in [defaults].
namespace option_scope {
inline constexpr unsigned kCommandLine = 1;
inline constexpr unsigned kProcess = 2;                             // [process]
inline constexpr unsigned kChannel = 4;                             // [channel.NAME]
inline constexpr unsigned kListen = 8;                              // [channel.NAME.listen.SERVICE]
inline constexpr unsigned kOffer = 16;                              // [channel.NAME.offer.SERVICE]
inline constexpr unsigned kShip = 32;     // [ship]
inline constexpr unsigned kCollect = 64;  // [collect]
inline constexpr unsigned kDefaults = kChannel | kListen | kOffer;  // [defaults]
}  // namespace option_scope

enum class OptionKind {
  kCount,
  kSize,
  kSeconds,
  kChoice,
  kSwitch,  // on or off; as a flag of the command line it is on
  kMode,    // octal
  kUser,    // to run as
  kOwner,   // of a socket
  kListener,  // an address to listen on
  kSpool,     // a file, its size and when it is synced
  kName,      // of a channel
  kUsers,   // lists, from here on
  kGroups,
  kCids,
  kSinks,
  kFeatures,
  kSources,   // of log shipping; one each time it is given
  kArgument,  // -c, -o and -i
  kAction,    // of the command line: what to do, or how much to log
};

struct OptionRow {
  std::string_view name;     // --NAME
  std::string_view aliases;  // other spellings on the command line, separated by commas
  std::string_view key;      // in a file, where it is not the name
  OptionGroup group;
  unsigned scopes;
  OptionKind kind;
  std::string_view unit;      // SIZE; empty for a flag
  std::string_view argument;  // what the command line takes, where it is more than a value
  std::string_view help;
  std::string_view unset;  // the default of a value that is absent
  double least = 0;
  double most = 0;

  // Reads what was given, the last one of a single value and all of a list, into the member of this
  // row. `label` is how messages call the option.
  using Read = std::optional<Complaint> (*)(const OptionRow& row, std::string_view label,
                                            const std::vector<std::string>& given,
                                            ProcessSettings& process, ChannelSettings& channel);
  // The member as text that Read understands, one for each of a list; none for a value that is
  // absent.
  using Show = std::vector<std::string> (*)(const OptionRow& row, const ProcessSettings& process,
                                            const ChannelSettings& channel);
  Read read = nullptr;  // of rows with a member
  Show show = nullptr;

  bool is_list() const { return kind >= OptionKind::kUsers && kind <= OptionKind::kSources; }
  bool is_flag() const { return unit.empty(); }
  bool in(unsigned scope) const { return (scopes & scope) != 0; }
  std::string_view file_key() const { return key.empty() ? name : key; }
  // How --help has it: -c,--channel
  std::string spelling() const;
  // The default as --help has it; empty where there is none.
  std::string shown_default() const;
};

std::span<const OptionRow> option_table();

// The row of the command line with that name, which must be in the table.
const OptionRow& option_row(std::string_view name);

// The row of a key in a table of that scope, if there is one.
const OptionRow* find_key(std::string_view key, unsigned scope);

std::string_view group_title(OptionGroup group);

// What --help prints, wrapped at 100 columns.
std::string help_text(const std::string& program);

}  // namespace virtproxy
