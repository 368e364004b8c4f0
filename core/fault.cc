#include "core/fault.h"

#include <array>

#include "core/assert.h"

namespace virtproxy {
namespace {

constexpr FaultScope kStream = FaultScope::kStream;
constexpr FaultScope kSession = FaultScope::kSession;

constexpr std::array kTable{
    FaultRow{Fault::kNone, kStream, "none", "no fault"},
    FaultRow{Fault::kAborted, kStream, "aborted", "the application aborted its connection"},
    FaultRow{Fault::kRefused, kStream, "refused", "the service refused the connection"},
    FaultRow{Fault::kUnknownService, kStream, "unknown_service",
             "no such service on the other end"},
    FaultRow{Fault::kTimedOut, kStream, "timed_out", "the service did not answer in time"},
    FaultRow{Fault::kUnreachable, kStream, "unreachable", "the service cannot be reached"},
    FaultRow{Fault::kTooManyStreams, kStream, "too_many_streams",
             "the limit on streams is reached"},
    FaultRow{Fault::kNoResources, kStream, "no_resources", "out of descriptors or memory"},
    FaultRow{Fault::kGoingAway, kStream, "going_away",
             "one end is stopping: its daemon or this channel"},
    FaultRow{Fault::kStalled, kStream, "stalled", "the stream held others back"},
    FaultRow{Fault::kKilled, kStream, "killed", "killed by an administrator"},
    FaultRow{Fault::kTransportLost, kSession, "transport_lost", "the link was lost"},
    FaultRow{Fault::kPeerRestarted, kSession, "peer_restarted", "the other end started anew"},
    FaultRow{Fault::kBadHeader, kSession, "bad_header", "a frame header failed its check"},
    FaultRow{Fault::kBadTrailer, kSession, "bad_trailer", "a frame trailer failed its check"},
    FaultRow{Fault::kBadHello, kSession, "bad_hello", "a greeting is malformed"},
    FaultRow{Fault::kNoCommonVersion, kSession, "no_common_version",
             "the ends share no protocol version"},
    FaultRow{Fault::kUnknownFrame, kSession, "unknown_frame", "a frame of unknown type"},
    FaultRow{Fault::kBadLength, kSession, "bad_length", "a frame length beyond its limit"},
    FaultRow{Fault::kBadStreamId, kSession, "bad_stream_id", "a stream number out of range"},
    FaultRow{Fault::kUnknownStream, kSession, "unknown_stream",
             "a frame for a stream that was never opened"},
    FaultRow{Fault::kStreamInUse, kSession, "stream_in_use", "a stream was opened twice"},
    FaultRow{Fault::kBadOpen, kSession, "bad_open", "an open frame is malformed"},
    FaultRow{Fault::kCreditExceeded, kSession, "credit_exceeded", "data beyond its credit"},
    FaultRow{Fault::kCreditShrunk, kSession, "credit_shrunk", "credit that shrinks or overflows"},
    FaultRow{Fault::kBadOffset, kSession, "bad_offset",
             "a frame at the wrong offset of its stream"},
    FaultRow{Fault::kDataAfterEnd, kSession, "data_after_end", "data after the end of its stream"},
    FaultRow{Fault::kFrameLost, kSession, "frame_lost", "frames were lost on the channel"},
    FaultRow{Fault::kBadAck, kSession, "bad_ack",
             "an acknowledgement of bytes that were never sent"},
    FaultRow{Fault::kUpgraded, kSession, "upgraded",
             "the other end was replaced by one that speaks protocol 2"},
};

}  // namespace

std::span<const FaultRow> fault_rows() { return kTable; }

const FaultRow& fault_row(Fault fault) {
  for (const FaultRow& row : kTable) {
    if (row.fault == fault) return row;
  }
  return kTable[static_cast<size_t>(Fault::kAborted)];
}

Fault fault_from_reset_code(uint64_t code) {
  const bool known = code >= static_cast<uint64_t>(Fault::kAborted) &&
                     code <= static_cast<uint64_t>(Fault::kKilled);
  return known ? static_cast<Fault>(code) : Fault::kAborted;
}

}  // namespace virtproxy
