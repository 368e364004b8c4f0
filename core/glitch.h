// The glitches of version 1: what a peer can do against the protocol, and what follows, in one
// table. None ends the session or affects a stream that it does not name.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace virtproxy {

enum class Glitch : uint8_t {
  kNone,
  kBytesSkipped,     // the boundary between packets was lost, and found again
  kUnknownType,      // a packet that is no CONTROL, CLIENT or SERVER
  kUnknownMessage,   // a CONTROL that is no INIT, ACK or CLOSE, and no greeting
  kBadBytes,         // data with a number of bytes outside 1 to 1024
  kUnknownNumber,    // data or CLOSE for a number not in use; also what was late
  kDataBeforeAck,    // data for a stream whose ACK was not sent, or not read yet
  kUnknownAck,       // ACK for a client that is gone, or was never there
  kSecondAck,        // ACK for a client that has one already
  kBadClientNumber,  // INIT with a negative number
  kBadServiceName,   // INIT whose name is empty or does not end
  kNumberAgain,      // INIT or ACK with a number of the peer's that is in use
  kForeignBytes,     // INIT or ACK with a number that data of its stream before are under way to
  kTooManyAnswers,   // more to be refused than there is room to say
};

struct GlitchRow {
  Glitch glitch;
  std::string_view name;     // for labels
  std::string_view text;     // of the log
  std::string_view outcome;  // …
  bool expected;             // a faithful peer does that too: not worth a warning
};

// All rows, in the order of the enumeration.
std::span<const GlitchRow> glitch_rows();
const GlitchRow& glitch_row(Glitch glitch);

}  // namespace virtproxy
