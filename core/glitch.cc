#include "core/glitch.h"

#include <array>

#include "core/assert.h"

namespace virtproxy {
namespace {

constexpr std::array kTable{
    OddityRow{Oddity::kNone, "nothing", "nothing", true},
    OddityRow{
        Oddity::kBytesSkipped, "bytes that are no packet",
        "skipped; the boundary between packets is found again, streams that may have lost bytes "
        "are closed",
        false},
    OddityRow{Oddity::kUnknownType, "a packet of unknown type", "dropped", false},
    OddityRow{Oddity::kUnknownMessage, "an unknown control message", "dropped", false},
    OddityRow{Oddity::kBadBytes, "a data packet with an impossible number of bytes",
              "dropped; its stream is closed", false},
    OddityRow{Oddity::kUnknownNumber, "a packet for a number that is not in use", "dropped", true},
    OddityRow{Oddity::kDataBeforeAck, "data before the ACK", "its stream is closed", false},
    OddityRow{Oddity::kUnknownAck, "an ACK for a client that is gone", "answered with CLOSE", true},
    OddityRow{Oddity::kSecondAck, "a second ACK for a client",
              "ignored; another server number is closed", false},
    OddityRow{Oddity::kBadClientNumber, "an INIT with a negative number", "dropped", false},
    OddityRow{Oddity::kBadServiceName, "an INIT with a malformed service name",
              "refused with CLOSE", false},
    OddityRow{Oddity::kNumberAgain, "a number of its own that is in use, for a new connection",
              "the stream that had it is closed", false},
    OddityRow{Oddity::kForeignBytes,
              "a number of its own that data for an earlier connection are under way to",
              "the new connection is closed", true},
    OddityRow{Oddity::kTooManyAnswers, "more refusals than the channel takes", "dropped", false},
};

}  // namespace

const OddityRow& oddity_row(Oddity oddity) {
  const OddityRow& row = kTable[static_cast<size_t>(oddity)];
  VP_ASSERT(row.oddity == oddity);
  return row;
}

}  // namespace virtproxy
