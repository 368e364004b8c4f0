// What is different between the options that a process runs with and those that it is to have.
//
// A channel is the same if its name, its transport and everything that only a new channel could
// have are the same. A listener is the same if its channel, service and address are. What cannot
// change while the process runs is an error that names the key.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "uring/daemon/options.h"

namespace virtproxy {

struct Difference {
  std::vector<std::string> errors;  // one line each; with one of them the rest means nothing
  // Channels, by their place in the wanted options. A changed one is replaced.
  std::vector<size_t> added;
  std::vector<size_t> changed;
  std::vector<size_t> other_forwards;  // of channels that stay
  std::vector<std::string> removed;    // channels, by name
  // Of all channels, each as a person would name it: "-o web of vm1".
  std::vector<std::string> forwards_added;
  std::vector<std::string> forwards_removed;
  std::vector<std::string> forwards_changed;
  std::vector<std::string_view> settings_changed;  // of the process; they hold at once

  bool nothing() const {
    return added.empty() && changed.empty() && other_forwards.empty() && removed.empty();
  }
  // For people: "1 channel added (vm2), 2 forwards removed (-o web of vm1, -i db of vm1)". `wanted`
  // is what the difference was made with.
  std::string summary(const Options& wanted) const;
};

// Gives channels of `wanted` that stay the memory that they have, and the new ones a part of what
// is left of [process] memory, or without that key the part that they would have at a start.
Difference difference(const Options& now, Options& wanted);

// The channel of that name; null where there is none.
const ChannelOptions* find_channel(const Options& options, std::string_view name);
// "there is no channel 'x'; the channels are a, b".
std::string unknown_channel(const Options& options, std::string_view name);

}  // namespace virtproxy
