// What a channel reports while it works: the seam for the log, counters, the control socket and the
// oracles of the simulator.
//
// A channel calls its observers in the order in which they were added, in its own thread, in the
// middle of its work. An observer must not call the channel, must not wait, and must not throw.
// Views, spans and descriptors in an event are valid until the call returns. An observer that other
// threads read needs its own synchronisation.
//
// The order of events:
//
//   transport_up ──▶ session_silent | session_up ──▶ session_down ──▶ transport_lost
//
//   * A transport may be lost before a session is up, and carry several sessions one after another.
//   * session_silent() may be followed by session_up() of the same session, once the peer has sent
//     something.
//   * Each stream_opened() is followed by one stream_closed() with the same key. The streams of a
//     session that is over are closed after its session_down() and before anything of the next one.
//   * stream_stalled() and stream_unstalled() alternate for each reason. A stream that is closed has
//     ended its stalls before. Neither is called for kChannel, which begins and ends with batches.
//   * listener_stalled() and listener_resumed() alternate for each listener.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "core/fault.h"
#include "core/glitch.h"
#include "core/session.h"
#include "core/time.h"
#include "uring/net/forward_spec.h"

namespace virtproxy {

// What this end is for a stream: its client is here, or its service is.
enum class StreamRole : uint8_t { kOpener, kAcceptor };

// What a stream waits for.
enum class StallReason : uint8_t {
  kConnecting,   // the service has not accepted the connection yet
  kMemory,       // a receive buffer: all of the channel's are in use
  kCredit,       // the far application has not read what was sent
  kApplication,  // the local application does not take what arrived
  kChannel,      // the channel does not take what the local application sent, or others go first
  kDescriptors,  // of listeners: none is free for the clients that wait to be accepted
};
inline constexpr size_t kStallReasons = 6;

// Why a client was refused, before it had a stream.
enum class RefusalReason : uint8_t {
  kNotAllowed,   // an access list excludes it
  kChannelDown,  // there is no session
  kNoStream,     // no more streams, here or at the other end, or one of the ends is going away
  kNoAnswer,     // the other end has sent nothing
  kUnsettled,    // the other end keeps changing what it speaks
};
inline constexpr size_t kRefusalReasons = 5;

struct RefusalRow {
  RefusalReason reason;
  std::string_view name;  // in lower case, for labels
  std::string_view text;  // completes "client refused: …"
};
const RefusalRow& refusal_row(RefusalReason reason);
// With the client's name, if it has one.
std::string refusal_text(RefusalReason reason, std::string_view client);

// In lower case, for labels.
std::string_view stall_name(StallReason reason);

// Payload of a stream or of several, bytes.
struct StreamBytes {
  uint64_t sent = 0;      // taken from the local application, for the other end
  uint64_t received = 0;  // taken by the local application, from the other end
};

// --- the transport and the session ------------------------------------------------------------

struct TransportLost {
  std::string_view reason;
};

struct SessionUp {
  unsigned protocol;             // 1 or 2
  std::string_view description;  // what else there is to say of it, or nothing; begins with a space
                                 // or a separator, to be appended to a line
  std::string_view peer;         // address, user and process, or CID; else what the channel is
};

// The transport is there, and the other end does not do its part.
enum class Silence : uint8_t {
  kSentNothing,    // protocol 1 may have been chosen for that reason, so that clients can ask
  kNotGreeted,     // it sends something, but not the HELLO that --protocol 2 needs
  kDoesNotAnswer,  // clients have asked, and nothing has come: they are refused
  kHangsUp,        // it has closed several connections at once, and sent nothing
};

struct SessionSilent {
  Silence silence;
};

struct SessionDown {
  // kTransportLost when the transport was lost or given up, kGoingAway when this end stops.
  Fault fault;
  std::string_view reason;  // for people
  size_t streams = 0;       // of the session, which are reset
};

// What follows the reason for which a session ended; empty without streams.
std::string reset_text(size_t streams);

// The peer of a listener was dropped, because it had not sent a HELLO in time.
struct PeerDropped {
  std::string_view peer;
  Duration after;
};

// The listener of the channel closed the connection of a peer. Reported as often as the log reports
// it; ChannelCounters knows the number.
struct PeerRefused {
  std::string_view peer;
  std::string_view reason;
};

// The peer speaks no protocol version of this end.
struct NoCommonVersion {
  Fault fault;
};

struct GlitchSeen {
  Glitch glitch;
  int64_t count;  // what the glitch is about: a number of bytes, a stream number, …
};

// --- clients and streams ----------------------------------------------------------------------

struct ClientRefused {
  std::string_view service;
  RefusalReason reason;
  int fd;  // of the client, still open: peer_identity_of() tells who it is; -1 where it has none
};

// Names the group in which refusals are counted for logs: the service and the reason, and for an
// access list the user as well. The kernel is asked for the user only there.
std::string refusal_subject(const ClientRefused& event);

struct StreamOpened {
  StreamKey stream;  // names it until stream_closed()
  std::string_view service;
  StreamRole role;
  std::span<const std::byte>
      client;              // an encoded PeerIdentity; of an acceptor, as the peer sent it
  const Address* address;  // where the client was accepted, or where the service is; null where
                           // that is in this process
};

// The peer asked for a stream that this end refuses.
struct StreamRefused {
  std::string_view service;  // as the peer sent it: not printable
  Fault fault;
};

struct ServiceConnected {
  std::string_view service;
  Duration duration;  // since the peer asked for it
};

struct ConnectFailed {
  std::string_view service;
  Fault fault;
  std::string_view reason;  // for people
};

// The peer's application broke off: what came before is delivered, then the stream is closed.
struct StreamBrokenOff {
  StreamKey stream;
  std::string_view service;
  StreamRole role;
  int fd;  // of its application here, -1 where there is none
};

// A stream of protocol 1 held the channel back and is about to be closed for it.
struct StreamHeldBack {
  StreamKey stream;
  std::string_view service;
  StreamRole role;
  int fd;          // of its application, -1 where there is none, or none yet
  int64_t number;  // of the stream, as the other end names it
};

struct StreamStalled {
  StreamKey stream;
  std::string_view service;
  StallReason reason;
  Instant since;
};

struct StreamUnstalled {
  StreamKey stream;
  std::string_view service;
  StallReason reason;
  Instant since;
  Duration duration;
};

struct StreamClosed {
  StreamKey stream;
  std::string_view service;
  StreamRole role;
  Fault fault;  // kNone: both directions ended in order
  StreamBytes bytes;
  Duration duration;                  // since stream_opened()
  std::span<const std::byte> client;  // as in stream_opened(): a socket that ended knows no peer
};

// A listener cannot accept: its clients wait for a descriptor (kDescriptors) or memory (kMemory).
struct ListenerStalled {
  std::string_view service;
  StallReason reason;
  Instant since;
};

struct ListenerResumed {
  std::string_view service;
  StallReason reason;
  Instant since;
  Duration duration;
};

class ChannelObserver {
 public:
  virtual void listening(const ForwardSpec&) {}
  virtual void transport_up() {}
  virtual void transport_lost(const TransportLost&) {}
  virtual void session_up(const SessionUp&) {}
  virtual void session_silent(const SessionSilent&) {}
  virtual void session_down(const SessionDown&) {}
  virtual void peer_dropped(const PeerDropped&) {}
  virtual void peer_refused(const PeerRefused&) {}
  virtual void no_common_version(const NoCommonVersion&) {}
  // The other end opens no more streams and takes no more.
  virtual void peer_going_away() {}
  virtual void glitch_seen(const GlitchSeen&) {}
  virtual void client_refused(const ClientRefused&) {}
  virtual void stream_opened(const StreamOpened&) {}
  virtual void stream_refused(const StreamRefused&) {}
  virtual void service_connected(const ServiceConnected&) {}
  virtual void connect_failed(const ConnectFailed&) {}
  virtual void stream_broken_off(const StreamBrokenOff&) {}
  virtual void stream_held_back(const StreamHeldBack&) {}
  virtual void stream_stalled(const StreamStalled&) {}
  virtual void stream_unstalled(const StreamUnstalled&) {}
  virtual void stream_closed(const StreamClosed&) {}
  virtual void listener_stalled(const ListenerStalled&) {}
  virtual void listener_resumed(const ListenerResumed&) {}

 protected:
  ~ChannelObserver() = default;
};

// The observers of one channel, which must outlive it.
class ObserverList {
 public:
  void add(ChannelObserver& observer) { observers_.push_back(&observer); }

  //   observers.notify(&ChannelObserver::glitch_seen, {.glitch = glitch, .count = count});
  template <typename Event>
  void notify(void (ChannelObserver::*event)(const Event&),
              const std::type_identity_t<Event>& what) const {
    for (ChannelObserver* observer : observers_) (observer->*event)(what);
  }
  void notify(void (ChannelObserver::*event)()) const {
    for (ChannelObserver* observer : observers_) (observer->*event)();
  }

 private:
  std::vector<ChannelObserver*> observers_;
};

}  // namespace virtproxy
