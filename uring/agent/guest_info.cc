#include "uring/agent/guest_info.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/fs.h>
#include <linux/rtc.h>
#include <mntent.h>
#include <net/if.h>
#include <netpacket/packet.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <unistd.h>
#include <utmpx.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <ctime>
#include <map>
#include <set>
#include <string>

#include "uring/agent/files.h"
#include "uring/base/clock.h"
#include "uring/base/unique_fd.h"

namespace virtproxy::agent {
namespace {

constexpr size_t kMostEntries = 256;
constexpr size_t kMostInterfaces = 128;
constexpr size_t kMostAddresses = 64;  // of one interface
// What is left of kMaxValues for addresses, at four values each, beside 20 for each interface.
constexpr size_t kMostAddressesInAll = 350;

// At most 16 KiB.
std::string read_file(const std::string& path) {
  std::string text(16384, '\0');
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  const ssize_t size = fd ? read(fd.get(), text.data(), text.size()) : 0;
  text.resize(size > 0 ? static_cast<size_t>(size) : 0);
  return text;
}

// The value of KEY=VALUE or KEY="VALUE" of os-release(5).
std::string unquote(std::string_view value) {
  const bool quoted =
      value.size() >= 2 && (value[0] == '"' || value[0] == '\'') && value.back() == value[0];
  if (!quoted) return std::string(value);
  value = value.substr(1, value.size() - 2);
  std::string text;
  for (size_t i = 0; i < value.size(); ++i) {
    if (value[i] == '\\' && i + 1 < value.size()) ++i;
    text += value[i];
  }
  return text;
}

int prefix_of(const sockaddr* mask) {
  int bits = 0;
  const unsigned char* bytes = nullptr;
  size_t size = 0;
  if (mask->sa_family == AF_INET) {
    bytes = reinterpret_cast<const unsigned char*>(
        &reinterpret_cast<const sockaddr_in*>(mask)->sin_addr);
    size = 4;
  } else if (mask->sa_family == AF_INET6) {
    bytes = reinterpret_cast<const unsigned char*>(
        &reinterpret_cast<const sockaddr_in6*>(mask)->sin6_addr);
    size = 16;
  }
  for (size_t i = 0; i < size; ++i) bits += __builtin_popcount(bytes[i]);
  return bits;
}

struct Mount {
  std::string device;
  std::string directory;
  std::string type;
};

// Those that a device holds, each device once.
std::vector<Mount> mounts() {
  std::vector<Mount> all;
  std::set<std::string> devices;
  FILE* const table = setmntent("/proc/self/mounts", "r");
  if (table == nullptr) return all;
  while (const mntent* entry = getmntent(table)) {
    if (entry->mnt_fsname[0] != '/' || !devices.insert(entry->mnt_fsname).second) continue;
    if (all.size() >= kMostEntries) break;
    all.push_back({entry->mnt_fsname, entry->mnt_dir, entry->mnt_type});
  }
  endmntent(table);
  return all;
}

std::string base_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

}  // namespace

int64_t wall_clock() { return static_cast<int64_t>(unix_now()); }

Result host_name() {
  char name[256] = {};
  if (gethostname(name, sizeof name - 1) != 0) {
    return tl::unexpected(errno_error("cannot read the host name", errno));
  }
  return Json{{"host-name", name}};
}

Result os_info() {
  Json info = Json::object();
  utsname kernel{};
  if (uname(&kernel) == 0) {
    info["kernel-release"] = kernel.release;
    info["kernel-version"] = kernel.version;
    info["machine"] = kernel.machine;
  }
  std::string text = read_file("/etc/os-release");
  if (text.empty()) text = read_file("/usr/lib/os-release");
  const std::map<std::string_view, const char*> names{{"ID", "id"},
                                                      {"NAME", "name"},
                                                      {"PRETTY_NAME", "pretty-name"},
                                                      {"VERSION", "version"},
                                                      {"VERSION_ID", "version-id"},
                                                      {"VARIANT", "variant"},
                                                      {"VARIANT_ID", "variant-id"}};
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = std::string_view(text).substr(at, end - at);
    at = end + 1;
    const size_t equals = line.find('=');
    const auto name = names.find(line.substr(0, equals));
    if (equals != std::string_view::npos && name != names.end()) {
      info[name->second] = unquote(line.substr(equals + 1));
    }
  }
  return info;
}

Result time_zone() {
  const time_t now = time(nullptr);
  tm local{};
  tzset();
  if (localtime_r(&now, &local) == nullptr) {
    return tl::unexpected(errno_error("cannot read the time zone", errno));
  }
  return Json{{"zone", local.tm_zone}, {"offset", local.tm_gmtoff}};
}

Result users() {
  // By name, with the earliest login of each.
  std::map<std::string, double> logins;
  setutxent();
  while (const utmpx* entry = getutxent()) {
    if (entry->ut_type != USER_PROCESS) continue;
    const std::string name(entry->ut_user, strnlen(entry->ut_user, sizeof entry->ut_user));
    const double when =
        static_cast<double>(entry->ut_tv.tv_sec) + static_cast<double>(entry->ut_tv.tv_usec) / 1e6;
    const auto [known, added] = logins.emplace(name, when);
    if (!added) known->second = std::min(known->second, when);
    if (logins.size() >= kMostEntries) break;
  }
  endutxent();
  Json list = Json::array();
  for (const auto& [name, when] : logins) list.push_back({{"user", name}, {"login-time", when}});
  return list;
}

Result load() {
  double values[3] = {};
  if (getloadavg(values, 3) != 3)
    return tl::unexpected(errno_error("cannot read the load", ENOENT));
  return Json{{"load1m", values[0]}, {"load5m", values[1]}, {"load15m", values[2]}};
}

Result vcpus() {
  std::set<long> ids;
  DIR* const directory = opendir("/sys/devices/system/cpu");
  if (directory == nullptr) return tl::unexpected(errno_error("cannot list processors", errno));
  while (const dirent* entry = readdir(directory)) {
    const std::string_view name = entry->d_name;
    if (!name.starts_with("cpu") || name.size() < 4) continue;
    char* end = nullptr;
    const long id = std::strtol(entry->d_name + 3, &end, 10);
    if (*end == '\0' && ids.size() < kMostEntries) ids.insert(id);
  }
  closedir(directory);
  Json list = Json::array();
  for (const long id : ids) {
    // The first one of most machines has no such file, since it cannot be switched off.
    const std::string online =
        read_file("/sys/devices/system/cpu/cpu" + std::to_string(id) + "/online");
    list.push_back({{"logical-id", id},
                    {"online", online.empty() || online[0] == '1'},
                    {"can-offline", !online.empty()}});
  }
  return list;
}

Result network_interfaces() {
  ifaddrs* first = nullptr;
  if (getifaddrs(&first) != 0) return tl::unexpected(errno_error("cannot list interfaces", errno));
  Json list = Json::array();
  std::map<std::string, size_t> places;
  size_t addresses = 0;
  for (const ifaddrs* each = first; each != nullptr; each = each->ifa_next) {
    const auto [place, added] = places.emplace(each->ifa_name, list.size());
    if (added) {
      if (list.size() >= kMostInterfaces) {
        places.erase(place);
        continue;
      }
      list.push_back({{"name", each->ifa_name}});
      Json statistics = Json::object();
      const std::string folder = std::string("/sys/class/net/") + each->ifa_name + "/statistics/";
      for (const auto& [key, file] :
           {std::pair("rx-bytes", "rx_bytes"), std::pair("rx-packets", "rx_packets"),
            std::pair("rx-errs", "rx_errors"), std::pair("rx-dropped", "rx_dropped"),
            std::pair("tx-bytes", "tx_bytes"), std::pair("tx-packets", "tx_packets"),
            std::pair("tx-errs", "tx_errors"), std::pair("tx-dropped", "tx_dropped")}) {
        const std::string value = read_file(folder + file);
        if (!value.empty()) statistics[key] = std::strtoull(value.c_str(), nullptr, 10);
      }
      if (statistics.size() == 8) list.back()["statistics"] = statistics;
    }
    if (each->ifa_addr == nullptr) continue;
    Json& interface = list[place->second];
    const int family = each->ifa_addr->sa_family;
    if (family == AF_PACKET) {
      const auto* const link = reinterpret_cast<const sockaddr_ll*>(each->ifa_addr);
      if (link->sll_halen != 6) continue;
      char text[18];
      std::snprintf(text, sizeof text, "%02x:%02x:%02x:%02x:%02x:%02x", link->sll_addr[0],
                    link->sll_addr[1], link->sll_addr[2], link->sll_addr[3], link->sll_addr[4],
                    link->sll_addr[5]);
      interface["hardware-address"] = text;
    } else if ((family == AF_INET || family == AF_INET6) && each->ifa_netmask != nullptr) {
      if (interface["ip-addresses"].size() >= kMostAddresses || addresses >= kMostAddressesInAll)
        continue;
      ++addresses;
      char text[INET6_ADDRSTRLEN] = {};
      const void* const bytes =
          family == AF_INET
              ? static_cast<const void*>(
                    &reinterpret_cast<const sockaddr_in*>(each->ifa_addr)->sin_addr)
              : static_cast<const void*>(
                    &reinterpret_cast<const sockaddr_in6*>(each->ifa_addr)->sin6_addr);
      inet_ntop(family, bytes, text, sizeof text);
      interface["ip-addresses"].push_back({{"ip-address", text},
                                           {"ip-address-type", family == AF_INET ? "ipv4" : "ipv6"},
                                           {"prefix", prefix_of(each->ifa_netmask)}});
    }
  }
  freeifaddrs(first);
  return list;
}

Result file_systems() {
  Json list = Json::array();
  for (const Mount& mount : mounts()) {
    Json entry = {{"name", base_name(mount.device)},
                  {"mountpoint", mount.directory},
                  {"type", mount.type},
                  {"disk", Json::array()}};
    struct statvfs status {};
    if (statvfs(mount.directory.c_str(), &status) == 0) {
      const uint64_t used = status.f_blocks - status.f_bfree;
      entry["used-bytes"] = used * status.f_frsize;
      // As df(1): without what only root may use.
      entry["total-bytes"] = (used + status.f_bavail) * status.f_frsize;
    }
    list.push_back(std::move(entry));
  }
  return list;
}

Result dmesg(size_t bytes) {
  const int size = klogctl(10 /* SYSLOG_ACTION_SIZE_BUFFER */, nullptr, 0);
  if (size < 0) return tl::unexpected(errno_error("cannot read the kernel's log", errno));
  std::string text(static_cast<size_t>(size), '\0');
  const int got = klogctl(3 /* SYSLOG_ACTION_READ_ALL */, text.data(), size);
  if (got < 0) return tl::unexpected(errno_error("cannot read the kernel's log", errno));
  text.resize(static_cast<size_t>(got));
  if (text.size() > bytes) text.erase(0, text.size() - bytes);
  // A control character takes six bytes in JSON, and an answer is bounded.
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < ' ' && c != '\n' && c != '\t') c = '?';
  }
  return text;
}

Result set_time(const Json& arguments) {
  int64_t wanted = 0;
  if (arguments.contains("time")) {
    wanted = arguments["time"];
  } else {
    const UniqueFd clock(open("/dev/rtc0", O_RDONLY | O_CLOEXEC));
    rtc_time hardware{};
    if (!clock || ioctl(clock.get(), RTC_RD_TIME, &hardware) != 0) {
      return tl::unexpected(errno_error("cannot read the hardware clock", errno));
    }
    tm time{};
    time.tm_year = hardware.tm_year;
    time.tm_mon = hardware.tm_mon;
    time.tm_mday = hardware.tm_mday;
    time.tm_hour = hardware.tm_hour;
    time.tm_min = hardware.tm_min;
    time.tm_sec = hardware.tm_sec;
    wanted = int64_t{timegm(&time)} * 1000000000;
  }
  constexpr int64_t kTenYears = int64_t{10} * 366 * 86400 * 1000000000;
  const int64_t now = wall_clock();
  if (wanted > now + kTenYears || wanted < now - kTenYears) {
    return tl::unexpected(
        error_of(ErrorCode::kBadArgument,
                 "the clock is set by at most ten years, in nanoseconds since 1970"));
  }
  const timespec time{wanted / 1000000000, wanted % 1000000000};
  if (clock_settime(CLOCK_REALTIME, &time) != 0) {
    return tl::unexpected(errno_error("cannot set the clock", errno));
  }
  return Json::object();
}

Result trim(uint64_t minimum) {
  Json list = Json::array();
  for (const Mount& mount : mounts()) {
    Json entry = {{"path", mount.directory}};
    fstrim_range range{};
    range.len = UINT64_MAX;
    range.minlen = minimum;
    const UniqueFd fd(open(mount.directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (fd && ioctl(fd.get(), FITRIM, &range) == 0) {
      entry["trimmed"] = range.len;
      entry["minimum"] = range.minlen;
    } else {
      entry["error"] = strerrordesc_np(errno);
    }
    list.push_back(std::move(entry));
  }
  return Json{{"paths", list}};
}

}  // namespace virtproxy::agent
