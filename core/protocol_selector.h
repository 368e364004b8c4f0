// Which protocol to speak on a link, found out anew for every link.
//
//   choosing   our greeting goes out; what comes in is kept
//      a greeting comes              → version 2 (its own business from there on)
//      the grace ends without one    → version 1, beginning with what was kept
//   version 2  a session fault       → choosing
//   version 1  a greeting comes      → the session is over; choosing, with that greeting
//
// A greeting always wins: only an end that speaks version 2 sends one. Neither an old packet nor
// silence proves anything at once, since stale bytes of an earlier life may lie in front of a
// greeting, and a slow line delays it. An old peer skips our greetings, so they go on in version 1,
// rarely, in case two ends have missed each other's.
#pragma once

#include <algorithm>

#include "core/v1/session.h"
#include "core/v2/session.h"

namespace virtproxy {

enum class ProtocolMode : uint8_t { kAuto, kV1, kV2 };

// How long an end that greets may take to do so, on a link that is no serial line.
inline constexpr Duration kGrace = std::chrono::milliseconds(250);
// On a serial line, where greetings take time themselves. `baud` is 0 if the speed is not known.
Duration grace_on_line(uint32_t baud);

class ProtocolSelector {
 public:
  ProtocolSelector(const SessionConfig& config, ProtocolMode mode);
  ProtocolSelector(const ProtocolSelector&) = delete;
  ProtocolSelector& operator=(const ProtocolSelector&) = delete;

  // --- the link -------------------------------------------------------------------------------
  // `features` as in V2Session; `grace` is how long a peer that greets may take.
  void transport_up(Instant now, Duration grace, uint64_t features, Events& events);
  void transport_down(Events& events);

  // The session that calls for streams go to. What it is changes only where kDown is reported, or
  // before kUp.
  Session& session() { return *current_; }
  bool up() const { return current_->up(); }
  // There is a link, and it will be known soon what is spoken on it.
  bool choosing() const { return state_ == State::kChoosing; }
  // Version 1 was chosen because nothing arrived within the grace.
  bool chosen_by_silence() const { return state_ == State::kV1 && by_silence_; }
  // 1 or 2, of session().
  unsigned protocol() const { return current_ == &v1_ ? 1 : 2; }
  // What else there is to say of a session that is up, as the end of a line.
  std::string_view description() const {
    return protocol() == 1 ? reason_ : v2_.uses_trailers() ? ", frames with trailers" : "";
  }

  // --- as in Session --------------------------------------------------------------------------
  bool wants_input(Instant now);
  size_t input(std::span<const std::byte> bytes, Instant now, Events& events);
  bool wants_to_write(Instant now) const;
  const Batch& plan(uint64_t bytes, Instant now, Events& events);
  std::optional<Instant> deadline() const;
  // True when the bytes that input() left unused should be given to it again.
  bool tick(Instant now, Events& events);
  bool behind(Instant now) const { return state_ != State::kDown && current_->behind(now); }
  void go_away();
  Session::Stats stats();
  // As V2Session::backoff().
  Duration backoff() const { return v2_.backoff(); }
  // What all searches for a greeting or an old packet have looked at so far. For tests.
  uint64_t bytes_searched() const { return bytes_searched_; }

 private:
  enum class State : uint8_t { kDown, kChoosing, kV1, kV2 };

  size_t choose(std::span<const std::byte> bytes, Instant now, Events& events);
  size_t input_v1(std::span<const std::byte> bytes, Instant now, Events& events);
  bool is_fresh(const Hello& hello) const;
  void begin_choosing(Instant now, Duration silence);
  void begin_v1(Instant now, Events& events);
  void on_hello(const Hello& hello, Instant now, Events& events);
  void end_silence(Instant now);
  uint64_t allowed_unheard(uint64_t bytes, Instant now) const;

  const ProtocolMode mode_;
  V2Session v2_;
  V1Session v1_;
  Session* current_;
  State state_ = State::kDown;

  Instant choose_at() const;

  Duration grace_{};
  Instant grace_ends_{};          // for a peer that is silent …
  Instant v1_grace_ends_{};       // … and for one that sends old packets
  Instant grace_ends_at_last_{};  // whatever is heard
  size_t kept_ = 0;               // bytes that input() left unused
  size_t searched_ = 0;           // of those, in front of which no greeting begins
  std::optional<size_t> v1_packet_at_;  // in those, once one was found
  uint64_t bytes_searched_ = 0;
  std::string_view reason_;
  bool by_silence_ = false;
  Instant unheard_until_{};       // what is written in version 1 is bounded until then …
  uint64_t written_unheard_ = 0;  // … and this much was, in bytes
};

}  // namespace virtproxy
