#include "uring/daemon/option_values.h"

#include <charconv>
#include <chrono>
#include <limits>

#include "uring/base/text.h"
#include "uring/base/units.h"
#include "uring/daemon/options.h"
#include "uring/service/logs/parcel_spool.h"

namespace virtproxy::option_values {
namespace {

template <typename T>
struct Choice {
  std::string_view name;
  T value;
};

constexpr Choice<bool> kSwitch[] = {{"on", true}, {"off", false}};
constexpr Choice<Integrity> kIntegrity[] = {
    {"auto", Integrity::kAuto}, {"commit", Integrity::kCommit}, {"checksum", Integrity::kChecksum}};
constexpr Choice<ProtocolMode> kProtocol[] = {
    {"auto", ProtocolMode::kAuto}, {"1", ProtocolMode::kV1}, {"2", ProtocolMode::kV2}};
constexpr Choice<Priority> kPriority[] = {{"interactive", Priority::kInteractive},
                                          {"normal", Priority::kNormal},
                                          {"bulk", Priority::kBulk}};
constexpr Choice<DriverChoice> kDriver[] = {{"auto", DriverChoice::kAuto},
                                            {"io_uring", DriverChoice::kIoUring},
                                            {"epoll", DriverChoice::kEpoll}};
constexpr Choice<CollectAck> kCollectAck[] = {{"spool", CollectAck::kSpool},
                                              {"sink", CollectAck::kSink}};
constexpr Choice<LogFormat> kLogFormat[] = {{"text", LogFormat::kText}, {"json", LogFormat::kJson}};

// "auto, commit or checksum"
template <typename T, size_t N>
std::string names_of(const Choice<T> (&choices)[N]) {
  std::string names;
  for (size_t i = 0; i < N; ++i) {
    if (i > 0) names += i + 1 < N ? ", " : " or ";
    names += choices[i].name;
  }
  return names;
}

template <typename T, size_t N>
Fault choose(std::string_view label, const Given& given, const Choice<T> (&choices)[N], T& into) {
  const auto* const found =
      std::find_if(std::begin(choices), std::end(choices),
                   [&](const Choice<T>& choice) { return choice.name == given.back(); });
  if (found == std::end(choices)) {
    return Complaint{std::string(label) + " " + printable(given.back()),
                     "use " + names_of(choices)};
  }
  into = found->value;
  return std::nullopt;
}

template <typename T, size_t N>
Given name_of(const Choice<T> (&choices)[N], T value) {
  for (const Choice<T>& choice : choices) {
    if (choice.value == value) return {std::string(choice.name)};
  }
  return {};
}

std::string format(const OptionRow& row, double value) {
  if (row.kind == OptionKind::kSize) return format_size(static_cast<uint64_t>(value));
  if (row.kind == OptionKind::kCount) return std::to_string(static_cast<uint64_t>(value));
  return format_seconds(value);
}

// Some times may be 0 as well, for never.
std::string range_of(const OptionRow& row) {
  std::string range = "use " + format(row, row.least) + " to " + format(row, row.most);
  if (row.kind == OptionKind::kSeconds) range += " seconds";
  if (row.name == "peer-timeout") range += ", or 0 for never";
  return range;
}

bool in_range(const OptionRow& row, double value) {
  return (value >= row.least && value <= row.most) || (row.name == "peer-timeout" && value == 0);
}

template <typename T, typename U>
Fault ranged(const OptionRow& row, std::string_view label, const std::string& text,
             const tl::expected<T, std::string>& value, U& into) {
  if (!value) return Complaint{std::string(label) + " " + value.error(), range_of(row)};
  if (!in_range(row, static_cast<double>(*value))) {
    return Complaint{std::string(label) + " " + printable(text) + " is out of range",
                     range_of(row)};
  }
  into = static_cast<U>(*value);
  return std::nullopt;
}

// The reader's own advice stands behind the last colon.
Complaint split(std::string_view label, const std::string& text) {
  const size_t colon = text.rfind(": ");
  if (colon == std::string::npos) return {std::string(label) + ": " + text, ""};
  return {std::string(label) + ": " + text.substr(0, colon), text.substr(colon + 2)};
}

tl::expected<uint32_t, std::string> find_cid(std::string_view text) {
  if (text == "host") return 2;
  if (text == "local") return 1;
  if (const auto cid = parse_number<uint32_t>(text)) return *cid;
  return tl::unexpected(in_quotes(text) + " is not a CID: give a number, host or local");
}

template <typename Find>
Fault read_ids(std::string_view label, const Given& given, const Find& find,
               std::vector<uint32_t>& into) {
  std::vector<uint32_t> ids;
  for (const std::string& list : given) {
    std::string_view rest = list;
    for (bool more = true; more;) {
      const size_t comma = rest.find(',');
      more = comma != std::string_view::npos;
      const auto id = find(rest.substr(0, comma));
      if (!id) return split(label, id.error());
      ids.push_back(*id);
      if (more) rest.remove_prefix(comma + 1);
    }
  }
  into = std::move(ids);
  return std::nullopt;
}

}  // namespace

Fault read(const OptionRow& row, std::string_view label, const Given& given, uint32_t& into) {
  return ranged(row, label, given.back(), parse_count(given.back()), into);
}

Fault read(const OptionRow& row, std::string_view label, const Given& given, uint64_t& into) {
  return ranged(row, label, given.back(), parse_size(given.back()), into);
}

Fault read(const OptionRow& row, std::string_view label, const Given& given, double& into) {
  return ranged(row, label, given.back(), parse_seconds(given.back()), into);
}

// true and false, as a file may have them as text, say the same.
Fault read(const OptionRow&, std::string_view label, const Given& given, bool& into) {
  if (given.back() == "true" || given.back() == "false") {
    into = given.back() == "true";
    return std::nullopt;
  }
  if (choose(label, given, kSwitch, into)) {
    return Complaint{std::string(label) + " " + printable(given.back()),
                     "use on or off, or true or false in a file"};
  }
  return std::nullopt;
}

Fault read(const OptionRow&, std::string_view label, const Given& given, Integrity& into) {
  return choose(label, given, kIntegrity, into);
}

Fault read(const OptionRow&, std::string_view label, const Given& given, ProtocolMode& into) {
  return choose(label, given, kProtocol, into);
}

Fault read(const OptionRow&, std::string_view label, const Given& given, Priority& into) {
  return choose(label, given, kPriority, into);
}

Fault read(const OptionRow&, std::string_view label, const Given& given, WhenDown& into) {
  const std::string& text = given.back();
  constexpr std::string_view kHold = "hold ";
  if (text == "reset" || text == "close") {
    into = {text == "reset" ? WhenDown::Kind::kReset : WhenDown::Kind::kClose, {}};
    return std::nullopt;
  }
  if (text.starts_with(kHold)) {
    const auto seconds = parse_seconds(text.substr(kHold.size()));
    if (seconds && *seconds >= option_ranges::kMinClientHold &&
        *seconds <= option_ranges::kMaxClientHold) {
      const std::chrono::duration<double> hold(*seconds);
      into = {WhenDown::Kind::kHold, std::chrono::duration_cast<Duration>(hold)};
      return std::nullopt;
    }
  }
  return Complaint{std::string(label) + " " + in_quotes(text),
                   "write reset, close, or hold and a time from " +
                       format_seconds(option_ranges::kMinClientHold) + " to " +
                       format_seconds(option_ranges::kMaxClientHold) + " s, as in \"hold 10s\""};
}

Fault read(const OptionRow&, std::string_view label, const Given& given, LogFormat& into) {
  return choose(label, given, kLogFormat, into);
}

Fault read(const OptionRow&, std::string_view label, const Given& given, DriverChoice& into) {
  return choose(label, given, kDriver, into);
}

Fault read(const OptionRow&, std::string_view label, const Given& given,
           std::optional<CollectAck>& into) {
  return choose(label, given, kCollectAck, into.emplace());
}

Fault read(const OptionRow& row, std::string_view label, const Given& given,
           std::optional<Address>& into) {
  std::string_view given_text = given.back();
  // As addresses of listeners are written in a configuration file.
  for (const std::string_view path : {"unix:/", "unix:@"}) {
    if (given_text.starts_with(path)) given_text.remove_prefix(path.size() - 1);
  }
  const std::string text(given_text);
  const bool only_path = row.unit == "PATH";
  const bool is_path = only_path || ((text.starts_with('/') || text.starts_with('@')) &&
                                     text.find(':') == std::string::npos);
  const std::string form =
      only_path ? "write the path of a unix socket"
                : "write ADDRESS:PORT, such as 127.0.0.1:9155, or the path of a unix socket";
  auto parsed = is_path ? parse_address(text + ":-", AddressUse::kListen, Address::Kind::kUnix)
                        : parse_address(text, AddressUse::kListen);
  if (!parsed) {
    // What is right for a channel or a forward is more than what is right here.
    Complaint complaint = split(std::string(label) + " " + in_quotes(text), parsed.error());
    complaint.right = form;
    return complaint;
  }
  if (parsed->channel) {
    return Complaint{std::string(label) + " " + in_quotes(text) + " names a channel", form};
  }
  // There is no option that allows it: whoever reads the figures needs no right for that.
  const Address& address = parsed->address;
  if (address.kind == Address::Kind::kTcp && !address.needs_resolver()) {
    const auto known = to_socket_address(address);
    if (!known || !known->is_loopback()) {
      return Complaint{
          std::string(label) + " " + in_quotes(text) + " can be reached by other machines",
          "use a loopback address such as 127.0.0.1, or the path of a unix socket"};
    }
  }
  into = std::move(parsed->address);
  return std::nullopt;
}

Fault read(const OptionRow&, std::string_view label, const Given& given, LogLevel& into) {
  const auto level = parse_log_level(given.back());
  if (!level) {
    return Complaint{std::string(label) + " " + in_quotes(given.back()) + " is not a level",
                     "use error, warn, info, debug or trace"};
  }
  into = *level;
  return std::nullopt;
}

Fault read(const OptionRow&, std::string_view label, const Given& given,
           std::optional<Account>& into) {
  auto account = find_account(given.back());
  if (!account) return split(label, account.error());
  into = *std::move(account);
  return std::nullopt;
}

// USER, USER:GROUP or :GROUP.
Fault read(const OptionRow&, std::string_view label, const Given& given, SocketOwner& into) {
  const std::string_view whole = given.back();
  const size_t colon = whole.find(':');
  SocketOwner owner;
  if (const auto name = whole.substr(0, colon); !name.empty() || colon == std::string_view::npos) {
    const auto uid = find_user(name);
    if (!uid) return split(label, uid.error());
    owner.user = *uid;
  }
  if (colon != std::string_view::npos) {
    const auto gid = find_group(whole.substr(colon + 1));
    if (!gid) return split(label, gid.error());
    owner.group = *gid;
  }
  into = owner;
  return std::nullopt;
}

Fault read(const OptionRow& row, std::string_view label, const Given& given,
           std::optional<uint64_t>& into) {
  uint64_t value = 0;
  if (auto fault = read(row, label, given, value)) return fault;
  into = value;
  return std::nullopt;
}

Fault read(const OptionRow& row, std::string_view label, const Given& given,
           std::optional<uint32_t>& into) {
  if (row.kind == OptionKind::kMode) {
    const auto bits = parse_number<uint32_t>(given.back(), 8);
    if (!bits || *bits > 0777) {
      return Complaint{std::string(label) + " " + in_quotes(given.back()) + " is not a mode",
                       "give an octal number from 0 to 0777, such as 0660"};
    }
    into = bits;
    return std::nullopt;
  }
  uint32_t value = 0;
  if (auto fault = read(row, label, given, value)) return fault;
  into = value;
  return std::nullopt;
}

Fault read(const OptionRow& row, std::string_view label, const Given& given,
           std::vector<uint32_t>& into) {
  if (row.kind == OptionKind::kUsers) return read_ids(label, given, find_user, into);
  if (row.kind == OptionKind::kGroups) return read_ids(label, given, find_group, into);
  return read_ids(label, given, find_cid, into);
}

// Lists of names of features of a driver, or landlock.
Fault read(const OptionRow&, std::string_view label, const Given& given,
           std::vector<std::string>& into) {
  std::vector<std::string> names;
  for (const std::string& list : given) {
    const bool plain = std::all_of(list.begin(), list.end(), [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == ',';
    });
    if (!plain) {
      return Complaint{
          std::string(label) + " " + in_quotes(list) + " is not a list of feature names",
          "separate them with commas, and see --features for the names"};
    }
    DriverFeatures features;
    bool landlock = true;
    if (const auto known = disable(list, features, landlock); !known) {
      return Complaint{std::string(label) + ": " + known.error(), {}};
    }
    if (!list.empty()) names.push_back(list);
  }
  into = std::move(names);
  return std::nullopt;
}

Fault read(const OptionRow&, std::string_view label, const Given& given,
           std::vector<SinkSpec>& into) {
  std::vector<SinkSpec> sinks;
  for (const std::string& text : given) {
    auto sink = parse_sink(text);
    if (!sink) {
      return Complaint{std::string(label) + " " + in_quotes(text) + ": " + sink.error().what,
                       sink.error().right};
    }
    for (const SinkSpec& other : sinks) {
      const bool same = !sink->state.empty() && sink->state == other.state;
      if (!same && sink->label() != other.label()) continue;
      return Complaint{std::string(label) + " " + in_quotes(text) + " uses what " +
                           in_quotes(other.text) + " uses",
                       "give each sink its own"};
    }
    sinks.push_back(*std::move(sink));
  }
  if (sinks.size() > option_ranges::kMaxSinks) {
    return Complaint{std::string(label) + ": " + std::to_string(sinks.size()) + " sinks",
                     "the limit is " + std::to_string(option_ranges::kMaxSinks)};
  }
  into = std::move(sinks);
  return std::nullopt;
}

Fault read(const OptionRow&, std::string_view label, const Given& given,
           std::vector<logs::SourceSpec>& into) {
  std::vector<logs::SourceSpec> sources;
  for (const std::string& text : given) {
    auto source = logs::parse_source(text);
    if (!source) return split(label, source.error());
    sources.push_back(*std::move(source));
  }
  into = std::move(sources);
  return std::nullopt;
}

Fault read(const OptionRow& row, std::string_view label, const Given& given,
           std::optional<logs::SpoolSpec>& into) {
  auto spool = logs::parse_spool(
      given.back(), row.name == "collect-spool" ? ParcelSpool::kLeastSize : logs::kLeastSpoolSize);
  if (!spool) return split(label, spool.error());
  into = *std::move(spool);
  return std::nullopt;
}

Fault read(const OptionRow&, std::string_view label, const Given& given, std::string& into) {
  const auto name = parse_channel_name(given.back());
  if (!name) return split(label, name.error());
  into = *name;
  return std::nullopt;
}

Given show(const OptionRow&, uint32_t value) { return {std::to_string(value)}; }
Given show(const OptionRow&, uint64_t value) { return {format_size(value)}; }
Given show(const OptionRow&, double value) { return {format_seconds(value)}; }
Given show(const OptionRow&, bool value) { return name_of(kSwitch, value); }
Given show(const OptionRow&, Integrity value) { return name_of(kIntegrity, value); }
Given show(const OptionRow&, ProtocolMode value) { return name_of(kProtocol, value); }
Given show(const OptionRow&, Priority value) { return name_of(kPriority, value); }
Given show(const OptionRow&, const WhenDown& value) {
  switch (value.kind) {
    case WhenDown::Kind::kReset:
      return {"reset"};
    case WhenDown::Kind::kClose:
      return {"close"};
    case WhenDown::Kind::kHold:
      break;
  }
  return {"hold " + format_seconds(seconds_of(value.hold)) + "s"};
}
Given show(const OptionRow&, LogFormat value) { return name_of(kLogFormat, value); }
Given show(const OptionRow&, LogLevel value) { return {std::string(log_level_name(value))}; }

Given show(const OptionRow&, DriverChoice value) { return name_of(kDriver, value); }

Given show(const OptionRow&, const std::optional<CollectAck>& value) {
  return value ? name_of(kCollectAck, *value) : Given{};
}

Given show(const OptionRow&, const std::optional<Address>& value) {
  if (!value) return {};
  return {value->kind == Address::Kind::kUnix ? value->host : value->to_string()};
}

Given show(const OptionRow&, const SocketOwner& value) {
  if (!value.user && !value.group) return {};
  std::string text;
  if (value.user) text += std::to_string(*value.user);
  if (value.group) text += ":" + std::to_string(*value.group);
  return {text};
}

// By the number alone where that gives the same groups.
Given show(const OptionRow&, const std::optional<Account>& value) {
  if (!value) return {};
  const std::string uid = std::to_string(value->uid);
  const auto same = find_account(uid);
  return {same && *same == *value ? uid : uid + ":" + std::to_string(value->gid)};
}

Given show(const OptionRow& row, const std::optional<uint64_t>& value) {
  return value ? show(row, *value) : Given{};
}

Given show(const OptionRow& row, const std::optional<uint32_t>& value) {
  if (!value) return {};
  if (row.kind != OptionKind::kMode) return show(row, *value);
  char octal[16] = "0";
  const auto [end, error] = std::to_chars(octal + 1, octal + sizeof octal, *value, 8);
  return {error == std::errc() ? std::string(octal, end) : std::string()};
}

Given show(const OptionRow&, const std::vector<uint32_t>& value) {
  Given ids;
  for (const uint32_t id : value) ids.push_back(std::to_string(id));
  return ids;
}

Given show(const OptionRow&, const std::vector<std::string>& value) { return value; }

Given show(const OptionRow&, const std::vector<SinkSpec>& value) {
  Given texts;
  for (const SinkSpec& sink : value) texts.push_back(sink.text);
  return texts;
}

Given show(const OptionRow&, const std::vector<logs::SourceSpec>& value) {
  Given sources;
  for (const logs::SourceSpec& source : value) sources.push_back(source.text);
  return sources;
}

Given show(const OptionRow&, const std::optional<logs::SpoolSpec>& value) {
  return value ? Given{logs::show(*value)} : Given{};
}

Given show(const OptionRow&, const std::string& value) {
  return value.empty() ? Given{} : Given{value};
}

}  // namespace virtproxy::option_values
