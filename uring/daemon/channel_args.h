// The arguments of -c, -o, -i, --priority and --peer-timeout: reading them one by one, and what they must not be
// together. Every error is one line that says what was wrong and what would be right.
#pragma once

#include <optional>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "uring/daemon/options.h"

namespace virtproxy {

// The names of all channel methods, for messages.
std::string transport_list();

// Channels without an id take the lowest free ones, in order.
tl::expected<std::vector<ChannelSpec>, std::string> parse_channels(
    const std::vector<std::string>& args);

// `option` is the letter, o or i: it decides whether the address is to listen on or to dial.
tl::expected<std::vector<ForwardSpec>, std::string> parse_forwards(
    const std::vector<std::string>& args, char option);

// Nothing, or the fault: a forward of a channel that is not there, …
std::optional<std::string> check_channel_ids(const Options& options);
// … two that want the same listener or device, or two channels to one peer.
std::optional<std::string> check_exclusive(const Options& options);

// Gives the forwards of SERVICE=PRIORITY their priority. Nothing, or the fault.
std::optional<std::string> apply_priority(const std::string& arg,
                                          std::vector<ForwardSpec>& forwards);

// Gives TCP channels the time-outs of SECONDS[:ID]; one with an ID wins over one without. Nothing,
// or the fault.
std::optional<std::string> apply_peer_timeouts(const std::vector<std::string>& args,
                                               std::vector<ChannelSpec>& channels);

}  // namespace virtproxy
