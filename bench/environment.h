// What a run needs of its process: signals, CPUs, descriptors.
#pragma once

#include <cstddef>
#include <vector>

namespace virtproxy::bench {

class Sink;

// SIGINT and SIGTERM (and SIGALRM) set interrupted(), and stop the sink of `serve` if there is one;
// SIGPIPE is ignored.
void install_signals(Sink* served);
bool interrupted();

// Pins the calling thread to cpus[index], counted round; nothing when `cpus` is empty. Throws
// Failure.
void pin_thread(const std::vector<int>& cpus, size_t index);

// Raises the limit of open descriptors as far as allowed. Throws Failure when `wanted` is beyond.
void allow_descriptors(size_t wanted);

}  // namespace virtproxy::bench
