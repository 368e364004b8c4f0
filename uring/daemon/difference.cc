#include "uring/daemon/difference.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <utility>

#include "uring/base/text.h"
#include "uring/base/units.h"
#include "uring/daemon/option_table.h"
#include "uring/transport/transport_kind.h"

namespace virtproxy {
namespace {

// Keys of [process] whose new value holds at once. Of the others, and of [ship] and [collect], the
// start made something that stays: threads, a sandbox, a socket, a file.
constexpr std::array<std::string_view, 3> kChangeable = {"memory", "drain-timeout", "log-level"};

std::string shown_value(const std::vector<std::string>& values) {
  std::string text;
  for (const std::string& value : values) text += (text.empty() ? "" : ",") + value;
  return text.empty() ? "unset" : text;
}

void compare_process(const ProcessSettings& now, const ProcessSettings& wanted,
                     std::vector<std::string>& errors) {
  for (const OptionRow& row : option_table()) {
    const bool fixed = row.in(option_scope::kProcess) || row.in(option_scope::kShip) ||
                       row.in(option_scope::kCollect);
    if (!fixed || row.show == nullptr) continue;
    const std::string_view key = row.file_key();
    if (std::find(kChangeable.begin(), kChangeable.end(), key) != kChangeable.end()) continue;
    const auto before = row.show(row, now, {});
    const auto after = row.show(row, wanted, {});
    if (before == after) continue;
    errors.push_back(
        fmt::format("{} cannot change while it runs: it is {} and would be {}; restart for that",
                    key, shown_value(before), shown_value(after)));
  }
}

// What ships and collects lines was made for the channels of the start.
void check_logs(const Options& now, const Options& wanted, Difference& difference) {
  const auto refuse = [&](const std::string& name, std::string_view what) {
    difference.errors.push_back(
        fmt::format("channel {} cannot be {} while logs are shipped over it or collected from it; "
                    "restart for that",
                    name, what));
  };
  const ChannelOptions* const ships = shipping_channel(now);
  const auto carries_logs = [&](const std::string& name) {
    return !now.process.collect.empty() || (ships != nullptr && ships->name == name);
  };
  // Without ship-channel it is the first one, which another order of the file changes.
  const ChannelOptions* const would_ship = shipping_channel(wanted);
  if (ships != nullptr && would_ship != nullptr && ships->name != would_ship->name &&
      find_channel(wanted, ships->name) != nullptr) {
    difference.errors.push_back(
        fmt::format("lines are shipped over channel {} and would be over {}; name it in "
                    "ship-channel, or restart for that",
                    ships->name, would_ship->name));
  }
  for (const std::string& name : difference.removed) {
    if (carries_logs(name)) refuse(name, "removed");
  }
  for (const size_t place : difference.changed) {
    const std::string& name = wanted.channels[place].name;
    if (carries_logs(name)) refuse(name, "changed");
  }
  for (const size_t place : difference.added) {
    if (!now.process.collect.empty()) refuse(wanted.channels[place].name, "added");
  }
}

// Without what belongs to forwards, or to listeners that this channel does not have.
ChannelSettings own_settings(const ChannelOptions& channel) {
  ChannelSettings settings = channel.settings;
  const ChannelSettings unset;
  settings.memory = unset.memory;
  settings.max_streams = unset.max_streams;
  settings.client_uids = unset.client_uids;
  settings.client_gids = unset.client_gids;
  settings.priority = unset.priority;
  settings.when_down = unset.when_down;
  settings.connect_timeout = unset.connect_timeout;
  if (!transport_listens(channel.transport)) {
    settings.mode = unset.mode;
    settings.owner = unset.owner;
    settings.allow_remote = unset.allow_remote;
    settings.peer_uids = unset.peer_uids;
    settings.peer_gids = unset.peer_gids;
    settings.peer_cids = unset.peer_cids;
  }
  return settings;
}

// A value that is left open stays what was made of it.
template <typename Value>
bool stays(const std::optional<Value>& before, Value in_effect, const std::optional<Value>& after) {
  return after ? *after == in_effect : !before;
}

bool is_same(const ChannelOptions& now, const ChannelOptions& wanted) {
  return now.transport == wanted.transport && now.address == wanted.address &&
         now.peer_timeout == wanted.peer_timeout && own_settings(now) == own_settings(wanted) &&
         stays(now.settings.memory, now.memory, wanted.settings.memory) &&
         stays(now.settings.max_streams, now.max_streams, wanted.settings.max_streams);
}

bool is_same(const ForwardSpec& now, const ForwardSpec& wanted) {
  return now.is_same_listener(wanted) && now.priority == wanted.priority &&
         now.when_down == wanted.when_down && now.clients == wanted.clients &&
         now.listen == wanted.listen && now.connect_timeout == wanted.connect_timeout;
}

std::vector<const ForwardSpec*> forwards_of(const std::vector<ForwardSpec>& forwards,
                                            const std::string& channel) {
  std::vector<const ForwardSpec*> all;
  for (const ForwardSpec& forward : forwards) {
    if (forward.channel == channel) all.push_back(&forward);
  }
  return all;
}

std::string name_of(char option, const ForwardSpec& forward) {
  return fmt::format("-{} {} of {} {} {}", option, forward.service, forward.channel,
                     option == 'o' ? "on" : "to", forward.address.to_string());
}

// Compares the forwards of a channel in one direction. `option` is the letter that gives them on
// the command line; `matches` is true for two versions of the same forward.
template <typename Matches>
bool compare(char option, const std::vector<const ForwardSpec*>& now,
             const std::vector<const ForwardSpec*>& wanted, const Matches& matches,
             Difference& difference) {
  const auto match = [&](const ForwardSpec& one, const std::vector<const ForwardSpec*>& all) {
    return std::find_if(all.begin(), all.end(),
                        [&](const ForwardSpec* other) { return matches(one, *other); });
  };
  bool differ = false;
  const auto note = [&](std::vector<std::string>& names, const ForwardSpec& forward) {
    names.push_back(name_of(option, forward));
    differ = true;
  };
  for (const ForwardSpec* const each : wanted) {
    const auto same = match(*each, now);
    if (same == now.end()) {
      note(difference.forwards_added, *each);
    } else if (!is_same(**same, *each)) {
      note(difference.forwards_changed, *each);
    }
  }
  for (const ForwardSpec* const each : now) {
    if (match(*each, wanted) == wanted.end()) note(difference.forwards_removed, *each);
  }
  return differ;
}

bool compare_forwards(const Options& now, const Options& wanted, const std::string& channel,
                      Difference& difference) {
  const bool listeners = compare(
      'o', forwards_of(now.oforwards, channel), forwards_of(wanted.oforwards, channel),
      [](const auto& one, const auto& other) { return one.is_same_listener(other); }, difference);
  const bool services = compare(
      'i', forwards_of(now.iforwards, channel), forwards_of(wanted.iforwards, channel),
      [](const auto& one, const auto& other) { return one.service == other.service; }, difference);
  return listeners || services;
}

// Memory of channels that stay is theirs: it cannot be taken away while streams are open.
void share_memory(Options& wanted, Difference& difference) {
  std::vector<ChannelOptions*> to_share;
  uint64_t used = 0;
  const auto begins = [&](size_t place) {
    const auto is_one = [&](const std::vector<size_t>& places) {
      return std::find(places.begin(), places.end(), place) != places.end();
    };
    return is_one(difference.added) || is_one(difference.changed);
  };
  for (size_t i = 0; i < wanted.channels.size(); ++i) {
    ChannelOptions& channel = wanted.channels[i];
    if (begins(i) && !channel.settings.memory) {
      to_share.push_back(&channel);
    } else {
      used += channel.memory;
    }
  }
  const auto& limit = wanted.process.memory;
  if (limit) {
    const uint64_t left = *limit > used ? *limit - used : 0;
    const uint64_t part = to_share.empty() ? 0 : left / to_share.size();
    if (used > *limit || (!to_share.empty() && part < option_ranges::kMinChannelMemory)) {
      difference.errors.push_back(
          fmt::format("memory {} is too little: {} of it are in use by channels that stay. Make it "
                      "larger; only a restart divides it again",
                      format_size(*limit), format_size(used)));
      return;
    }
    for (ChannelOptions* const channel : to_share) give_memory(*channel, part);
    wanted.memory = *limit;
    return;
  }
  wanted.memory = 0;
  for (const ChannelOptions& channel : wanted.channels) wanted.memory += channel.memory;
}

constexpr size_t kMostNamed = 8;

// "a, b", and how many more there are behind the first kMostNamed.
std::string first_of(const std::vector<std::string>& names) {
  const size_t named = std::min(names.size(), kMostNamed);
  const std::string more =
      named < names.size() ? fmt::format(" and {} more", names.size() - named) : "";
  return fmt::format(
      "{}{}", fmt::join(names.begin(), names.begin() + static_cast<ptrdiff_t>(named), ", "), more);
}

// "2 forwards added (-o web of vm1 on 127.0.0.1:80, -i db of vm1 to 127.0.0.1:81)"
std::string counted(const std::vector<std::string>& names, std::string_view what,
                    std::string_view became) {
  return fmt::format("{} {}{} {} ({})", names.size(), what, names.size() == 1 ? "" : "s", became,
                     first_of(names));
}

}  // namespace

std::string Difference::summary(const Options& wanted) const {
  std::string text;
  const auto add = [&](const std::vector<std::string>& names, std::string_view what,
                       std::string_view became) {
    if (!names.empty()) text += (text.empty() ? "" : ", ") + counted(names, what, became);
  };
  const auto names = [&](const std::vector<size_t>& places) {
    std::vector<std::string> all;
    for (const size_t place : places) all.push_back(wanted.channels[place].name);
    return all;
  };
  add(names(added), "channel", "added");
  add(removed, "channel", "removed");
  add(names(changed), "channel", "replaced");
  add(forwards_added, "forward", "added");
  add(forwards_removed, "forward", "removed");
  add(forwards_changed, "forward", "changed");
  for (const std::string_view key : settings_changed) {
    text += fmt::format("{}{} changed", text.empty() ? "" : ", ", key);
  }
  return text.empty() ? "no channel or forward is different" : text;
}

std::string unknown_channel(const Options& options, std::string_view name) {
  std::vector<std::string> names;
  for (const ChannelOptions& channel : options.channels) names.push_back(channel.name);
  return fmt::format("there is no channel {}; the {} {}", in_quotes(name),
                     names.size() == 1 ? "channel is" : "channels are", first_of(names));
}

const ChannelOptions* find_channel(const Options& options, std::string_view name) {
  const auto found = std::find_if(options.channels.begin(), options.channels.end(),
                                  [&](const auto& channel) { return channel.name == name; });
  return found == options.channels.end() ? nullptr : &*found;
}

Difference difference(const Options& now, Options& wanted) {
  Difference difference;
  compare_process(now.process, wanted.process, difference.errors);
  for (size_t i = 0; i < wanted.channels.size(); ++i) {
    ChannelOptions& channel = wanted.channels[i];
    const ChannelOptions* const before = find_channel(now, channel.name);
    const bool other_forwards = compare_forwards(now, wanted, channel.name, difference);
    if (before == nullptr) {
      difference.added.push_back(i);
    } else if (!is_same(*before, channel)) {
      difference.changed.push_back(i);
    } else {
      channel.memory = before->memory;
      channel.max_streams = before->max_streams;
      const bool other_timeout =
          before->settings.connect_timeout != channel.settings.connect_timeout;
      if (other_forwards || other_timeout) difference.other_forwards.push_back(i);
    }
  }
  for (const ChannelOptions& channel : now.channels) {
    if (find_channel(wanted, channel.name) != nullptr) continue;
    difference.removed.push_back(channel.name);
    compare_forwards(now, wanted, channel.name, difference);
  }
  check_logs(now, wanted, difference);
  share_memory(wanted, difference);
  const auto note_change = [&](bool changed, std::string_view key) {
    if (changed) difference.settings_changed.push_back(key);
  };
  note_change(now.process.memory != wanted.process.memory, "memory");
  note_change(now.process.drain_timeout != wanted.process.drain_timeout, "drain-timeout");
  note_change(now.process.log_level != wanted.process.log_level, "log-level");
  return difference;
}

}  // namespace virtproxy
