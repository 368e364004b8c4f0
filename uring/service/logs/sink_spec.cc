#include "uring/service/logs/sink_spec.h"

#include <algorithm>
#include <array>
#include <vector>

#include "uring/base/text.h"
#include "uring/base/units.h"

namespace virtproxy {
namespace {

using WrongSpec = tl::unexpected<SinkFault>;

struct KindRow {
  std::string_view name;
  SinkKind kind;
  LineFormat format;  // unless it is given
  std::string_view form;
};

constexpr std::array kKinds{
    KindRow{
        "file", SinkKind::kFile, LineFormat::kRfc5424,
        "file:PATH[,rotate=SIZE][,rotate=TIME][,keep=N][,format=rfc5424|json|text][,sync=on|off]"
        "[,state=PATH]"},
    KindRow{"stdout", SinkKind::kStdout, LineFormat::kJson, "stdout[,format=rfc5424|json|text]"},
    KindRow{"relp", SinkKind::kRelp, LineFormat::kRfc5424,
            "relp:HOST:PORT[,format=rfc5424|json][,state=PATH]"},
    KindRow{"syslog+tcp", SinkKind::kSyslogTcp, LineFormat::kRfc5424,
            "syslog+tcp:HOST:PORT[,format=rfc5424|json][,state=PATH]"},
    KindRow{"syslog+unix", SinkKind::kSyslogUnix, LineFormat::kRfc5424,
            "syslog+unix:PATH[,format=rfc5424|json][,state=PATH]"},
    KindRow{"forward", SinkKind::kForward, LineFormat::kJson, "forward:HOST:PORT[,state=PATH]"},
    KindRow{"otlp", SinkKind::kOtlp, LineFormat::kJson, "otlp:HOST:PORT[,state=PATH]"},
    KindRow{"exec", SinkKind::kExec, LineFormat::kJson,
            "exec:PATH[,arg=TEXT…][,format=rfc5424|json|text][,state=PATH]"},
    KindRow{"unix-dgram", SinkKind::kUnixDatagram, LineFormat::kRfc5424,
            "unix-dgram:PATH[,format=rfc5424|json][,state=PATH]"},
};

const KindRow& row_of(SinkKind kind) {
  return *std::find_if(kKinds.begin(), kKinds.end(),
                       [&](const KindRow& row) { return row.kind == kind; });
}

std::string kind_names() {
  std::string names;
  for (const KindRow& row : kKinds) names += (names.empty() ? "" : ", ") + std::string(row.name);
  return names;
}

// A time with s, m, h or d behind it.
std::optional<Duration> parse_age(std::string_view text) {
  if (text.size() < 2) return std::nullopt;
  uint64_t unit = 0;
  switch (text.back()) {
    case 's':
      unit = 1;
      break;
    case 'm':
      unit = 60;
      break;
    case 'h':
      unit = 3600;
      break;
    case 'd':
      unit = 86400;
      break;
    default:
      return std::nullopt;
  }
  const auto number = parse_number<uint64_t>(text.substr(0, text.size() - 1));
  constexpr uint64_t kLongest = uint64_t{86400} * 3660;
  if (!number || *number == 0 || *number > kLongest / unit) return std::nullopt;
  return std::chrono::seconds(*number * unit);
}

class SpecReader {
 public:
  explicit SpecReader(SinkSpec& spec) : spec_(spec) {}

  std::optional<SinkFault> read(std::string_view option) {
    const size_t equals = option.find('=');
    const std::string_view key = option.substr(0, equals);
    const std::string_view value =
        equals == std::string_view::npos ? std::string_view() : option.substr(equals + 1);
    const bool file = spec_.kind == SinkKind::kFile;
    // Some have a format of their own.
    const bool fixed = spec_.kind == SinkKind::kForward || spec_.kind == SinkKind::kOtlp;
    if (key == "format" && !fixed) return read_format(value);
    if (file && key == "rotate") return read_rotate(value);
    if (file && key == "keep") return read_keep(value);
    if (file && key == "sync") return read_sync(value);
    if (key == "arg" && spec_.kind == SinkKind::kExec) {
      spec_.arguments.emplace_back(value);
      return std::nullopt;
    }
    if (key == "state" && spec_.kind != SinkKind::kStdout) return read_state(value);
    return SinkFault{in_quotes(key) + " is no option of this sink",
                     "write " + std::string(row_of(spec_.kind).form)};
  }

 private:
  std::optional<SinkFault> read_format(std::string_view value) {
    const bool may_be_text = !spec_.connects();  // a receiver of syslog could not read it
    if (value == "rfc5424") {
      spec_.format = LineFormat::kRfc5424;
    } else if (value == "json") {
      spec_.format = LineFormat::kJson;
    } else if (value == "text" && may_be_text) {
      spec_.format = LineFormat::kText;
    } else {
      return SinkFault{"format " + in_quotes(value),
                       may_be_text ? "use rfc5424, json or text" : "use rfc5424 or json"};
    }
    return std::nullopt;
  }
  std::optional<SinkFault> read_rotate(std::string_view value) {
    if (const auto age = parse_age(value)) {
      spec_.rotate_after = *age;
      return std::nullopt;
    }
    const auto size = parse_size(value);
    if (size && *size >= SinkSpec::kMinRotateSize && *size < uint64_t{1} << 62) {
      spec_.rotate_size = *size;
      return std::nullopt;
    }
    return SinkFault{"rotate " + in_quotes(value),
                     "give a size from 64K on, such as 64M, or a time such as 90s, 15m, 24h or 7d"};
  }
  std::optional<SinkFault> read_keep(std::string_view value) {
    const auto number = parse_number<unsigned>(value);
    if (number && *number >= 1 && *number <= SinkSpec::kMaxKeep) {
      spec_.keep = *number;
      return std::nullopt;
    }
    return SinkFault{"keep " + in_quotes(value), "give a number of files from 1 to 1000"};
  }
  std::optional<SinkFault> read_sync(std::string_view value) {
    if (value == "on" || value == "off") {
      spec_.sync = value == "on";
      return std::nullopt;
    }
    return SinkFault{"sync " + in_quotes(value), "use on or off"};
  }
  std::optional<SinkFault> read_state(std::string_view value) {
    if (value.empty()) return SinkFault{"state has no path", "write state=PATH"};
    spec_.state = std::string(value);
    return std::nullopt;
  }

  SinkSpec& spec_;
};

}  // namespace

std::string SinkSpec::label() const {
  const std::string name(row_of(kind).name);
  return target.empty() ? name : name + ":" + target;
}

tl::expected<SinkSpec, SinkFault> parse_sink(std::string_view text) {
  const size_t comma = std::min(text.find(','), text.size());
  const std::string_view head = text.substr(0, comma);
  const size_t colon = std::min(head.find(':'), head.size());
  const std::string_view name = head.substr(0, colon);
  const auto row = std::find_if(kKinds.begin(), kKinds.end(),
                                [&](const KindRow& each) { return each.name == name; });
  if (row == kKinds.end()) {
    return WrongSpec(SinkFault{"there is no sink " + in_quotes(name), "there are " + kind_names()});
  }
  SinkSpec spec;
  spec.kind = row->kind;
  spec.text = std::string(text);
  spec.format = row->format;
  if (colon < head.size()) spec.target = std::string(head.substr(colon + 1));
  const bool has_target = spec.kind != SinkKind::kStdout;
  if (has_target == spec.target.empty()) {
    return WrongSpec(SinkFault{std::string(name) + (has_target ? " has no target" : " takes none"),
                               "write " + std::string(row->form)});
  }
  if (spec.kind == SinkKind::kExec && spec.target.find('/') == std::string::npos) {
    return WrongSpec(SinkFault{"exec " + in_quotes(spec.target) + " is no path",
                               "write the path of the program, such as /usr/local/bin/ship"});
  }
  if (spec.connects()) {
    const bool is_path = spec.kind == SinkKind::kSyslogUnix || spec.kind == SinkKind::kUnixDatagram;
    auto address = parse_address(is_path ? spec.target + ":-" : spec.target, AddressUse::kConnect,
                                 is_path ? std::optional(Address::Kind::kUnix) : std::nullopt);
    if (!address || address->channel) {
      // Behind what is wrong, the error has the form of a channel's address.
      const std::string what = address ? "the address names a channel"
                                       : address.error().substr(0, address.error().find(": write"));
      return WrongSpec(SinkFault{what, "write " + std::string(row->form)});
    }
    spec.address = std::move(address->address);
  }
  SpecReader reader(spec);
  for (std::string_view rest = text.substr(comma); !rest.empty();) {
    rest.remove_prefix(1);
    const size_t end = std::min(rest.find(','), rest.size());
    if (auto fault = reader.read(rest.substr(0, end))) return WrongSpec(*std::move(fault));
    rest.remove_prefix(end);
  }
  if (spec.kind == SinkKind::kFile && spec.state.empty()) spec.state = spec.target + ".state";
  return spec;
}

}  // namespace virtproxy
