#include "uring/service/logs/source_spec.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "uring/base/text.h"
#include "uring/base/units.h"

namespace virtproxy::logs {
namespace {

using Failure = tl::unexpected<std::string>;

struct KindRow {
  SourceKind kind;
  std::string_view name;
  std::string_view form;  // of its address; empty: it has none
};
constexpr KindRow kKinds[] = {
    {SourceKind::kUnixDgram, "unix-dgram", "PATH"},
    {SourceKind::kUnix, "unix", "PATH"},
    {SourceKind::kUdp, "udp", "HOST:PORT"},
    {SourceKind::kTcp, "tcp", "HOST:PORT"},
    {SourceKind::kStdin, "stdin", ""},
    {SourceKind::kKmsg, "kmsg", ""},
    {SourceKind::kJournal, "journal", ""},
};

constexpr std::string_view kKindList =
    "use unix-dgram:PATH, unix:PATH, udp:HOST:PORT, tcp:HOST:PORT, stdin, kmsg or journal";
constexpr double kLongestBlock = 86400;    // seconds
constexpr double kLongestSync = 3600;      // seconds
constexpr uint64_t kMostRate = 100000000;  // lines a second

std::string_view cut_at(std::string_view& rest, char mark) {
  const size_t end = std::min(rest.find(mark), rest.size());
  const std::string_view part = rest.substr(0, end);
  rest.remove_prefix(std::min(end + 1, rest.size()));
  return part;
}

std::optional<Policy> policy_of(std::string_view name) {
  if (name == "block") return Policy::kBlock;
  if (name == "drop-newest") return Policy::kDropNewest;
  if (name == "drop-oldest") return Policy::kDropOldest;
  return std::nullopt;
}

std::optional<std::string> read_full(SourceSpec& spec, std::string_view value) {
  spec.spools = value == "spool";
  if (spec.spools) {
    spec.config.full = Policy::kDropNewest;
    return std::nullopt;
  }
  const auto policy = policy_of(value);
  if (!policy) {
    return "full=" + printable(value) +
           " is no policy: use block, drop-newest, drop-oldest or spool";
  }
  spec.config.full = *policy;
  return std::nullopt;
}

std::optional<std::string> read_then(std::optional<Policy>& then, std::string_view value) {
  then = policy_of(value);
  if (then) return std::nullopt;
  return "then=" + printable(value) + " is no policy: use block, drop-newest or drop-oldest";
}

std::optional<std::string> read_name(SourceSpec& spec, std::string_view value) {
  if (value.empty() || value.size() > kMaxName || printable(value) != value) {
    return "name=" + printable(value) + " is no name: use 1 to " + std::to_string(kMaxName) +
           " printable ASCII characters";
  }
  spec.config.name = value;
  return std::nullopt;
}

std::optional<std::string> read_number(SourceSpec& spec, std::string_view key,
                                       std::string_view value) {
  const std::string shown = std::string(key) + "=" + printable(value);
  if (key == "block-for") {
    const auto seconds = parse_seconds(value);
    if (!seconds || *seconds > kLongestBlock) {
      return shown + " is no time: use 0 to " + format_seconds(kLongestBlock) +
             " seconds, or 500ms";
    }
    spec.config.block_for = to_duration(*seconds);
    return std::nullopt;
  }
  if (key == "rate") {
    const auto rate = parse_number<uint64_t>(value);
    if (!rate || *rate == 0 || *rate > kMostRate) {
      return shown + " is no rate: use 1 to " + std::to_string(kMostRate) + " lines a second";
    }
    spec.rate = *rate;
    return std::nullopt;
  }
  const auto mode = parse_number<mode_t>(value, 8);
  if (!mode || *mode > 0777) {
    return shown + " is no mode: use an octal number from 0 to 0777";
  }
  spec.mode = *mode;
  return std::nullopt;
}

std::optional<std::string> read_framing(SourceSpec& spec, std::string_view value) {
  if (value == "auto") {
    spec.framing = Framing::kAuto;
  } else if (value == "lf") {
    spec.framing = Framing::kLf;
  } else if (value == "nul") {
    spec.framing = Framing::kNul;
  } else {
    return "framing=" + printable(value) + " is no framing: use auto, lf or nul";
  }
  return std::nullopt;
}

// Which keys a kind has beside those of all.
bool has_key(SourceKind kind, std::string_view key) {
  const bool path = kind == SourceKind::kUnix || kind == SourceKind::kUnixDgram;
  const bool internet = kind == SourceKind::kUdp || kind == SourceKind::kTcp;
  const bool stream =
      kind == SourceKind::kUnix || kind == SourceKind::kTcp || kind == SourceKind::kStdin;
  if (key == "mode") return path;
  if (key == "remote") return internet;
  if (key == "framing") return stream;
  if (key == "cursor") return kind == SourceKind::kJournal || kind == SourceKind::kKmsg;
  return true;
}

std::optional<std::string> read_key(SourceSpec& spec, std::optional<Policy>& then,
                                    std::string_view key, std::string_view value) {
  if (!has_key(spec.kind, key)) {
    return std::string(key) + " does not belong to this source: leave it out";
  }
  if (key == "full") return read_full(spec, value);
  if (key == "then") return read_then(then, value);
  if (key == "name") return read_name(spec, value);
  if (key == "framing") return read_framing(spec, value);
  if (key == "block-for" || key == "rate" || key == "mode") return read_number(spec, key, value);
  if (key == "remote") {
    spec.remote = value == "on";
    if (value == "on" || value == "off") return std::nullopt;
    return "remote=" + printable(value) + " is neither on nor off: write remote=on";
  }
  if (key == "cursor") {
    spec.cursor = value;
    if (value.starts_with('/')) return std::nullopt;
    return "cursor=" + printable(value) + " is no path: begin it with /";
  }
  return "unknown key " + in_quotes(key) +
         ": use full, then, block-for, rate, name, mode, framing, remote or cursor";
}

std::optional<std::string> read_address(SourceSpec& spec, std::string_view text) {
  const bool path = spec.kind == SourceKind::kUnix || spec.kind == SourceKind::kUnixDgram;
  auto parsed =
      path ? parse_address(std::string(text) + ":-", AddressUse::kListen, Address::Kind::kUnix)
           : parse_address(text, AddressUse::kListen, Address::Kind::kTcp);
  if (!parsed) return parsed.error();
  if (parsed->channel) return "a source has no channel: see --ship-channel";
  if (!path && parsed->address.port == 0) {
    return "port 0 is any free port, which no program can know: use a number from 1 to 65535";
  }
  spec.address = std::move(parsed->address);
  return std::nullopt;
}

}  // namespace

tl::expected<SourceSpec, std::string> parse_source(std::string_view text) {
  SourceSpec spec;
  spec.text = text;
  const std::string shown = printable(text);
  std::string_view rest = text;
  std::string_view where = cut_at(rest, ',');
  const std::string_view name = cut_at(where, ':');
  const auto* const row = std::find_if(std::begin(kKinds), std::end(kKinds),
                                       [&](const KindRow& each) { return each.name == name; });
  if (row == std::end(kKinds)) {
    return Failure(shown + " begins with no kind of source: " + std::string(kKindList));
  }
  spec.kind = row->kind;
  if (row->form.empty() != where.empty()) {
    return Failure(shown +
                   (where.empty() ? " has no address: write " : " needs no address: write ") +
                   std::string(name) + (row->form.empty() ? "" : ":") + std::string(row->form));
  }
  if (!where.empty()) {
    if (const auto fault = read_address(spec, where)) return Failure(shown + ": " + *fault);
  }
  const bool waits = spec.kind == SourceKind::kStdin || spec.kind == SourceKind::kJournal;
  if (waits) {
    // What is not read stays where it is.
    spec.config.full = Policy::kBlock;
    spec.config.block_for = to_duration(kLongestBlock);
  }
  if (spec.kind == SourceKind::kStdin) spec.framing = Framing::kLf;
  std::string_view given = text;
  spec.config.name = printable(cut_at(given, ',')).substr(0, kMaxName);
  std::optional<Policy> then;
  while (!rest.empty()) {
    std::string_view value = cut_at(rest, ',');
    const std::string_view key = cut_at(value, '=');
    if (const auto fault = read_key(spec, then, key, value)) return Failure(shown + ": " + *fault);
  }
  if (then && !spec.spools) {
    return Failure(shown + ": then= follows a full spool: write full=spool,then=POLICY");
  }
  if (then) spec.config.full = *then;
  return spec;
}

tl::expected<SpoolSpec, std::string> parse_spool(std::string_view text, uint64_t least) {
  constexpr std::string_view kForm = "write PATH:SIZE[,sync=never|batch|TIME]";
  SpoolSpec spool;
  const std::string shown = printable(text);
  const auto fail = [&](const std::string& what) -> tl::expected<SpoolSpec, std::string> {
    return Failure(shown + " " + what + ": " + std::string(kForm));
  };
  std::string_view rest = text;
  const std::string_view where = cut_at(rest, ',');
  const size_t colon = where.rfind(':');
  if (colon == std::string_view::npos || colon == 0) return fail("has no size");
  spool.path = where.substr(0, colon);
  const auto size = parse_size(where.substr(colon + 1));
  if (!size) return fail("has no size");
  if (*size < least) {
    return Failure(shown + " is too small: this spool has at least " + format_size(least));
  }
  spool.size = *size;
  if (rest.empty()) return spool;
  if (cut_at(rest, '=') != "sync" || rest.empty())
    return fail("has something else behind its size");
  if (rest == "never") {
    spool.sync.when = SyncPolicy::When::kNever;
  } else if (rest == "batch") {
    spool.sync.when = SyncPolicy::When::kBatch;
  } else {
    const auto seconds = parse_seconds(rest);
    if (!seconds || *seconds < 0.001 || *seconds > kLongestSync) {
      return fail("has a sync= that is neither never, batch nor a time from 1ms to an hour");
    }
    spool.sync = {SyncPolicy::When::kInterval, to_duration(*seconds)};
  }
  return spool;
}

std::string show(const SpoolSpec& spool) {
  std::string text = spool.path + ":" + format_size(spool.size) + ",sync=";
  switch (spool.sync.when) {
    case SyncPolicy::When::kNever:
      return text + "never";
    case SyncPolicy::When::kBatch:
      return text + "batch";
    case SyncPolicy::When::kInterval:
      break;
  }
  return text + format_seconds(seconds_of(spool.sync.interval));
}

}  // namespace virtproxy::logs
