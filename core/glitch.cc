#include "core/glitch.h"

#include <array>

#include "core/assert.h"

namespace virtproxy {
namespace {

constexpr std::array kTable{
    GlitchRow{Glitch::kNone, "none", "nothing", "nothing", true},
    GlitchRow{
        Glitch::kBytesSkipped, "bytes_skipped", "bytes that are no packet",
        "skipped; the boundary between packets is found again, streams that may have lost bytes "
        "are closed",
        false},
    GlitchRow{Glitch::kUnknownType, "unknown_type", "a packet of unknown type", "dropped", false},
    GlitchRow{Glitch::kUnknownMessage, "unknown_message", "an unknown control message", "dropped",
              false},
    GlitchRow{Glitch::kBadBytes, "bad_bytes", "a data packet with an impossible number of bytes",
              "dropped; its stream is closed", false},
    GlitchRow{Glitch::kUnknownNumber, "unknown_number", "a packet for a number that is not in use",
              "dropped", true},
    GlitchRow{Glitch::kDataBeforeAck, "data_before_ack", "data before the ACK",
              "its stream is closed", false},
    GlitchRow{Glitch::kUnknownAck, "unknown_ack", "an ACK for a client that is gone",
              "answered with CLOSE", true},
    GlitchRow{Glitch::kSecondAck, "second_ack", "a second ACK for a client",
              "ignored; another server number is closed", false},
    GlitchRow{Glitch::kBadClientNumber, "bad_client_number", "an INIT with a negative number",
              "dropped", false},
    GlitchRow{Glitch::kBadServiceName, "bad_service_name", "an INIT with a malformed service name",
              "refused with CLOSE", false},
    GlitchRow{Glitch::kNumberAgain, "number_again",
              "a number of its own that is in use, for a new connection",
              "the stream that had it is closed", false},
    GlitchRow{Glitch::kForeignBytes, "foreign_bytes",
              "a number of its own that data for an earlier connection are under way to",
              "the new connection is closed", true},
    GlitchRow{Glitch::kTooManyAnswers, "too_many_answers", "more refusals than the channel takes",
              "dropped", false},
};

}  // namespace

std::span<const GlitchRow> glitch_rows() { return kTable; }

const GlitchRow& glitch_row(Glitch glitch) {
  const GlitchRow& row = kTable[static_cast<size_t>(glitch)];
  VP_ASSERT(row.glitch == glitch);
  return row;
}

}  // namespace virtproxy
