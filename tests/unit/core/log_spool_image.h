// A spool file in memory: filled by a Spool, spoilt by a test, and drained through the whole path
// to a receiver.
#pragma once

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "core/logs/receiver.h"
#include "core/logs/shipper.h"

namespace virtproxy::logs::test {

using Bytes = std::vector<std::byte>;

constexpr LogId kBoot{1, 1};

inline std::span<const std::byte> read_image(const Bytes& image, const SpoolRead& read) {
  if (read.offset >= image.size()) return {};
  return std::span(image).subspan(read.offset,
                                  std::min<size_t>(read.size, image.size() - read.offset));
}

// Nothing if the image was made with another geometry.
inline std::optional<Superblock> recover(const Bytes& image, const SpoolGeometry& geometry,
                                         size_t* bytes_read = nullptr) {
  SpoolRecovery recovery(geometry);
  while (recovery.phase() != SpoolRecovery::Phase::kDone) {
    if (recovery.phase() == SpoolRecovery::Phase::kOtherGeometry) return std::nullopt;
    const auto bytes = read_image(image, recovery.next_read());
    if (bytes_read != nullptr) *bytes_read += bytes.size();
    recovery.read(bytes);
  }
  return recovery.state();
}

// The next write or sync of the spool and its next read, on the image. False if there is neither.
inline bool use_image(Shipper& shipper, Bytes& image) {
  bool used = false;
  if (const auto write = shipper.spool()->next_write()) {
    if (write->kind == SpoolWrite::Kind::kSync) {
      shipper.spool()->synced();
    } else {
      std::copy(write->bytes.begin(), write->bytes.end(),
                image.begin() + static_cast<ptrdiff_t>(write->offset));
      shipper.spool()->written(write->bytes.size());
    }
    used = true;
  }
  if (const auto read = shipper.next_read()) {
    shipper.read(read_image(image, *read));
    used = true;
  }
  return used;
}

struct DrainedLine {
  LogId log;
  uint16_t source;
  uint64_t seq;
  std::string text;
};

struct Drained {
  bool complete = false;  // the sender had nothing left to say
  StreamFault fault = StreamFault::kNone;
  std::vector<LogAccount> accounts;
  std::vector<DrainedLine> lines;
};

// Starts a sender on the image, with a receiver that has no account, until nothing happens any
// more.
inline Drained drain(Bytes& image, const SpoolGeometry& geometry, const Superblock& state) {
  Drained drained;
  ShipperConfig config;
  config.buffer.memory = 64u << 10;
  Shipper shipper(config, {{"new"}}, LogId{~0ull, ~0ull}, kBoot,
                  Shipper::SpoolStart{{geometry, SpoolConfig::Full::kRefuse, 64u << 10}, state});
  Receiver receiver(64);
  shipper.connected(Instant(1));
  std::vector<Received> found;
  for (int idle = 0; idle < 3;) {
    shipper.pump(Instant(1), 1);
    bool moved = use_image(shipper, image);
    Bytes out;
    out.swap(shipper.out());
    found.clear();
    if (!out.empty()) {
      moved = true;
      drained.fault = receiver.feed(out, found);
      if (drained.fault != StreamFault::kNone) return drained;
    }
    bool final = false;
    for (const Received& one : found) {
      if (one.kind == Received::Kind::kLine) {
        const auto bytes = one.record.line.bytes;
        drained.lines.push_back({receiver.accounts().back().id,
                                 one.source,
                                 one.record.seq,
                                 {reinterpret_cast<const char*>(bytes.data()), bytes.size()}});
      }
      final = final || one.kind == Received::Kind::kFinal;
    }
    if (final) {
      receiver.acknowledge_final(AckLevel::kSink);
    } else if (!found.empty() && receiver.log() != nullptr) {
      receiver.acknowledge(receiver.log()->position, AckLevel::kSink);
    }
    out.clear();
    out.swap(receiver.out());
    if (!out.empty()) {
      drained.fault = shipper.feed(out);
      if (drained.fault != StreamFault::kNone) return drained;
      moved = true;
    }
    idle = moved ? 0 : idle + 1;
  }
  drained.complete = shipper.spool()->logs().size() == 1;
  drained.accounts = receiver.accounts();
  return drained;
}

}  // namespace virtproxy::logs::test
