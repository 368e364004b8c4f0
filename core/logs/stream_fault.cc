#include "core/logs/stream_fault.h"

namespace virtproxy::logs {

std::string_view describe(StreamFault fault) {
  switch (fault) {
    case StreamFault::kNone:
      return "no fault";
    case StreamFault::kBadMagic:
      return "neither a batch nor a message where one has to begin";
    case StreamFault::kBadType:
      return "a message of a type that this end does not take; HELLO, STATE and batches go to the "
             "receiver, WANT, ACK and REJECT to the sender";
    case StreamFault::kBadField:
      return "a field outside of the limits of the log protocol";
    case StreamFault::kBadCheck:
      return "a check that does not match: the bytes are not those that were written";
    case StreamFault::kBadRecords:
      return "a batch whose records do not add up to what its header says";
    case StreamFault::kBadNumbers:
      return "sequence numbers or byte counts that contradict those before";
    case StreamFault::kBadVersion:
      return "a version of the log protocol other than 1";
    case StreamFault::kOutOfTurn:
      return "a message that is not due: a log begins with HELLO and ends with a final STATE";
  }
  return "unknown fault";
}

StreamFault stream_fault(BatchFault fault) {
  switch (fault) {
    case BatchFault::kNone:
    case BatchFault::kShort:
      return StreamFault::kNone;
    case BatchFault::kMagic:
      return StreamFault::kBadMagic;
    case BatchFault::kLimits:
      return StreamFault::kBadField;
    case BatchFault::kCheck:
      return StreamFault::kBadCheck;
    case BatchFault::kRecords:
      return StreamFault::kBadRecords;
  }
  return StreamFault::kBadRecords;
}

StreamFault stream_fault(MessageFault fault) {
  switch (fault) {
    case MessageFault::kNone:
    case MessageFault::kShort:
      return StreamFault::kNone;
    case MessageFault::kMagic:
      return StreamFault::kBadMagic;
    case MessageFault::kType:
      return StreamFault::kBadType;
    case MessageFault::kLimits:
      return StreamFault::kBadField;
    case MessageFault::kCheck:
      return StreamFault::kBadCheck;
  }
  return StreamFault::kBadField;
}

}  // namespace virtproxy::logs
