// The command line's part of a draft, and what belongs to what.

#include <algorithm>
#include <set>

#include "uring/base/text.h"
#include "uring/base/units.h"
#include "uring/daemon/options_draft.h"
#include "uring/mux/memory_shares.h"

namespace virtproxy {
namespace {

using namespace option_ranges;

ChannelDraft* find_channel(Draft& draft, const std::string& name) {
  const auto found = draft.places.find(name);
  return found == draft.places.end() ? nullptr : &draft.channels[found->second];
}

std::string channel_list(const Draft& draft) {
  std::map<unsigned, std::string> channels;
  for (const ChannelDraft& channel : draft.channels) {
    channels.emplace(channel.options.id, channel.options.name);
  }
  std::string list;
  for (const auto& [id, name] : channels) {
    if (list.size() > 200) return list + ", …";
    list += (list.empty() ? "" : ", ") + std::to_string(id);
    if (name != std::to_string(id)) list += " (" + name + ")";
  }
  return list;
}

void number_channels(Draft& draft) {
  std::map<std::string, const ChannelDraft*> names;
  std::set<unsigned> taken;
  for (ChannelDraft& channel : draft.channels) {
    if (!channel.has_name) continue;
    const auto number = parse_number<unsigned>(channel.options.name);
    const auto [other, fresh] = names.emplace(channel.options.name, &channel);
    if (!fresh) {
      draft.complain_of(channel.at, channel.options.text,
                        std::string(number ? "channel number " : "channel name ") +
                            channel.options.name + " is already that of " +
                            other->second->options.text,
                        "give every channel its own");
    } else if (number) {
      taken.insert(*number);
    }
  }
  unsigned next = 0;
  for (ChannelDraft& channel : draft.channels) {
    const auto number =
        channel.has_name ? parse_number<unsigned>(channel.options.name) : std::nullopt;
    if (!number) {
      while (taken.count(next) != 0) ++next;
    }
    channel.options.id = number ? *number : next++;
    if (!channel.has_name) channel.options.name = std::to_string(channel.options.id);
  }
  for (size_t i = 0; i < draft.channels.size(); ++i) {
    const ChannelOptions& channel = draft.channels[i].options;
    draft.places.emplace(channel.name, i);
    draft.places.emplace(std::to_string(channel.id), i);
  }
}

void attach_forwards(Draft& draft, std::vector<ForwardDraft>& forwards) {
  for (ForwardDraft& forward : forwards) {
    const ChannelDraft* const channel = find_channel(draft, forward.channel);
    if (channel == nullptr) {
      if (parse_number<unsigned>(forward.channel)) {
        draft.complain({},
                       "unable to find channel with index: " + forward.channel + " (asked for by " +
                           forward.spec.text + ")",
                       "the channels given have index " + channel_list(draft));
      } else {
        draft.complain_of({}, forward.spec.text, "there is no channel '" + forward.channel + "'",
                          "the channels given have index " + channel_list(draft));
      }
      continue;
    }
    forward.spec.id = channel->options.id;
    forward.spec.channel = channel->options.name;
    if (!forward.at.in_file()) forward.settings = channel->options.settings;
  }
}

void apply_priority(const std::string& arg, Draft& draft) {
  const OptionRow& row = option_row("priority");
  const size_t equals = arg.rfind('=');
  const std::string shown = "--priority " + printable(arg);
  if (equals == std::string::npos) {
    return draft.complain({}, shown, "write SERVICE=interactive, SERVICE=normal or SERVICE=bulk");
  }
  ChannelSettings read;
  if (row.read(row, shown, {arg.substr(equals + 1)}, draft.process, read)) {
    return draft.complain({}, shown, "a priority is interactive, normal or bulk");
  }
  const std::string service = arg.substr(0, equals);
  bool found = false;
  for (ForwardDraft& forward : draft.oforwards) {
    if (forward.spec.service != service) continue;
    forward.settings.priority = read.priority;
    found = true;
  }
  if (found) return;
  draft.complain({}, shown + ": there is no -o forward of service " + in_quotes(service),
                 "name one that is given with -o");
}

bool is_tcp(const ChannelDraft& channel) {
  return channel.options.address.kind == Address::Kind::kTcp;
}

// SECONDS is for every channel, SECONDS:CHANNEL for one, which wins.
void apply_peer_timeouts(const std::vector<std::string>& args, Draft& draft) {
  const OptionRow& row = option_row("peer-timeout");
  std::map<ChannelDraft*, double> own;
  for (const std::string& arg : args) {
    const std::string shown = "--peer-timeout " + printable(arg);
    const size_t colon = arg.find(':');
    const std::string text = arg.substr(0, colon);
    ChannelSettings read;
    if (const auto seconds = parse_seconds(text); !seconds) {
      draft.complain({}, shown + ": " + seconds.error(), "write SECONDS or SECONDS:CHANNEL");
      continue;
    }
    if (const auto fault = row.read(row, shown, {text}, draft.process, read)) {
      draft.complain({}, shown, fault->right);
      continue;
    }
    if (colon == std::string::npos) {
      if (std::none_of(draft.channels.begin(), draft.channels.end(), is_tcp)) {
        draft.complain({}, shown + ": no channel is a TCP one",
                       "other channels end when the other end does, and need no time-out");
      }
      for (ChannelDraft& channel : draft.channels) {
        if (channel.given.count(&row) == 0) {
          channel.options.settings.peer_timeout = read.peer_timeout;
        }
      }
      continue;
    }
    const std::string name = arg.substr(colon + 1);
    ChannelDraft* const channel = find_channel(draft, name);
    if (channel == nullptr) {
      draft.complain({}, shown + ": there is no channel " + in_quotes(name),
                     "name one of " + channel_list(draft));
    } else if (!is_tcp(*channel)) {
      draft.complain({}, shown + ": channel " + name + " is no TCP channel", channel->options.text);
    } else {
      own[channel] = read.peer_timeout;
    }
  }
  for (const auto& [channel, seconds] : own) channel->options.settings.peer_timeout = seconds;
}

}  // namespace

void read_options(const CommandLine& line, Draft& draft) {
  for (const OptionRow& row : option_table()) {
    if (!row.in(option_scope::kCommandLine) || row.read == nullptr || !row.argument.empty()) {
      continue;
    }
    const std::string label = "--" + std::string(row.name);
    std::vector<std::string> values;
    if (row.is_flag()) {
      if (line.count(row.name) > 0) values = {"on"};
    } else if (const auto* const given = line.find(row.name)) {
      values = *given;
    }
    if (values.empty()) continue;
    if (auto fault = row.read(row, label, values, draft.process, draft.defaults)) {
      draft.complain({}, std::move(fault->what), std::move(fault->right));
    } else {
      draft.given[&row] = {};
    }
  }
  const auto louder =
      static_cast<int>(draft.process.log_level) + static_cast<int>(line.count("verbose"));
  draft.process.log_level =
      static_cast<LogLevel>(std::min(louder, static_cast<int>(LogLevel::kTrace)));
}

void read_arguments(const CommandLine& line, Draft& draft) {
  if (const auto* const channels = line.find("channel")) {
    for (const std::string& arg : *channels) read_channel(arg, draft);
  }
  for (const char option : {'o', 'i'}) {
    const auto* const forwards = line.find(option == 'o' ? "oforward" : "iforward");
    if (forwards == nullptr) continue;
    for (const std::string& arg : *forwards) read_forward(arg, option, draft);
  }
  if (draft.channels.size() > kMaxChannels) {
    draft.complain({}, "too many channels: " + std::to_string(draft.channels.size()) + " given",
                   "the limit is " + std::to_string(kMaxChannels));
    draft.channels.resize(kMaxChannels);
  }
  for (const auto* const forwards : {&draft.oforwards, &draft.iforwards}) {
    if (forwards->size() <= kMaxForwards) continue;
    draft.complain({}, "too many forwards: " + std::to_string(forwards->size()) + " given",
                   "the limit is " + std::to_string(kMaxForwards) + " in each direction");
  }
}

void resolve(const CommandLine& line, Draft& draft) {
  number_channels(draft);
  attach_forwards(draft, draft.oforwards);
  attach_forwards(draft, draft.iforwards);
  if (const auto* const args = line.find("peer-timeout")) apply_peer_timeouts(*args, draft);
  if (const auto* const args = line.find("priority")) {
    for (const std::string& arg : *args) apply_priority(arg, draft);
  }
  // A socket belongs to the user that the daemon runs as.
  const auto settle_owner = [&](SocketOwner& owner) {
    if (!draft.process.user) return;
    if (!owner.user) owner.user = draft.process.user->uid;
    if (!owner.group) owner.group = draft.process.user->gid;
  };
  for (ChannelDraft& channel : draft.channels) settle_owner(channel.options.settings.owner);
  for (ForwardDraft& forward : draft.oforwards) settle_owner(forward.settings.owner);
}

}  // namespace virtproxy
