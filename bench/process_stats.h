// What the kernel knows about the processes under test, and about the machine.
//
// CPU time comes from the process's own clock (nanoseconds) where the kernel permits it, else from
// /proc/PID/stat (ticks of 10 ms); the split into user and system is always the latter's. Context
// switches are the sum over the threads alive at the time of the sample.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

namespace virtproxy::bench {

struct ProcessSample {
  bool alive = false;
  double cpu = 0;  // seconds, user and system
  double user = 0;
  double system = 0;
  uint64_t voluntary = 0;
  uint64_t involuntary = 0;
  uint64_t rss = 0;
  uint64_t peak_rss = 0;
  size_t processes = 0;
};

std::string process_name(pid_t pid);

// With `tree`, all living descendants are included, and children that were already waited for.
ProcessSample sample_process(pid_t pid, bool tree);

struct MachineSample {
  double busy = 0;  // seconds of CPU, all kinds but idle, waiting and stolen
  double total = 0;
  double steal = 0;
  double iowait = 0;
};

MachineSample sample_machine();

struct MachineInfo {
  std::string kernel;
  std::string cpu;
  size_t cpus = 0;
};

MachineInfo machine_info();

}  // namespace virtproxy::bench
