// Limits of the log protocol, PROTOCOL.md section 7. A decoder refuses what is outside of them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace virtproxy::logs {

inline constexpr uint16_t kVersion = 1;
inline constexpr size_t kMaxSources = 64;                 // sources of one log
inline constexpr size_t kMaxName = 39;                    // bytes in the name of a source
inline constexpr size_t kMaxLine = 1u << 20;              // bytes of one line
inline constexpr size_t kMaxRecordOverhead = 64;          // bytes of a record beside its line
inline constexpr size_t kBatchHeaderSize = 64;            // bytes
inline constexpr size_t kMaxBatchBody = kMaxLine + 1024;  // a line of full size behind drop records
// Records of a batch: what a receiver holds of one is much larger than the smallest record.
inline constexpr uint32_t kMaxRecords = 32768;
inline constexpr size_t kMaxBatch = kBatchHeaderSize + kMaxBatchBody;
// Sequence numbers, line bytes and positions stay below this, so that sums do not overflow.
inline constexpr uint64_t kMaxNumber = 1ull << 62;

}  // namespace virtproxy::logs
