#include "core/fault.h"

#include <array>

#include "core/assert.h"

namespace virtproxy {
namespace {

constexpr FaultScope kStream = FaultScope::kStream;
constexpr FaultScope kSession = FaultScope::kSession;

constexpr std::array kTable{
    FaultRow{Fault::kNone, kStream, "no fault"},
    FaultRow{Fault::kAborted, kStream, "the application aborted its connection"},
    FaultRow{Fault::kRefused, kStream, "the service refused the connection"},
    FaultRow{Fault::kUnknownService, kStream, "no such service on the other end"},
    FaultRow{Fault::kTimedOut, kStream, "the service did not answer in time"},
    FaultRow{Fault::kUnreachable, kStream, "the service cannot be reached"},
    FaultRow{Fault::kTooManyStreams, kStream, "the limit on streams is reached"},
    FaultRow{Fault::kNoResources, kStream, "out of descriptors or memory"},
    FaultRow{Fault::kGoingAway, kStream, "the other end is stopping"},
    FaultRow{Fault::kStalled, kStream, "the stream held others back"},
    FaultRow{Fault::kTransportLost, kSession, "the link was lost"},
    FaultRow{Fault::kPeerRestarted, kSession, "the other end started anew"},
    FaultRow{Fault::kBadHeader, kSession, "a frame header failed its check"},
    FaultRow{Fault::kBadTrailer, kSession, "a frame trailer failed its check"},
    FaultRow{Fault::kBadHello, kSession, "a greeting is malformed"},
    FaultRow{Fault::kNoCommonVersion, kSession, "the ends share no protocol version"},
    FaultRow{Fault::kUnknownFrame, kSession, "a frame of unknown type"},
    FaultRow{Fault::kBadLength, kSession, "a frame length beyond its limit"},
    FaultRow{Fault::kBadStreamId, kSession, "a stream number out of range"},
    FaultRow{Fault::kUnknownStream, kSession, "a frame for a stream that was never opened"},
    FaultRow{Fault::kStreamInUse, kSession, "a stream was opened twice"},
    FaultRow{Fault::kBadOpen, kSession, "an open frame is malformed"},
    FaultRow{Fault::kCreditExceeded, kSession, "data beyond its credit"},
    FaultRow{Fault::kCreditShrunk, kSession, "credit that shrinks or overflows"},
    FaultRow{Fault::kBadOffset, kSession, "a frame at the wrong offset of its stream"},
    FaultRow{Fault::kDataAfterEnd, kSession, "data after the end of its stream"},
    FaultRow{Fault::kFrameLost, kSession, "frames were lost on the channel"},
    FaultRow{Fault::kBadAck, kSession, "an acknowledgement of bytes that were never sent"},
    FaultRow{Fault::kUpgraded, kSession,
             "the other end was replaced by one that speaks protocol 2"},
};

}  // namespace

const FaultRow& fault_row(Fault fault) {
  for (const FaultRow& row : kTable) {
    if (row.fault == fault) return row;
  }
  return kTable[static_cast<size_t>(Fault::kAborted)];
}

Fault fault_from_reset_code(uint64_t code) {
  const bool known = code >= static_cast<uint64_t>(Fault::kAborted) &&
                     code <= static_cast<uint64_t>(Fault::kStalled);
  return known ? static_cast<Fault>(code) : Fault::kAborted;
}

}  // namespace virtproxy
