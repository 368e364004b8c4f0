// How the value of a row is read and shown, by the type of its member. Of option_table.cc alone.
#pragma once

#include <algorithm>

#include "uring/daemon/option_table.h"

namespace virtproxy::option_values {

using Given = std::vector<std::string>;
using Fault = std::optional<Complaint>;

Fault read(const OptionRow& row, std::string_view label, const Given& given, uint32_t& into);
Fault read(const OptionRow& row, std::string_view label, const Given& given, uint64_t& into);
Fault read(const OptionRow& row, std::string_view label, const Given& given, double& into);
Fault read(const OptionRow& row, std::string_view label, const Given& given, bool& into);
Fault read(const OptionRow& row, std::string_view label, const Given& given, Integrity& into);
Fault read(const OptionRow& row, std::string_view label, const Given& given, ProtocolMode& into);
Fault read(const OptionRow& row, std::string_view label, const Given& given, Priority& into);
Fault read(const OptionRow& row, std::string_view label, const Given& given, WhenDown& into);
Fault read(const OptionRow& row, std::string_view label, const Given& given, LogLevel& into);
Fault read(const OptionRow& row, std::string_view label, const Given& given, LogFormat& into);
Fault read(const OptionRow& row, std::string_view label, const Given& given, DriverChoice& into);
Fault read(const OptionRow& row, std::string_view label, const Given& given,
           std::optional<CollectAck>& into);
Fault read(const OptionRow& row, std::string_view label, const Given& given, SocketOwner& into);
// Where to listen: a path, or ADDRESS:PORT where the row's unit says so.
Fault read(const OptionRow& row, std::string_view label, const Given& given,
           std::optional<Address>& into);
Fault read(const OptionRow& row, std::string_view label, const Given& given,
           std::optional<Account>& into);
Fault read(const OptionRow& row, std::string_view label, const Given& given,
           std::optional<uint64_t>& into);
// A count or a mode.
Fault read(const OptionRow& row, std::string_view label, const Given& given,
           std::optional<uint32_t>& into);
// Users, groups or CIDs.
Fault read(const OptionRow& row, std::string_view label, const Given& given,
           std::vector<uint32_t>& into);
Fault read(const OptionRow& row, std::string_view label, const Given& given,
           std::vector<std::string>& into);
Fault read(const OptionRow& row, std::string_view label, const Given& given,
           std::vector<SinkSpec>& into);

Fault read(const OptionRow& row, std::string_view label, const Given& given,
           std::vector<logs::SourceSpec>& into);
Fault read(const OptionRow& row, std::string_view label, const Given& given,
           std::optional<logs::SpoolSpec>& into);
// The name of a channel.
Fault read(const OptionRow& row, std::string_view label, const Given& given, std::string& into);

Given show(const OptionRow& row, uint32_t value);
Given show(const OptionRow& row, uint64_t value);
Given show(const OptionRow& row, double value);
Given show(const OptionRow& row, bool value);
Given show(const OptionRow& row, Integrity value);
Given show(const OptionRow& row, ProtocolMode value);
Given show(const OptionRow& row, Priority value);
Given show(const OptionRow& row, const WhenDown& value);
Given show(const OptionRow& row, LogLevel value);
Given show(const OptionRow& row, LogFormat value);
Given show(const OptionRow& row, DriverChoice value);
Given show(const OptionRow& row, const std::optional<CollectAck>& value);
Given show(const OptionRow& row, const SocketOwner& value);
Given show(const OptionRow& row, const std::optional<Address>& value);
Given show(const OptionRow& row, const std::optional<Account>& value);
Given show(const OptionRow& row, const std::optional<uint64_t>& value);
Given show(const OptionRow& row, const std::optional<uint32_t>& value);
Given show(const OptionRow& row, const std::vector<uint32_t>& value);
Given show(const OptionRow& row, const std::vector<std::string>& value);
Given show(const OptionRow& row, const std::vector<logs::SourceSpec>& value);
Given show(const OptionRow& row, const std::optional<logs::SpoolSpec>& value);
Given show(const OptionRow& row, const std::string& value);
Given show(const OptionRow& row, const std::vector<SinkSpec>& value);

template <typename T, typename Value>
auto& member_of(Value T::*member, ProcessSettings& process, ChannelSettings& channel) {
  if constexpr (std::is_same_v<T, ProcessSettings>) {
    return process.*member;
  } else {
    return channel.*member;
  }
}

template <auto Member>
Fault read_member(const OptionRow& row, std::string_view label, const Given& given,
                  ProcessSettings& process, ChannelSettings& channel) {
  return read(row, label, given, member_of(Member, process, channel));
}

template <auto Member>
Given show_member(const OptionRow& row, const ProcessSettings& process,
                  const ChannelSettings& channel) {
  return show(row, member_of(Member, const_cast<ProcessSettings&>(process),
                             const_cast<ChannelSettings&>(channel)));
}

}  // namespace virtproxy::option_values
