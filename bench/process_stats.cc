#include "process_stats.h"

#include <fmt/format.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string_view>
#include <utility>

#include "uring/base/units.h"

namespace virtproxy::bench {
namespace {

namespace fs = std::filesystem;

double ticks_to_seconds(uint64_t ticks) {
  return static_cast<double>(ticks) / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

struct Stat {
  bool valid = false;
  pid_t parent = 0;
  uint64_t user = 0, system = 0, children_user = 0, children_system = 0;
};

Stat read_stat(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string line;
  Stat stat;
  if (!std::getline(file, line)) return stat;
  // The name, in parentheses, may contain anything.
  const size_t end = line.rfind(')');
  if (end == std::string::npos) return stat;
  std::istringstream fields(line.substr(end + 1));
  std::string skipped;
  fields >> skipped >> stat.parent;
  for (int i = 5; i < 14; ++i) fields >> skipped;
  fields >> stat.user >> stat.system >> stat.children_user >> stat.children_system;
  stat.valid = static_cast<bool>(fields);
  return stat;
}

// "VmRSS:      1234 kB" and the like.
uint64_t number_after(std::string_view line, std::string_view key) {
  if (!line.starts_with(key)) return 0;
  line.remove_prefix(key.size());
  while (!line.empty() && (line.front() == ' ' || line.front() == '\t')) line.remove_prefix(1);
  return parse_number<uint64_t>(line.substr(0, line.find(' '))).value_or(0);
}

void add_status(const std::string& path, bool memory, ProcessSample& sample) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    if (memory) {
      sample.rss += number_after(line, "VmRSS:") * 1024;
      sample.peak_rss += number_after(line, "VmHWM:") * 1024;
    } else {
      sample.voluntary += number_after(line, "voluntary_ctxt_switches:");
      sample.involuntary += number_after(line, "nonvoluntary_ctxt_switches:");
    }
  }
}

void add_process(pid_t pid, ProcessSample& sample) {
  const Stat stat = read_stat(pid);
  if (!stat.valid) return;
  ++sample.processes;
  sample.user += ticks_to_seconds(stat.user);
  sample.system += ticks_to_seconds(stat.system);
  clockid_t clock;
  timespec ts;
  if (::clock_getcpuclockid(pid, &clock) == 0 && ::clock_gettime(clock, &ts) == 0) {
    sample.cpu += static_cast<double>(ts.tv_sec) + static_cast<double>(ts.tv_nsec) * 1e-9;
  } else {
    sample.cpu += ticks_to_seconds(stat.user + stat.system);
  }
  add_status(fmt::format("/proc/{}/status", pid), true, sample);
  std::error_code error;
  for (const auto& task : fs::directory_iterator(fmt::format("/proc/{}/task", pid), error)) {
    add_status((task.path() / "status").string(), false, sample);
  }
}

void add_waited_children(pid_t pid, ProcessSample& sample) {
  const Stat stat = read_stat(pid);
  sample.user += ticks_to_seconds(stat.children_user);
  sample.system += ticks_to_seconds(stat.children_system);
  sample.cpu += ticks_to_seconds(stat.children_user + stat.children_system);
}

std::vector<pid_t> descendants(pid_t root) {
  std::vector<std::pair<pid_t, pid_t>> parents;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/proc", error)) {
    const std::string name = entry.path().filename().string();
    const auto number = parse_number<uint32_t>(name);
    if (!number) continue;
    const auto pid = static_cast<pid_t>(*number);
    const Stat stat = read_stat(pid);
    if (stat.valid) parents.emplace_back(pid, stat.parent);
  }
  std::vector<pid_t> found{root};
  for (size_t i = 0; i < found.size(); ++i) {
    for (const auto& [pid, parent] : parents) {
      if (parent == found[i] && pid != root) found.push_back(pid);
    }
  }
  found.erase(found.begin());
  return found;
}

}  // namespace

std::string process_name(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/comm", pid));
  std::string name;
  std::getline(file, name);
  return name;
}

ProcessSample sample_process(pid_t pid, bool tree) {
  ProcessSample sample;
  add_process(pid, sample);
  sample.alive = sample.processes > 0;
  if (!tree || !sample.alive) return sample;
  add_waited_children(pid, sample);
  for (const pid_t child : descendants(pid)) {
    add_process(child, sample);
    add_waited_children(child, sample);
  }
  return sample;
}

MachineSample sample_machine() {
  std::ifstream file("/proc/stat");
  std::string label;
  uint64_t user = 0, nice = 0, system = 0, idle = 0, iowait = 0, irq = 0, softirq = 0, steal = 0;
  file >> label >> user >> nice >> system >> idle >> iowait >> irq >> softirq >> steal;
  MachineSample sample;
  const uint64_t busy = user + nice + system + irq + softirq;
  sample.busy = ticks_to_seconds(busy);
  sample.total = ticks_to_seconds(busy + idle + iowait + steal);
  sample.steal = ticks_to_seconds(steal);
  sample.iowait = ticks_to_seconds(iowait);
  return sample;
}

MachineInfo machine_info() {
  MachineInfo info;
  utsname name{};
  if (::uname(&name) == 0) info.kernel = name.release;
  info.cpus = static_cast<size_t>(::sysconf(_SC_NPROCESSORS_ONLN));
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line)) {
    if (!line.starts_with("model name")) continue;
    const size_t colon = line.find(':');
    if (colon != std::string::npos && colon + 2 < line.size()) info.cpu = line.substr(colon + 2);
    break;
  }
  return info;
}

}  // namespace virtproxy::bench
