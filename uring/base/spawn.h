// Runs a program.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace virtproxy {

// The standard streams of a program; -1: /dev/null as its input, the same as here as its output.
struct SpawnStreams {
  int input = -1;
  int output = -1;
};

// Its process, with its signals as a shell would give them, or a negative errno. It leads a process
// group of its own: a signal to the group reaches what it has started as well, and one that a
// terminal sends to this process does not reach it. The first of the
// arguments is the program: a path, or a name that PATH finds. Descriptors that are not closed on
// exec are its own as well.
pid_t spawn(const std::vector<std::string>& arguments, const SpawnStreams& streams);

}  // namespace virtproxy
