// What travels from the collector of a VM to the sinks: records that the receiver found in one go,
// and the account of their log behind them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/logs/receiver.h"
#include "core/time.h"

namespace virtproxy {

struct ParcelRecord {
  enum class Kind : uint8_t {
    kLine,
    kHead,         // the beginning of a line of `bytes` bytes
    kDrop,         // `count` lines of `bytes` bytes, dropped for `reason`
    kUnaccounted,  // … that nothing explains
    kForgotten     // … that the sender of another log had told of and never sent
  };
  Kind kind = Kind::kLine;
  bool has_credentials = false;
  logs::DropReason reason = logs::DropReason::kNewest;
  uint16_t source = 0;
  uint32_t offset = 0;  // of the text, in Parcel::text
  uint32_t size = 0;    // of the text, bytes
  uint64_t seq = 0;     // the first number
  uint64_t count = 1;   // numbers
  uint64_t bytes = 0;   // of the lines that it covers
  logs::UnixTime time = 0;
  logs::UnixTime last_time = 0;
  logs::Credentials credentials;

  uint64_t end_seq() const { return seq + count; }
};

struct ReplyBox;

struct Parcel {
  size_t vm = 0;  // its number in the hub
  // The log of the records behind the last of them; `finished` if the log is complete with it.
  logs::LogAccount account;
  logs::LogId forgotten;        // the log of a kForgotten record
  logs::UnixTime received = 0;  // by this host's clock
  Instant arrived{};            // the same, monotonic
  std::string text;
  std::vector<ParcelRecord> records;
  std::shared_ptr<ReplyBox> reply;  // where its release is told
  struct Refused {
    uint16_t source;
    uint64_t seq;
    uint64_t bytes;
  };
  std::vector<Refused> refused;  // by a sink, for good

  std::string_view text_of(const ParcelRecord& record) const {
    return std::string_view(text).substr(record.offset, record.size);
  }
  // The name that the sender gave the source: any bytes. Empty for kForgotten.
  std::string_view source_of(const ParcelRecord& record) const {
    if (record.kind == ParcelRecord::Kind::kForgotten) return {};
    return account.sources[record.source].name;
  }
  const logs::LogId& log_of(const ParcelRecord& record) const {
    return record.kind == ParcelRecord::Kind::kForgotten ? forgotten : account.id;
  }
  // Memory in use, bytes.
  size_t cost() const;
  // Appends what the receiver found; the text is copied. kBegun and kFinal are no records.
  void add(const logs::Received& found);
};

}  // namespace virtproxy
