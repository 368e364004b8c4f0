// Everything that can go wrong in the simulated world. Each kind has its own probability, drawn
// from the seed, and its own counter: over a set of seeds every one of them must have happened.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace virtproxy::sim {

enum class Mishap : uint8_t {
  kShortRead,
  kShortWrite,
  kLateCompletion,
  kOvertaking,     // a completion is seen before an earlier one of another descriptor
  kSpuriousWake,   // the wait of the ring returns early; epoll reports again what it has reported
  kInterrupted,    // EINTR, EAGAIN
  kRingRefuses,    // nothing is submitted: the kernel lacks memory
  kPollEnds,       // a poll that is to go on ends: no room for its completion
  kSlowProcessor,  // time passes while a process runs
  kReceiveError,   // of an application's socket
  kSendError,      // of an application's socket
  kNoMemory,       // ENOMEM, ENOBUFS from an operation
  kChannelError,   // an operation on the channel fails
  kNoBuffers,      // no receive buffer is left
  kPipeFull,       // every slot is taken
  kPipeFails,      // EMFILE from pipe2
  kPipeSmall,      // a pipe cannot be made larger
  kClosedBefore,   // a request reaches the kernel after its descriptor was closed
  kHastyService,   // answers in the very moment it is connected to
  kAcceptFails,    // EMFILE, ENFILE, ENOMEM, ECONNABORTED
  kSocketFails,    // EMFILE when a service is dialed
  kServiceAbsent,  // refused, no such path
  kServiceSilent,  // the connection is never established
  kBacklogFull,
  kAddressInUse,  // for a moment after a restart
  kLateRelease,   // the kernel keeps a file for a while that was closed
  kChannelCut,    // between two frames or in the middle of one
  kChannelTorn,   // … and bytes on their way were lost
  kChannelStalls,
  kDeviceAbsent,  // opening the device fails
  kHostLeaves,    // the emulator loses its host side
  kWakeLost,      // a device wakes nobody until it is looked at again
  kStaleBytes,    // a device holds bytes of an earlier life when a daemon opens it
  kByteFlipped,   // on a line that may corrupt
  kByteLost,
  kByteInserted,
  kOldProtocol,  // an end that may speak protocol 1 believes that the other one does
  kProtocolOne,  // both ends of a channel speak protocol 1, since one was told to
  kUpgraded,     // an end that spoke protocol 1 alone comes back as one that speaks both
  kDowngraded,
  kStreamStalls,  // a stream of protocol 1 is closed for holding the channel back
  kDaemonKilled,
  kDaemonStopped,  // asked to end, drains
  kStandsStill,    // a daemon does not run for a while: its process is stopped, or its machine is
  kApplicationResets,
  kApplicationVanishes,
  kApplicationStalls,
  kApplicationCrawls,
  kAnswersEarly,  // closes after its answer, with bytes unread
  kHalfClose,
  kHostilePeer,            // an end is replaced by a hostile program
  kHostileResets,          // it resets its connection of the channel
  kHostileCloses,          // … or closes it
  kGreetingRight,          // it greets and echoes the present epoch
  kGreetingOfEarlierLife,  // it repeats a greeting
  kEpochPredicted,         // it echoes an epoch that was not written yet
  kOpenBehindGreeting,     // OPEN follows the greeting in the same segment
  kDataBehindInit,         // data follow INIT before its ACK can have been read
  kMindChanged,            // both protocols in one segment
  kManyInOne,              // many greetings, frames or packets in one segment
  kGraceEnds,              // a segment is timed for the end of the grace
  kDiskFails,              // a write or sync of a spool
  kPowerLost,              // the machine of a guest ends, and what was not synced may be lost
  kSilentStranger,         // a connection that sends nothing comes to the listener of a channel
  kCount,
};
inline constexpr size_t kMishaps = static_cast<size_t>(Mishap::kCount);

std::string_view mishap_name(Mishap mishap);
// Whether only a ring knows it.
bool is_of_ring(Mishap mishap);
// Whether it happens to one channel, so that it is counted of protocol 1, too.
bool is_of_channel(Mishap mishap);

using MishapCounts = std::array<uint64_t, kMishaps>;

}  // namespace virtproxy::sim
