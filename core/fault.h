// Every fault the protocol knows and what it ends: one table, so that no code decides on its own.
//
// A fault of scope kStream resets that stream and nothing else; its number travels in RESET. A
// fault of scope kSession ends the session: every stream on it is reset at both ends, and the two
// ends greet each other anew. Nothing a peer does ends more than its own session.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace virtproxy {

enum class FaultScope : uint8_t { kStream, kSession };

enum class Fault : uint8_t {
  kNone = 0,
  // Stream faults: the values are the codes of RESET on the wire and never change.
  kAborted = 1,         // the application reset its connection, or vanished
  kRefused = 2,         // the service refused the connection
  kUnknownService = 3,  // no such service on this end
  kTimedOut = 4,        // the service did not answer in time
  kUnreachable = 5,     // no route, no such host, no such path
  kTooManyStreams = 6,  // the limit on streams or dials is reached
  kNoResources = 7,     // descriptors or memory ran out
  kGoingAway = 8,       // this end is stopping
  kStalled = 9,         // closed for holding others back
  kKilled = 10,         // an administrator reset it
  // Session faults: never on the wire.
  kTransportLost = 64,
  kPeerRestarted,
  kBadHeader,
  kBadTrailer,
  kBadHello,
  kNoCommonVersion,
  kUnknownFrame,
  kBadLength,
  kBadStreamId,
  kUnknownStream,
  kStreamInUse,
  kBadOpen,
  kCreditExceeded,
  kCreditShrunk,
  kBadOffset,
  kDataAfterEnd,
  kFrameLost,
  kBadAck,
  kUpgraded,
};

struct FaultRow {
  Fault fault;
  FaultScope scope;
  std::string_view name;  // for labels
  std::string_view text;  // completes "channel down: …" or "stream reset: …"
};

// All rows, in the order of the enumeration.
std::span<const FaultRow> fault_rows();

// The row for `fault`. Codes from the wire that this version does not know map to kAborted's row.
const FaultRow& fault_row(Fault fault);

inline std::string_view fault_text(Fault fault) { return fault_row(fault).text; }

// The fault a RESET code names; an unknown code is an abort.
Fault fault_from_reset_code(uint64_t code);

}  // namespace virtproxy
