// Virtual time, chance and the record of what happened: what everything simulated has in common.
//
// Events run in the order of their time, and at one time in the order in which they were asked for.
// Whatever happens is traced: a hash of the trace tells whether two runs were the same.
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/fault.h"
#include "core/time.h"
#include "tests/sim/channel_record.h"
#include "tests/sim/mishap.h"
#include "tests/sim/random.h"

namespace virtproxy::sim {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

// Deliberate defects of the simulated world: the oracles must see each.
enum class Canary : uint8_t {
  kNone,
  kDropByte,        // a socket loses one byte
  kSwapBytes,       // a socket delivers two bytes in the wrong order
  kLeakDescriptor,  // one close(2) has no effect
  kKeepCredit,      // a session never says that a stream may send again
  kBlockReader,     // the channel's reader waits while any socket is full
  kLoseReset,       // an application is never told of a reset
  kLoseCompletion,  // the ring forgets one operation; epoll's driver, bytes that it was given
  kResetStream,     // an operation on an application's socket fails, and nobody takes it down
  kEndSession,      // … on a channel
  kWithhold,        // nobody gets anything more while another application stands still
  kWithholdFirst,   // nobody gets anything at all
  kRaiseLimit,      // a stream may send more than was granted
  kOvercommit,      // a channel has sixteen times the memory that it was given
  kLeakBuffer,      // one buffer is not released
  kLeakSlot,        // a connection outlives its stream
  kPartAtOnce,      // a socket says that its application has ended while it still sends
  kLeaveRest,       // a send to an application that broke off fails by an error of the device
  kEndWhenKilled,   // the sockets of a daemon that is killed end in an orderly way
  kKeepRequest,     // the ring keeps a request that was cancelled
  kEarlyPoll,       // the ring says that somebody is there to be accepted, and listeners block
  kKeepSilent,      // a peer that sends nothing keeps its channel
  kForgetLink,      // a daemon never gets a link again
  kKeepListening,   // the ring goes on accepting for a listener that has stopped
  kWrongDone,       // DONE has another number than the bytes that were sent
  kReleaseTwice,    // a buffer is released twice
  kReadClock,       // the daemons' clock runs with the real one
  kHoldBack,        // a stream of protocol 1 may hold its channel back for a minute
  kNeverRecheck,    // a reader that missed a wake-up of its device never looks again
  kMisdirect,       // a packet of protocol 1 has another number than that of its stream
  kKeepEnded,       // a request of a connection that is over was cancelled and never ends
  kAdmitEarly,      // the end of a turn comes while events of the same read are being handled
  kLoseEdge,        // epoll does not report that a descriptor became ready
  kForgetInterest,  // … nor ever again
  kSwapEvents,      // epoll reports two events with each other's data
  kLoseAlarm,       // a timer of epoll never expires
  kLoseLine,        // a line of a log does not get to the sink
  kLineTwice,       // … does so twice
  kForgetDrop,      // a drop record does not get to the sink
  kMiscountDrop,    // … has another number of bytes
  kForgetRefusal,   // an account is saved without what a sink refused before it
  kAckEarly,        // the host acknowledges lines that it has not stored
  kAckBeyond,       // … that have not arrived
  kLoseAck,         // a collector is never told that a parcel is safe
  kKeepTail,        // a sink keeps lines that the host's account does not know of
  kOldAccount,      // the host goes on with an account of before what it has acknowledged
  kLoseWrite,       // a write to a spool says that it was made, and was not
  kLoseSync,        // a sync of a spool does nothing
  kReuseLog,        // a guest's daemon that is started again numbers its lines under the old log id
};

// What the daemons of a world wait with.
enum class Drivers : uint8_t { kIoUring, kEpoll, kMixed };
std::string_view drivers_name(Drivers drivers);

class World {
 public:
  World(uint64_t seed, bool printing, Canary canary, Drivers drivers);
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  // The world that this thread's system calls go to.
  static World& current();
  static World* current_or_null();

  uint64_t seed() const { return seed_; }
  Random& random() { return random_; }
  Canary canary() const { return canary_; }
  Drivers drivers() const { return drivers_; }
  // True once, for the defect asked for, at a random opportunity.
  bool canary_strikes(Canary which, double probability);

  Instant now() const { return now_; }
  void at(Instant when, std::function<void()> what);
  void after(Duration delay, std::function<void()> what) { at(now_ + delay, std::move(what)); }
  // Lets time pass without running anything: a process slept.
  void skip(Duration time) { now_ += time; }
  // Runs the next event. False when there is none.
  bool step();
  uint64_t steps() const { return steps_; }

  // Chance of a mishap; counted when it is true. Never after heal().
  bool happens(Mishap mishap, unsigned channel = 0);
  // … to this channel, by its id.
  void count(Mishap mishap, unsigned channel = 0);
  void set_rate(Mishap mishap, double probability) {
    rates_[static_cast<size_t>(mishap)] = probability;
  }
  double rate(Mishap mishap) const {
    return healed_ || calm_ ? 0 : rates_[static_cast<size_t>(mishap)];
  }
  // No mishaps for now, and for ever.
  void calm(bool calm) { calm_ = calm; }
  void heal() { healed_ = true; }
  // Somebody has set the wall clock.
  void shift_wall(Duration by) { wall_shift_ += by; }
  Duration wall_shift() const { return wall_shift_; }
  bool healed() const { return healed_; }
  const MishapCounts& counts() const { return counts_; }
  // Of those, what happened to channels that an end speaks protocol 1 on, being told to.
  const MishapCounts& old_counts() const { return old_counts_; }
  // Bytes that passed by way of pipes.
  void count_piped(uint64_t bytes) { piped_ += bytes; }
  uint64_t piped() const { return piped_; }

  // By its id.
  ChannelRecord& channel(unsigned id) { return channels_[id]; }
  // Something went wrong with connecting to this name; to any, if it is empty.
  void refuse(const std::string& name) { refusals_[name] = now_; }
  bool refused_since(const std::string& name, Instant when) const {
    const auto since = [&](const std::string& key) {
      const auto found = refusals_.find(key);
      return found != refusals_.end() && found->second >= when;
    };
    return since(name) || since({});
  }

  // A session has ended of this, or did not begin for it.
  struct SessionFault {
    unsigned process;
    unsigned channel;  // by its id
    Fault fault;
  };
  void note_fault(const SessionFault& fault) { faults_.push_back(fault); }
  std::vector<SessionFault> take_faults() { return std::exchange(faults_, {}); }

  bool printing() const { return printing_; }
  template <typename... Args>
  void trace(std::string_view what, Args... numbers) {
    hash_ = mix(hash_ ^ static_cast<uint64_t>(now_.count()));
    for (const char c : what) hash_ = hash_ * 0x100000001b3 ^ static_cast<unsigned char>(c);
    ((hash_ = mix(hash_ ^ static_cast<uint64_t>(numbers))), ...);
    if (printing_) {
      std::string line(what);
      ((line += ' ' + std::to_string(numbers)), ...);
      print(line);
    }
  }
  void print(const std::string& line);
  uint64_t hash() const { return hash_; }

  // Says which seed, which oracle and when, and ends the process.
  [[noreturn]] void fail(std::string_view oracle, const std::string& what);
  // Lines for the report of a failure.
  void set_describer(std::function<std::string()> describer) { describer_ = std::move(describer); }

 private:
  struct Event {
    Instant when;
    uint64_t order;
    std::function<void()> what;
    bool operator>(const Event& other) const {
      return when != other.when ? when > other.when : order > other.order;
    }
  };

  const uint64_t seed_;
  const bool printing_;
  const Canary canary_;
  const Drivers drivers_;
  bool canary_struck_ = false;
  Random random_;
  Instant now_;
  Duration wall_shift_{};
  std::vector<Event> events_;  // a heap
  uint64_t ordered_ = 0;
  uint64_t steps_ = 0;
  uint64_t hash_ = 0;
  bool healed_ = false;
  bool calm_ = false;
  std::map<unsigned, ChannelRecord> channels_;
  std::map<std::string, Instant> refusals_;
  std::vector<SessionFault> faults_;
  std::array<double, kMishaps> rates_{};
  MishapCounts counts_{};
  MishapCounts old_counts_{};
  uint64_t piped_ = 0;
  std::function<std::string()> describer_;
};

}  // namespace virtproxy::sim
