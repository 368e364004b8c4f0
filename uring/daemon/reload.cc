#include "uring/daemon/reload.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <set>
#include <system_error>
#include <utility>

#include "uring/base/clock.h"
#include "uring/base/log.h"
#include "uring/base/text.h"
#include "uring/base/units.h"
#include "uring/daemon/start_checks.h"
#include "uring/daemon/worker_configs.h"
#include "uring/transport/transport_kind.h"

namespace virtproxy {
namespace {

using Failure = tl::unexpected<std::string>;

// For all listeners of one change: the main thread does nothing else meanwhile.
constexpr Duration kPatience = std::chrono::milliseconds(250);

constexpr std::string_view kCurrent = "the configuration in effect";

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += (text.empty() ? "" : "\n") + line;
  return text;
}

void log_failure(std::string_view what, std::string_view text) {
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    log_error("{}: {}", what, text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  log_answer("{}: nothing is changed", what);
}

// One channel or forward alone, to see what it needs.
Options only(const ChannelOptions& channel) {
  Options options;
  options.channels = {channel};
  return options;
}

Options only(const ForwardSpec& forward, bool listens) {
  Options options;
  (listens ? options.oforwards : options.iforwards) = {forward};
  return options;
}

// As parse_options() numbers them, so that what is read beside them has the same numbers.
void number_channels(Options& options) {
  std::set<unsigned> taken;
  for (const ChannelOptions& channel : options.channels) {
    if (const auto number = parse_number<unsigned>(channel.name)) taken.insert(*number);
  }
  unsigned next = 0;
  for (ChannelOptions& channel : options.channels) {
    const auto number = parse_number<unsigned>(channel.name);
    while (!number && taken.count(next) != 0) ++next;
    channel.id = number ? *number : next++;
  }
  for (auto* const forwards : {&options.oforwards, &options.iforwards}) {
    for (ForwardSpec& forward : *forwards) {
      forward.id = find_channel(options, forward.channel)->id;
    }
  }
}

// With its forwards.
void remove_channel(Options& options, const std::string& name) {
  const auto is_its = [&](const ForwardSpec& forward) { return forward.channel == name; };
  std::erase_if(options.channels, [&](const auto& channel) { return channel.name == name; });
  std::erase_if(options.oforwards, is_its);
  std::erase_if(options.iforwards, is_its);
  number_channels(options);
}

template <typename Range, typename Same>
bool has(const Range& range, const Same& same) {
  return std::any_of(range.begin(), range.end(), same);
}

// False if the path of a unix socket cannot be made.
bool has_directory(const Address& address) {
  if (address.kind != Address::Kind::kUnix || address.host.starts_with('@')) return true;
  const std::filesystem::path directory = std::filesystem::path(address.host).parent_path();
  std::error_code error;
  return directory.empty() || std::filesystem::is_directory(directory, error);
}

bool is_same_service(const ForwardSpec& one, const ForwardSpec& other) {
  return one.channel == other.channel && one.service == other.service &&
         one.address == other.address;
}

}  // namespace

Reloader::Reloader(Options& options, Workers& workers, ListenerStore& listeners,
                   ServiceManager& manager, Read read)
    : options_(options),
      at_start_(options),
      workers_(workers),
      listeners_(listeners),
      manager_(manager),
      read_(std::move(read)),
      mailbox_(std::make_shared<Mailbox>()),
      places_(workers.size()) {
  for (size_t i = 0; i < options.channels.size(); ++i) {
    places_[i % workers.size()].push_back(options.channels[i].name);
  }
}

void Reloader::run() {
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t taken = ::read(mailbox_->fd(), &count, sizeof count);
  mailbox_->run();
}

void Reloader::make(const ChannelChange& change, const Finish& finish) {
  switch (change.kind) {
    case ChannelChange::Kind::kReload:
      return reload(finish);
    case ChannelChange::Kind::kAdd:
      return add(change.option, change.arg, finish);
    case ChannelChange::Kind::kRemove:
      return remove(change.option, change.arg, finish);
  }
}

void Reloader::reload(const Finish& finish) {
  if (!at_start_.from_file) {
    return finish(Failure("there is no file to read: the process was started without --config"));
  }
  auto read = read_();
  if (!read) {
    std::string text = read.error().text;
    while (text.ends_with('\n')) text.pop_back();
    log_failure("reload", text);
    return finish(Failure(std::move(text)));
  }
  change_to(*std::move(read), "reload", finish);
}

// The command line with one argument, beside what is in effect.
tl::expected<Options, std::string> Reloader::read_one(char option, const std::string& arg) const {
  Options beside = options_;
  // What it may use is decided later.
  beside.memory = 0;
  if (beside.process.memory) beside.process.memory = option_ranges::kMaxMemory;
  const std::string flag = std::string("-") + option;
  const std::string text = print_config(beside);
  const std::string config(kCurrent);
  const char* const argv[] = {"virtproxy",  "--config",  config.c_str(),
                              flag.c_str(), arg.c_str(), nullptr};
  auto parsed = parse_options(5, argv, [&](const std::string&) {
    return std::vector<ConfigText>{{config, text}};
  });
  if (parsed) return *std::move(parsed);
  std::string error = "\n" + parsed.error().text;
  while (error.ends_with('\n')) error.pop_back();
  // The client has a name of its own.
  constexpr std::string_view kProgram = "\nvirtproxy: ";
  for (size_t at = 0; (at = error.find(kProgram, at)) != std::string::npos;) {
    error.erase(at + 1, kProgram.size() - 1);
  }
  return Failure(error.substr(std::min<size_t>(error.size(), 1)));
}

void Reloader::add(char option, const std::string& arg, const Finish& finish) {
  auto parsed = read_one(option, arg);
  if (!parsed) return finish(Failure(parsed.error()));
  Options wanted = options_;
  if (option == 'c') {
    wanted.channels.push_back(parsed->channels.back());
    number_channels(wanted);
  } else {
    auto& into = option == 'o' ? wanted.oforwards : wanted.iforwards;
    ForwardSpec forward = (option == 'o' ? parsed->oforwards : parsed->iforwards).back();
    forward.id = find_channel(wanted, forward.channel)->id;
    into.push_back(std::move(forward));
  }
  change_to(std::move(wanted), "control", finish);
}

void Reloader::remove(char option, const std::string& arg, const Finish& finish) {
  Options wanted = options_;
  if (option == 'c') {
    if (find_channel(options_, arg) == nullptr) {
      return finish(Failure(unknown_channel(options_, arg)));
    }
    if (options_.channels.size() == 1) {
      return finish(Failure("channel " + arg + " is the last one: stop the process instead"));
    }
    remove_channel(wanted, arg);
    return change_to(std::move(wanted), "control", finish);
  }
  // Read beside the channels alone: what is there already would be in its way.
  Options channels = options_;
  channels.oforwards.clear();
  channels.iforwards.clear();
  std::swap(options_, channels);
  const auto parsed = read_one(option, arg);
  std::swap(options_, channels);
  if (!parsed) return finish(Failure(parsed.error()));
  const ForwardSpec& named = (option == 'o' ? parsed->oforwards : parsed->iforwards).back();
  auto& forwards = option == 'o' ? wanted.oforwards : wanted.iforwards;
  const auto removed = std::erase_if(
      forwards, [&](const ForwardSpec& forward) { return is_same_service(forward, named); });
  if (removed == 0) {
    return finish(Failure(fmt::format("there is no -{} {} of channel {}; forwards lists them",
                                      option, printable(arg), named.channel)));
  }
  change_to(std::move(wanted), "control", finish);
}

void Reloader::check_confinement(const Options& wanted, const Difference& difference,
                                 std::vector<std::string>& errors) const {
  const auto check = [&](const std::string& what, Options needed) {
    needed.process = wanted.process;
    needed.config = wanted.config;
    needed.from_file = wanted.from_file;
    std::string missing;
    if (confinement_.filtered) missing = Sandbox::lacks(at_start_, needed);
    if (missing.empty() && confinement_.landlock) missing = lacks(*confinement_.landlock, needed);
    if (missing.empty()) return;
    errors.push_back(what + ": the sandbox was made at the start and does not allow " + missing +
                     ": restart, or give --sandbox off");
  };
  for (const auto* const places : {&difference.added, &difference.changed}) {
    for (const size_t place : *places) {
      const ChannelOptions& channel = wanted.channels[place];
      check("channel " + channel.name, only(channel));
    }
  }
  const auto check_forwards = [&](const std::vector<ForwardSpec>& before,
                                  const std::vector<ForwardSpec>& after, bool listens) {
    for (const ForwardSpec& forward : after) {
      // To bind it says more.
      if (listens && !has_directory(forward.address)) continue;
      if (has(before, [&](const auto& other) { return is_same_service(forward, other); })) continue;
      check(fmt::format("service {} of channel {}", forward.service, forward.channel),
            only(forward, listens));
    }
  };
  check_forwards(options_.oforwards, wanted.oforwards, true);
  check_forwards(options_.iforwards, wanted.iforwards, false);
}

// The worker that has a channel of this name, else the one with the fewest.
size_t Reloader::worker_for(const std::string& channel) const {
  const auto has_it = [&](const auto& names) {
    return std::find(names.begin(), names.end(), channel) != names.end();
  };
  auto place = std::find_if(places_.begin(), places_.end(), has_it);
  if (place == places_.end()) {
    place = std::min_element(
        places_.begin(), places_.end(),
        [](const auto& one, const auto& other) { return one.size() < other.size(); });
  }
  return static_cast<size_t>(place - places_.begin());
}

// Completes an error about what the start might have been allowed to do.
std::string Reloader::privileges_lost() const {
  constexpr std::string_view kRestart =
      ": restart it for that, or have the service manager pass the socket";
  if (at_start_.process.user) {
    return fmt::format("; the process has no more rights than its user (--user) since its start{}",
                       kRestart);
  }
  if (geteuid() != 0 || !at_start_.process.sandbox) return "";
  return fmt::format("; root has dropped its capabilities at the start{}", kRestart);
}

// With a socket for each listener that the worker does not have yet. `before` is the channel that
// stays.
WantedChannel Reloader::wanted_channel(const Options& options, const ChannelOptions& channel,
                                       const ChannelOptions* before,
                                       std::vector<std::string>& errors) {
  WantedChannel wanted{channel_config(channel), forward_config(options, channel), {}};
  const auto listen = [&](ListenerOf of, const Address& address, const ListenRules& rules) {
    errno = 0;
    auto listening = listeners_.get(of, address, rules);
    if (listening) return *std::move(listening);
    const bool forbidden = errno == EACCES || errno == EPERM;
    errors.push_back("channel " + channel.name + ": " + listening.error() +
                     (forbidden ? privileges_lost() : ""));
    return Listening{};
  };
  for (const ForwardSpec& forward : wanted.forwards.oforwards) {
    const bool stays = before != nullptr && has(options_.oforwards, [&](const ForwardSpec& other) {
                         return other.channel == channel.name && other.is_same_listener(forward);
                       });
    Listening listening = listen(ListenerOf::kForward, forward.address, forward.listen);
    // The worker has it: only that its mode and owner are the same was of interest.
    if (stays) {
      for (const int fd : std::exchange(listening.sockets, {})) close(fd);
    }
    wanted.listen_sockets.forwards.push_back(std::move(listening));
  }
  if (before == nullptr && transport_listens(channel.transport)) {
    wanted.listen_sockets.transport = listen(ListenerOf::kChannel, channel.address, channel.listen);
  }
  return wanted;
}

std::vector<std::shared_ptr<WorkerChange>> Reloader::changes_of(const Options& wanted,
                                                                const Difference& difference,
                                                                std::vector<std::string>& errors) {
  std::vector<std::shared_ptr<WorkerChange>> changes;
  for (size_t i = 0; i < workers_.size(); ++i) {
    changes.push_back(std::make_shared<WorkerChange>());
    changes.back()->drain_timeout = to_duration(wanted.process.drain_timeout);
  }
  for (const std::string& name : difference.removed) {
    changes[worker_for(name)]->ended.push_back(name);
  }
  for (const size_t place : difference.other_forwards) {
    const ChannelOptions& channel = wanted.channels[place];
    changes[worker_for(channel.name)]->kept.push_back(
        wanted_channel(wanted, channel, find_channel(options_, channel.name), errors));
  }
  const auto begin = [&](size_t place) -> WorkerChange& {
    const ChannelOptions& channel = wanted.channels[place];
    const size_t worker = worker_for(channel.name);
    WantedChannel made = wanted_channel(wanted, channel, nullptr, errors);
    if (const auto checked = check_config(made.channel); !checked) {
      errors.push_back(checked.error());
    }
    changes[worker]->begun.push_back(std::move(made));
    auto& names = places_[worker];
    if (std::find(names.begin(), names.end(), channel.name) == names.end()) {
      names.push_back(channel.name);
    }
    return *changes[worker];
  };
  for (const size_t place : difference.changed) {
    begin(place).ended.push_back(wanted.channels[place].name);
  }
  for (const size_t place : difference.added) begin(place);
  return changes;
}

// What listens nowhere is closed here, and the service manager told what is left.
void Reloader::keep_listeners(const Options& options) {
  std::vector<const Address*> addresses;
  for (const ForwardSpec& forward : options.oforwards) addresses.push_back(&forward.address);
  for (const ChannelOptions& channel : options.channels) {
    if (transport_listens(channel.transport)) addresses.push_back(&channel.address);
  }
  if (!listeners_.keep_only(addresses)) return;
  const std::vector<int> sockets = listeners_.own_sockets();
  manager_.store(ServiceManager::kStored, sockets, true);
}

void Reloader::forget(const std::string& channel) {
  const ChannelOptions* const known = find_channel(options_, channel);
  if (known == nullptr) return;
  if (!options_.process.memory) options_.memory -= known->memory;
  remove_channel(options_, channel);
  for (auto& names : places_) std::erase(names, channel);
  keep_listeners(options_);
}

void Reloader::change_to(Options wanted, std::string_view what, const Finish& finish) {
  Difference difference = virtproxy::difference(options_, wanted);
  std::vector<std::string> errors = std::move(difference.errors);
  check_confinement(wanted, difference, errors);
  if (const auto checked = check_paths(wanted); !checked) errors.push_back(checked.error());
  std::vector<std::shared_ptr<WorkerChange>> changes;
  const auto places = places_;
  listeners_.set_deadline(monotonic_now() + kPatience);
  if (errors.empty()) changes = changes_of(wanted, difference, errors);
  if (!errors.empty()) {
    for (const auto& change : changes) {
      for (WantedChannel& each : change->begun) close_sockets(each.listen_sockets);
      for (WantedChannel& each : change->kept) close_sockets(each.listen_sockets);
    }
    places_ = places;
    keep_listeners(options_);
    log_failure(what, joined(errors));
    return finish(Failure(joined(errors)));
  }
  if (wanted.process.log_level != options_.process.log_level) {
    set_log_level(wanted.process.log_level);
  }
  const std::string summary = difference.summary(wanted);
  options_ = std::move(wanted);
  keep_listeners(options_);
  log_answer("{}: {}", what, summary);

  gather<WorkerChanged>(
      mailbox_, workers_.size(),
      [&](size_t i, std::shared_ptr<Answer<WorkerChanged>> answer) {
        workers_[i]->apply(changes[i], [answer = std::move(answer)](WorkerChanged changed) {
          answer->give(std::move(changed));
        });
      },
      [this, summary, finish, number = ++changes_](std::vector<WorkerChanged> all) {
        std::vector<std::string> failed;
        for (size_t i = 0; i < all.size(); ++i) {
          // A later change may have given it channels that it does not know of yet.
          if (number == changes_) places_[i] = std::move(all[i].channels);
          for (const ChannelFailure& failure : all[i].failures) {
            failed.push_back(failure.text);
            forget(failure.channel);
          }
        }
        if (failed.empty()) return finish(summary);
        finish(Failure(joined(failed)));
      });
}

}  // namespace virtproxy
