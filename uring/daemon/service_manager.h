// What the process tells its service manager: systemd's protocol of notifications, sd_notify(3).
//
// A notification is a datagram of KEY=VALUE lines to the socket that NOTIFY_SOCKET names. It is
// written here, because libsystemd cannot be linked statically. The socket is connected at the
// start, so that neither the system call filter nor Landlock has to allow it later.
#pragma once

#include <chrono>
#include <span>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

#include "core/time.h"

namespace virtproxy {

class ServiceManager {
 public:
  // The name under which listeners are stored. No service has it: names with this prefix are
  // reserved.
  static constexpr std::string_view kStored = "virtproxy.stored";
  // … and the sockets of the sources of log lines.
  static constexpr std::string_view kSources = "virtproxy.sources";

  // Reads NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID and FDSTORE and removes them from the
  // environment. Call before any thread starts. The error says which variable is wrong. Without
  // NOTIFY_SOCKET the result does nothing.
  static tl::expected<ServiceManager, std::string> from_environment();

  ServiceManager(ServiceManager&& other) noexcept;
  ServiceManager& operator=(ServiceManager&&) = delete;
  ~ServiceManager();

  // The time without alive() after which the manager ends the process; zero for none.
  Duration watchdog() const { return watchdog_; }
  // True if the manager keeps descriptors for the next process of this service (FDSTORE is set).
  bool stores() const { return stores_; }

  // `status` is one line that the manager shows.
  void ready(std::string_view status);
  // What is running changes; ready() is to follow.
  void reloading();
  // Also asks the manager to wait this long for the end, before it kills.
  void stopping(std::string_view status, Duration limit);
  // To be sent at least once per watchdog(). Never waits.
  void alive();
  // Gives the manager duplicates of sockets, which the next process gets by LISTEN_FDS under that
  // name. With `replace` the ones stored before under it are dropped first.
  void store(std::string_view name, std::span<const int> sockets, bool replace);

 private:
  ServiceManager() = default;
  void send(std::string_view text, int flags = 0);

  int fd_ = -1;
  Duration watchdog_{};
  bool stores_ = false;
  bool failed_ = false;  // a notification was lost, and the log has it
};

}  // namespace virtproxy
