#include "core/glitch.h"

#include <array>

#include "core/assert.h"

namespace virtproxy {
namespace {

constexpr std::array kTable{
    GlitchRow{Glitch::kNone, "nothing", "nothing", true},
    GlitchRow{
        Glitch::kBytesSkipped, "bytes that are no packet",
        "skipped; the boundary between packets is found again, streams that may have lost bytes "
        "are closed",
        false},
    GlitchRow{Glitch::kUnknownType, "a packet of unknown type", "dropped", false},
    GlitchRow{Glitch::kUnknownMessage, "an unknown control message", "dropped", false},
    GlitchRow{Glitch::kBadBytes, "a data packet with an impossible number of bytes",
              "dropped; its stream is closed", false},
    GlitchRow{Glitch::kUnknownNumber, "a packet for a number that is not in use", "dropped", true},
    GlitchRow{Glitch::kDataBeforeAck, "data before the ACK", "its stream is closed", false},
    GlitchRow{Glitch::kUnknownAck, "an ACK for a client that is gone", "answered with CLOSE", true},
    GlitchRow{Glitch::kSecondAck, "a second ACK for a client",
              "ignored; another server number is closed", false},
    GlitchRow{Glitch::kBadClientNumber, "an INIT with a negative number", "dropped", false},
    GlitchRow{Glitch::kBadServiceName, "an INIT with a malformed service name",
              "refused with CLOSE", false},
    GlitchRow{Glitch::kNumberAgain, "a number of its own that is in use, for a new connection",
              "the stream that had it is closed", false},
    GlitchRow{Glitch::kForeignBytes,
              "a number of its own that data for an earlier connection are under way to",
              "the new connection is closed", true},
    GlitchRow{Glitch::kTooManyAnswers, "more refusals than the channel takes", "dropped", false},
};

}  // namespace

const GlitchRow& glitch_row(Glitch glitch) {
  const GlitchRow& row = kTable[static_cast<size_t>(glitch)];
  VP_ASSERT(row.glitch == glitch);
  return row;
}

}  // namespace virtproxy
