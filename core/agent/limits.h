// The bounds of the protocol of virtagent (PROTOCOL.md). Both ends of a port rely on those of
// messages.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/time.h"

namespace virtproxy::agent {

inline constexpr size_t kMaxMessage = 128 * 1024;  // bytes of one line, without its LF
// Bytes of a request that this implementation sends. Less than kMaxMessage, so that two of them, an
// answer and two messages of the peer fit into kMaxPortMemory.
inline constexpr size_t kMaxRequest = 48 * 1024;
inline constexpr size_t kMaxPortMemory = 512 * 1024;  // bytes of all buffers of one port
// Of those, bytes that are read before the conversation takes them: what a virtio port gives at
// once.
inline constexpr size_t kPortReadAhead = 4 * 1024;
// Bytes of one answer on a stream, where a log or a block of a file may be one.
inline constexpr size_t kMaxStreamAnswer = 4 * 1024 * 1024;
inline constexpr unsigned kMaxDepth = 16;  // arrays and objects around a value
inline constexpr unsigned kMaxValues =
    4096;                              // objects, arrays, strings, numbers, true, false, null
inline constexpr size_t kMaxId = 128;  // bytes of an id as it was written
inline constexpr size_t kMaxMethodName = 64;
inline constexpr size_t kMaxMethods = 128;     // names in the list of va-hello
inline constexpr size_t kMaxEvent = 8 * 1024;  // bytes of one event, encoded
inline constexpr size_t kMaxSmall =
    16 * 1024;  // bytes of an answer that is given while another is due
inline constexpr size_t kEventRing = 64;

// That of libvirt, and of virtagent in 2011.
inline constexpr Duration kCallTimeout = std::chrono::seconds(5);

}  // namespace virtproxy::agent
