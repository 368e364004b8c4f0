// What ends a log stream: the reader resets it, and the sender tries again after a pause. The log's
// account stays as it is.
#pragma once

#include <cstdint>
#include <string_view>

#include "core/logs/batch.h"
#include "core/logs/message.h"

namespace virtproxy::logs {

enum class StreamFault : uint8_t {
  kNone,
  kBadMagic,    // neither a batch nor a message begins where one has to
  kBadType,     // a message of a type that is not known, or not for this end
  kBadField,    // a field outside of its limits
  kBadCheck,    // bytes were changed on their way, or belong to another log
  kBadRecords,  // the records of a batch are not as its header says
  kBadNumbers,  // marks that contradict those before
  kBadVersion,  // a version that this end does not speak
  kOutOfTurn    // a message that is not due
};

// One line for the log: what was wrong, and what would be right.
std::string_view describe(StreamFault fault);

StreamFault stream_fault(BatchFault fault);
StreamFault stream_fault(MessageFault fault);

}  // namespace virtproxy::logs
