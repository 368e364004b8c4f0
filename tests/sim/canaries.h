// Defects that are made by changing what a daemon works with, see Canary in world.h. Others are
// made in the simulated kernel.
#pragma once

#include <sys/uio.h>

#include "tests/sim/file.h"
#include "uring/mux/channel.h"

namespace virtproxy::sim {

// After each turn of a daemon, for each of its channels.
void break_channel(Channel& channel);

// In the middle of handling the events of a read.
void break_turn(Channel& channel);

// What is about to be written to a file, from a buffer of the daemon's own.
void misdirect(const File& file, const iovec& bytes);

}  // namespace virtproxy::sim
