// The connections that arrive at the listener of a channel.
//
//   connect ──▶ kernel backlog ──▶ on the list? ──▶ waiting ──▶ take(): the peer of the channel
//                                       │              │
//                                    closed         closed: it has hung up, or others need its
//                                    place
//
// A channel has one peer at a time. Connections are accepted while it has one, so that the log can
// name them and so that one that sends something can replace a peer that never did. Nothing is read
// from a connection that waits and nothing is written to it: it is polled, and its bytes are there
// for the channel when it becomes the peer.
//
// At most kMost connections wait. One more takes the place of the oldest that has sent nothing, or
// is closed if all have sent something. While the channel has a peer, a pause follows every kMost
// connections: a connection therefore has at least that long to send something, however many
// others arrive, and a flood of them takes a bounded share of the thread's time.
//
// Like a TransportSource, this keeps a descriptor in reserve, so that a connection can be accepted
// after clients have taken all others.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "uring/base/log.h"
#include "uring/base/spare_descriptor.h"
#include "uring/io/loop.h"
#include "uring/io/repeat_limit.h"
#include "uring/net/acl.h"
#include "uring/net/peer_identity.h"
#include "uring/transport/channel_spec.h"

namespace virtproxy {

class Candidates final : private Completion, private Timer::Owner {
 public:
  class Client {
   public:
    // A connection has arrived, or one that waits has sent something. take() may be called.
    virtual void candidate_came() = 0;
    // accept(2) fails; it will be tried again.
    virtual void accept_failed(const std::string& reason) = 0;
    // Called after the connection of a peer was closed and logged. Limited in rate.
    virtual void peer_closed() = 0;
    virtual void peer_refused(const std::string& peer, std::string_view reason) = 0;
    // The peer that the others wait for, if there is one.
    virtual std::optional<PeerIdentity> present_peer() const = 0;

   protected:
    ~Client() = default;
  };

  static constexpr size_t kMost = 16;

  // `spec` and `peers`, who may connect, must outlive this.
  Candidates(Loop& loop, const ChannelSpec& spec, const Acl& peers, Client* client);
  ~Candidates();

  // `listener` belongs to this object from now on. It must not block.
  void start(int listener);
  // Accepts, or leaves those that come in the kernel's backlog. Paused at first.
  void resume();
  void pause() { paused_ = true; }
  // Closes the listener and every connection that waits.
  void stop();
  bool idle() const { return !arrival_.pending && waiting_.empty() && leaving_.empty(); }

  struct Taken {
    int fd;
    PeerIdentity identity;
  };
  // Gives away a connection: the oldest that has sent something, else the oldest. If there is one,
  // the caller's `spare` is taken over in return.
  std::optional<Taken> take(SpareDescriptor& spare);
  // The oldest that has sent something.
  std::optional<PeerIdentity> first_that_spoke() const;

 private:
  struct Candidate final : Completion {
    Candidate(Candidates& c, int f, const PeerIdentity& o, Instant now)
        : candidates(c), poll(this), fd(f), identity(o), since(now) {}
    void complete(Op&, Outcome outcome) override { candidates.polled(*this, outcome.result); }

    Candidates& candidates;
    Op poll;
    int fd;  // -1 once it is given away or closed
    PeerIdentity identity;
    Instant since;
    bool spoke = false;
    bool named = false;  // in the log
  };

  void complete(Op& op, Outcome outcome) override;
  void expired(Timer& timer) override;

  void listen();
  void failed(const std::string& reason);
  void arrived(int fd);
  bool make_room(const PeerIdentity& newcomer);
  void watch(Candidate& candidate);
  void polled(Candidate& candidate, int result);
  void remove(const Candidate& candidate);
  void hang_up(int fd);
  void name_those_that_wait();

  Loop& loop_;
  const ChannelSpec& spec_;
  const Acl& peers_;
  Client* client_;
  int listener_ = -1;
  SpareDescriptor spare_;
  bool paused_ = true;
  unsigned in_a_row_ = 0;  // accepted beside a peer since the last pause
  Op arrival_;
  Timer rest_;
  Timer naming_;
  std::vector<std::unique_ptr<Candidate>> waiting_;  // the oldest first
  std::vector<std::unique_ptr<Candidate>> leaving_;  // until their poll has ended
  RateLimit refusals_{2};
  RateLimit seconds_{2};
  RepeatLimit<std::string> not_allowed_;  // the last member: it may log when it is destroyed
};

}  // namespace virtproxy
