#include "uring/ctl/doctor.h"

#include <dirent.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "uring/base/text.h"
#include "uring/ctl/control_client.h"
#include "uring/ctl/messages.h"
#include "uring/io/open_driver.h"
#include "uring/transport/device_check.h"

namespace virtproxy::ctl {
namespace {

using nlohmann::json;

constexpr rlim_t kEnoughDescriptors = 4096;
constexpr rlim_t kEnoughLockable =
    8 << 20;  // bytes, of a ring and its buffers; without it less is used
constexpr size_t kMostLogLine = 4096;

class Report {
 public:
  void good(std::string_view what) { text_ += fmt::format("ok    {}\n", what); }
  void note(std::string_view what, std::string_view advice) { add("note", what, advice); }
  void wrong(std::string_view what, std::string_view advice) {
    add("WRONG", what, advice);
    sound_ = false;
  }
  Diagnosis diagnosis() && { return {std::move(text_), sound_}; }

 private:
  void add(std::string_view kind, std::string_view what, std::string_view advice) {
    text_ += fmt::format("{:<5} {}\n      -> {}\n", kind, what, advice);
  }
  std::string text_;
  bool sound_ = true;
};

std::string line_of(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// What /proc says of a process, such as its limits: the line that begins like this.
std::string proc_line(uint64_t pid, const char* file, std::string_view begin) {
  std::ifstream lines(fmt::format("/proc/{}/{}", pid, file));
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with(begin)) return line.substr(begin.size());
  }
  return {};
}

// As whom a process opens files.
struct Identity {
  uint64_t uid = 0;
  std::vector<uint64_t> groups;
  bool overrides = false;  // CAP_DAC_OVERRIDE

  bool may_write(const struct stat& status) const {
    if (overrides) return true;
    if (uid == status.st_uid) return (status.st_mode & S_IWUSR) != 0;
    const bool of_group = std::find(groups.begin(), groups.end(), status.st_gid) != groups.end();
    return (status.st_mode & (of_group ? S_IWGRP : S_IWOTH)) != 0;
  }
};

// The numbers of a line of /proc/PID/status.
std::vector<uint64_t> status_numbers(uint64_t pid, std::string_view begin, int base = 10) {
  std::istringstream line(proc_line(pid, "status", begin));
  std::vector<uint64_t> numbers;
  for (std::string word; line >> word;) {
    numbers.push_back(std::strtoull(word.c_str(), nullptr, base));
  }
  return numbers;
}

// Nothing if the process has ended.
std::optional<Identity> identity_of(uint64_t pid) {
  // Each: real, effective, saved, and that of the file system.
  const auto uids = status_numbers(pid, "Uid:");
  const auto gids = status_numbers(pid, "Gid:");
  const auto capabilities = status_numbers(pid, "CapEff:", 16);
  if (uids.size() != 4 || gids.size() != 4 || capabilities.empty()) return std::nullopt;
  Identity identity{uids[1], status_numbers(pid, "Groups:"),
                    (capabilities[0] >> CAP_DAC_OVERRIDE & 1) != 0};
  identity.groups.push_back(gids[1]);
  return identity;
}

// Whether a process of this network namespace accepts connections there.
bool has_listener(const std::string& path) {
  std::ifstream sockets("/proc/net/unix");
  for (std::string line; std::getline(sockets, line);) {
    std::istringstream words(line);
    std::string number, references, protocol, flags, type, state, inode, bound;
    words >> number >> references >> protocol >> flags >> type >> state >> inode >> bound;
    constexpr uint64_t kAccepts = 1 << 16;  // __SO_ACCEPTCON
    const bool accepts = (std::strtoull(flags.c_str(), nullptr, 16) & kAccepts) != 0;
    // One that was bound by a relative path shows that.
    const bool same =
        bound.starts_with('/') ? bound == path : !bound.empty() && path.ends_with("/" + bound);
    if (accepts && same) return true;
  }
  return false;
}

// --- the machine ------------------------------------------------------------------------------

void check_driver(Report& report) {
  auto opened = open_driver(DriverChoice::kAuto, 64, {});
  if (!opened) return report.wrong("the kernel's way to wait: " + opened.error(), "see the line");
  const bool best = opened->kind == DriverKind::kIoUring;
  if (best)
    report.good("this machine has what the driver needs: " +
                std::string(driver_name(opened->kind)));
  for (const std::string& warning : opened->warnings) {
    report.note(warning,
                best ? "nothing has to be done" : "the daemon works with epoll; see the line");
  }
}

void check_limit(Report& report, std::string_view name, std::string_view unit_key, rlim_t limit,
                 rlim_t enough) {
  const std::string shown = limit == RLIM_INFINITY ? "unlimited" : std::to_string(limit);
  if (limit >= enough) return report.good(fmt::format("{}: {}", name, shown));
  report.note(fmt::format("{}: {}", name, shown),
              fmt::format("{}= in the unit, or ulimit, raises it", unit_key));
}

void check_own_limits(Report& report) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    check_limit(report, "descriptors of a process started here", "LimitNOFILE", limit.rlim_max,
                kEnoughDescriptors);
  }
  if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0) {
    check_limit(report, "lockable memory of a process started here, bytes", "LimitMEMLOCK",
                limit.rlim_max, kEnoughLockable);
  }
}

void check_access_control(Report& report) {
  if (line_of("/sys/module/apparmor/parameters/enabled") == "Y") {
    report.note(
        "AppArmor is enabled",
        "if QEMU or the daemon gets no permission for a socket although its mode allows it: "
        "journalctl -k --grep 'apparmor=.DENIED'; libvirt's profile of a machine allows what its "
        "XML names");
  }
  const std::string enforce = line_of("/sys/fs/selinux/enforce");
  if (!enforce.empty()) {
    report.note(enforce == "1" ? "SELinux is enforcing" : "SELinux only reports",
                "if a socket is refused although its mode allows it: ausearch -m avc -ts recent");
  }
}

// --- the channels -----------------------------------------------------------------------------

// Those whose channel has a path; virtserial-open is another name of virtio-serial.
constexpr std::array<std::string_view, 5> kMethods = {
    "unix-connect", "unix-listen", "virtio-serial", "virtserial-open", "isa-serial"};

struct Transport {
  std::string kind;
  std::string path;  // empty where it has none
};

Transport transport_of(const std::string& text) {
  const size_t colon = text.find(':');
  Transport transport{text.substr(0, colon), {}};
  if (colon == std::string::npos) return transport;
  const std::string rest = text.substr(colon + 1);
  if (rest.starts_with('/')) transport.path = rest.substr(0, rest.find(':'));
  return transport;
}

// Processes that have the file open, as far as this user may see, but for `daemon`.
std::string users_of(const std::string& path, uint64_t daemon) {
  struct stat wanted {};
  if (stat(path.c_str(), &wanted) != 0) return {};
  std::string users;
  std::error_code error;
  for (const auto& process : std::filesystem::directory_iterator("/proc", error)) {
    const std::string name = process.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    if (name == std::to_string(daemon) || name == std::to_string(getpid())) continue;
    std::error_code hidden;  // it is another user's, or has ended
    for (const auto& fd : std::filesystem::directory_iterator(process.path() / "fd", hidden)) {
      struct stat opened {};
      if (stat(fd.path().c_str(), &opened) != 0 || opened.st_rdev != wanted.st_rdev ||
          !S_ISCHR(opened.st_mode) || opened.st_ino != wanted.st_ino) {
        continue;
      }
      users += fmt::format("{}{} (pid {})", users.empty() ? "" : ", ",
                           printable(line_of("/proc/" + name + "/comm")), name);
      break;
    }
  }
  return users;
}

void check_device(Report& report, const std::string& path, uint64_t daemon) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) {
    return report.wrong(
        fmt::format("{}: {}", path, std::strerror(errno)),
        "give the machine the port (virtproxyctl qemu-args, libvirt-xml), or correct "
        "-c; the daemon waits for it");
  }
  if (const auto fault = device_fault(status))
    return report.wrong(path + " " + *fault, "correct -c");
  if (path.starts_with("/dev/pts/")) {
    report.note(
        path + " is a pseudo-terminal, whose number the next one gets once it is closed",
        "if a machine that stops closes it, use a unix socket instead: the daemon would "
        "open the terminal of another program");
  }
  if (const std::string users = users_of(path, daemon); !users.empty()) {
    return report.wrong(fmt::format("{} is open in {}", path, users),
                        "end that process: a port has one user at a time");
  }
  report.good(path + " is a port that no other process has open");
}

// `daemon`: as whom it connects; 0: this user.
void check_path(Report& report, const Transport& transport, uint64_t daemon) {
  const std::string& path = transport.path;
  struct stat status {};
  const bool there = stat(path.c_str(), &status) == 0;
  const int error = errno;
  if (transport.kind == "unix-listen") {
    const std::string folder = std::filesystem::path(path).parent_path();
    if (access(folder.c_str(), W_OK) == 0)
      return report.good(folder + " takes the listener's path");
    return report.wrong(fmt::format("{}: {}", folder, std::strerror(errno)),
                        "make the directory, or let the daemon's user write to it");
  }
  if (!there) {
    return report.wrong(fmt::format("{}: {}", path, std::strerror(error)),
                        error == ENOENT
                            ? "start the machine whose socket this is, or correct -c; the "
                              "daemon waits for it"
                            : "let the daemon's user reach the directory");
  }
  if (!S_ISSOCK(status.st_mode)) {
    return report.wrong(fmt::format("{} is {}", path, name_of_type(status.st_mode)),
                        "name the socket of QEMU's chardev");
  }
  const auto who = daemon != 0 ? identity_of(daemon) : std::nullopt;
  const bool allowed = who ? who->may_write(status) : access(path.c_str(), W_OK) == 0;
  if (!allowed) {
    return report.wrong(
        fmt::format("user {} may not connect to {}, a socket of uid {} and gid {}, mode {:04o}",
                    who ? who->uid : geteuid(), path, status.st_uid, status.st_gid,
                    status.st_mode & 07777),
        "run the daemon as the socket's owner, or change the socket's group and mode "
        "(LIBVIRT.md: who owns the socket)");
  }
  if (!has_listener(path)) {
    // A note: the machine may be in a container with a network of its own, and up.
    return report.note(path + ": no process of this network namespace listens there",
                       "start the machine whose socket this is; the daemon waits for it");
  }
  report.good(fmt::format("{} is a socket, of uid {} and gid {}, mode {:04o}", path, status.st_uid,
                          status.st_gid, status.st_mode & 07777));
}

void check_transport(Report& report, const std::string& text, uint64_t daemon) {
  const Transport transport = transport_of(text);
  if (transport.path.empty()) return;
  const bool device = transport.kind.find("serial") != std::string::npos;
  device ? check_device(report, transport.path, daemon) : check_path(report, transport, daemon);
}

// --- the daemon -------------------------------------------------------------------------------

// Channels whose other end does not answer, before no more are asked: each costs five seconds.
constexpr unsigned kMostSilent = 3;

// True if the daemon at the other end does not answer. A running daemon without share-stats refuses
// the question at once.
bool is_silent(const std::string& control, const std::string& channel) {
  const auto answer = ask_daemon(control, "far status " + channel);
  return !answer && answer.error().find("has not answered within") != std::string::npos;
}

void check_daemon(Report& report, const Examination& examination) {
  const std::string& control = examination.control;
  const auto answer = ask_daemon(control, "status --json");
  if (!answer) {
    if (examination.control_must_answer) {
      return report.wrong(answer.error(),
                          "start the daemon, or give --control the path of its socket");
    }
    return report.note(
        "no daemon was asked: " + answer.error(),
        "give --control PATH, and name the channels behind doctor to have them looked at");
  }
  const json status = json::parse(*answer, nullptr, false);
  const json channels =
      json::parse(ask_daemon(control, "channels --json").value_or(""), nullptr, false);
  if (!status.is_object() || !channels.is_array()) {
    return report.wrong("the daemon does not answer as one of this version does", "restart it");
  }
  const auto pid = status.value("pid", uint64_t{0});
  report.good(fmt::format("daemon {}, pid {}, driver {}", status.value("version", ""), pid,
                          status.value("driver", "")));
  if (!status.value("sandbox", false)) {
    report.note("system calls of the daemon are not filtered",
                "without --sandbox off: allow seccomp in the container's profile");
  }
  const auto used = status.value("descriptors", uint64_t{0});
  const std::string limit = proc_line(pid, "limits", "Max open files");
  const uint64_t most = std::strtoull(limit.c_str(), nullptr, 10);
  if (most > 0 && used + used / 8 >= most) {
    report.wrong(fmt::format("the daemon has {} of {} descriptors", used, most),
                 "raise LimitNOFILE=: clients wait, or are refused");
  } else {
    report.good(fmt::format("the daemon has {} of {} descriptors", used, most));
  }
  unsigned silent = 0;
  for (const json& channel : channels) {
    const std::string name = channel.value("channel", "");
    const std::string transport = channel.value("transport", "");
    if (channel.value("state", "") != "up") {
      report.wrong(fmt::format("channel {} is down", name),
                   "virtproxyctl events says why; start or look at the other end");
      check_transport(report, transport, pid);
      continue;
    }
    const auto protocol = channel.contains("protocol") && channel["protocol"].is_number()
                              ? channel["protocol"].get<uint64_t>()
                              : 0;
    if (protocol == 1) {
      report.note(fmt::format("channel {}: the other end speaks protocol 1", name),
                  "install virtproxy there too: protocol 1 has no flow control");
    } else if (silent < kMostSilent && is_silent(control, name)) {
      ++silent;
      report.wrong(
          fmt::format("channel {}: the other end has not answered within 5 s", name),
          "its daemon, its machine or the way there stands still; streams wait until it goes on");
    } else {
      report.good(fmt::format("channel {} is up, protocol {}", name, protocol));
    }
    check_transport(report, transport, pid);
  }
  if (silent == kMostSilent) {
    report.note(fmt::format("{} other ends do not answer: no more of them were asked", silent),
                "virtproxyctl far status CHANNEL asks one");
  }
}

// --- lines of the log -------------------------------------------------------------------------

struct Advice {
  std::vector<std::vector<std::string>> messages;  // each as the parts around what varies
  std::string text;
};

std::vector<std::string> split(std::string_view text, std::string_view at) {
  std::vector<std::string> parts;
  while (true) {
    const size_t end = text.find(at);
    parts.emplace_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + at.size());
  }
}

// Text of a Markdown table for a terminal: without the signs of code, and of a link its text.
std::string plain(std::string_view markdown) {
  std::string text;
  while (!markdown.empty()) {
    if (markdown.front() == '[') {
      const size_t middle = markdown.find("](");
      const size_t end = markdown.find(')', middle);
      if (middle == markdown.find(']') && end != std::string_view::npos) {
        text += plain(markdown.substr(1, middle - 1));
        markdown.remove_prefix(end + 1);
        continue;
      }
    }
    if (markdown.front() != '`') text += markdown.front();
    markdown.remove_prefix(1);
  }
  return text;
}

// Rows like: | `message with …`, `another` | what to do |
std::vector<Advice> known_messages() {
  std::vector<Advice> all;
  for (const std::string& row : split(kMessages, "\n")) {
    const auto cells = split(row, " | ");
    if (cells.size() != 2 || !cells[0].starts_with("| `")) continue;
    Advice advice{{}, plain(std::string_view(cells[1]).substr(0, cells[1].rfind(" |")))};
    const auto quoted = split(cells[0], "`");
    for (size_t i = 1; i < quoted.size(); i += 2) {
      advice.messages.push_back(
          split(quoted[i], quoted[i].find("…") == std::string::npos ? " X," : "…"));
    }
    all.push_back(std::move(advice));
  }
  return all;
}

bool matches(std::string_view line, const std::vector<std::string>& parts) {
  for (const std::string& part : parts) {
    const size_t at = line.find(part);
    if (at == std::string_view::npos) return false;
    line.remove_prefix(at + part.size());
  }
  return true;
}

void explain_log(Report& report, std::istream& log) {
  const std::vector<Advice> all = known_messages();
  std::vector<bool> told(all.size());
  uint64_t lines = 0;
  for (std::string line; std::getline(log, line); ++lines) {
    line.resize(std::min(line.size(), kMostLogLine));
    for (size_t i = 0; i < all.size(); ++i) {
      if (told[i]) continue;
      for (const auto& message : all[i].messages) {
        if (told[i] || !matches(line, message)) continue;
        report.note(line, all[i].text);
        told[i] = true;
      }
    }
  }
  if (lines == 0) {
    report.note("there is no line in this log", "see --log-file of the daemon, or journalctl");
  } else if (std::find(told.begin(), told.end(), true) == told.end()) {
    report.good(fmt::format("{} line{}, none of which needs an explanation", lines,
                            lines == 1 ? "" : "s"));
  }
}

}  // namespace

tl::expected<Diagnosis, std::string> examine(const Examination& examination) {
  Report report;
  if (!examination.log.empty()) {
    if (examination.log == "-") {
      explain_log(report, std::cin);
    } else {
      std::ifstream file(examination.log);
      if (!file) {
        return tl::unexpected(
            fmt::format("--log {}: {}", printable(examination.log), std::strerror(errno)));
      }
      explain_log(report, file);
    }
    return std::move(report).diagnosis();
  }
  check_driver(report);
  check_own_limits(report);
  check_access_control(report);
  check_daemon(report, examination);
  for (const std::string& transport : examination.transports) {
    const Transport given = transport_of(transport);
    if (std::find(kMethods.begin(), kMethods.end(), given.kind) == kMethods.end()) {
      return tl::unexpected(fmt::format(
          "{} is no channel with a path ({}){}", virtproxy::in_quotes(given.kind),
          fmt::join(kMethods, ", "), nearest_hint(given.kind, {kMethods.begin(), kMethods.end()})));
    }
    if (given.path.empty()) {
      return tl::unexpected(virtproxy::in_quotes(transport) +
                            ": give an absolute path as -c does, for example "
                            "unix-connect:/run/vm1.sock:-");
    }
    check_transport(report, transport, 0);
  }
  return std::move(report).diagnosis();
}

}  // namespace virtproxy::ctl
