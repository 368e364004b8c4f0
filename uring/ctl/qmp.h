// A client of QEMU's machine protocol (QMP): one JSON object a line, over a unix socket.
#pragma once

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>
#include <tl/expected.hpp>

#include "uring/ctl/guest_port.h"

namespace virtproxy::ctl {

class Qmp {
 public:
  // Every answer may take this long.
  static constexpr auto kPatience = std::chrono::seconds(10);
  static constexpr size_t kMostLine = size_t{1} << 20;  // bytes of an answer

  // Connects and negotiates.
  static tl::expected<Qmp, std::string> connect(const std::string& path);
  Qmp(Qmp&& other) noexcept;
  Qmp& operator=(Qmp&&) = delete;
  ~Qmp();

  // What the command returns, or QEMU's reason. Events that come before are kept for wait_event().
  tl::expected<nlohmann::json, std::string> execute(const std::string& command,
                                                    const nlohmann::json& arguments);
  // Until an event of that name about that device.
  tl::expected<void, std::string> wait_event(const std::string& name, const std::string& device);

 private:
  explicit Qmp(int fd) : fd_(fd) {}
  tl::expected<nlohmann::json, std::string> message();

  int fd_;
  std::string buffer_;
  std::vector<nlohmann::json> events_;
};

// Adds a virtio-serial port to a running machine, and a controller if it has none. Leaves nothing
// behind after an error.
tl::expected<void, std::string> attach(Qmp& qmp, const GuestPort& port);

// Removes what attach() has added, but for a controller.
tl::expected<void, std::string> detach(Qmp& qmp, const GuestPort& port);

}  // namespace virtproxy::ctl
