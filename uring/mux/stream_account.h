// What is known of one stream for those who observe it: its bytes, its age, what it waits for and
// has waited for.
//
// The times are those of the loop, so nothing here reads a clock. Observers are called where a wait
// begins or ends, but for the channel: waits for it begin and end with each batch, and are only
// added up.
//
// A stream waits for one thing in each direction. Towards the peer that is the channel while
// bytes of it have not left, else credit, a receive buffer or its connection; from the peer it is
// the application. Where the other end does not read the channel, credit does not come for that
// reason: such a wait is one for the channel.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/peer_identity.h"
#include "uring/io/loop.h"
#include "uring/mux/counters.h"
#include "uring/mux/observer.h"

namespace virtproxy {

using StallTimes = std::array<Duration, kStallReasons>;

// One stream in a list of them.
struct StreamView {
  StreamKey stream;
  std::string_view service;
  StreamRole role;
  StreamBytes bytes;
  Duration age;
  std::optional<StallReason> waits_for;  // of several reasons, the one that holds for longest
  Duration waits{};                      // for so long
  StallTimes waited{};                   // since the stream began, what goes on included
  int fd = -1;                           // of its application, while there is one
  std::optional<uint32_t> number{};      // see Session::number()
};

class StreamAccount {
 public:
  // `observers`, `loop` and `counters`, to which it adds its own, must outlive it. `client` is what
  // stream_opened() has.
  StreamAccount(const ObserverList& observers, const Loop& loop, ChannelCounters& counters,
                StreamKey stream, std::string_view service, StreamRole role,
                std::span<const std::byte> client)
      : observers_(observers),
        loop_(loop),
        total_(counters.bytes_of(service)),
        channel_waits_(counters.channel_waits()),
        unread_(counters.unread()),
        stream_(stream),
        service_(service),
        role_(role),
        opened_at_(loop.now()) {
    // What is longer is no identity.
    if (client.size() > client_.size()) return;
    std::copy(client.begin(), client.end(), client_.begin());
    client_size_ = static_cast<uint8_t>(client.size());
  }

  StreamKey stream() const { return stream_; }
  const std::string& service() const { return service_; }
  StreamRole role() const { return role_; }
  Duration age() const { return loop_.now() - opened_at_; }

  // So many bytes of the application wait for the channel from now on …
  void sent(uint64_t bytes) {
    bytes_.sent += bytes;
    total_.sent += bytes;
    if (unsent_ == 0) {
      unsent_since_ = loop_.now();
      channel_waits_.begin(unsent_since_);
    }
    unsent_ += bytes;
  }
  // … and so many of them do not any more.
  void left(uint64_t bytes) {
    const Instant now = loop_.now();
    if (now != unsent_since_) count_wait_for_channel(now);
    unsent_ -= bytes;
    if (unsent_ == 0) all_left();
  }
  void received(uint64_t bytes) {
    bytes_.received += bytes;
    total_.received += bytes;
  }

  // Both do nothing where the stream is in that state already. Several reasons may hold at once.
  // Not for kChannel.
  void stall(StallReason reason) {
    if ((stalls_ & bit(reason)) == 0 && !closed_) begin_stall(reason);
  }
  void unstall(StallReason reason) {
    if ((stalls_ & bit(reason)) != 0) end_stall(reason);
  }
  // The stream has no credit, or has some again.
  void credit_is_out();
  void credit_came() {
    credit_is_out_ = false;
    unstall(StallReason::kCredit);
  }

  // Without a descriptor. Valid until the account is changed.
  StreamView view() const;

  // The stream is over by `fault`, or in order. Only the first call counts.
  void close(Fault fault);

 private:
  struct Stalls {
    std::array<Instant, kStallReasons> since{};
    StallTimes over{};
    Duration unread{};  // of the channel, when the wait for credit began
  };

  static constexpr uint8_t bit(StallReason reason) {
    return static_cast<uint8_t>(1u << static_cast<unsigned>(reason));
  }
  void begin_stall(StallReason reason);
  void end_stall(StallReason reason);
  void count_wait_for_channel(Instant now);
  void all_left() {
    channel_waits_.end(unsent_since_, unsent_since_);
    if (credit_is_out_) stall(StallReason::kCredit);
  }

  const ObserverList& observers_;
  const Loop& loop_;
  StreamBytes& total_;
  StallTotal& channel_waits_;
  const Unread& unread_;
  const StreamKey stream_;
  const std::string service_;
  const StreamRole role_;
  std::array<std::byte, kMaxPeerIdentitySize> client_;
  uint8_t client_size_ = 0;
  bool closed_ = false;
  bool credit_is_out_ = false;  // and bytes wait for the channel
  uint8_t stalls_ = 0;          // a bit for each StallReason
  const Instant opened_at_;
  StreamBytes bytes_;
  uint64_t unsent_ = 0;     // bytes that wait for the channel
  Instant unsent_since_{};  // none of them has left since
  Duration waited_for_channel_{};
  std::unique_ptr<Stalls> stall_times_;  // once it has waited for anything else
};

}  // namespace virtproxy
