#include "uring/ctl/qmp.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "uring/base/text.h"
#include "uring/net/address.h"

namespace virtproxy::ctl {
namespace {

using Failure = tl::unexpected<std::string>;
using nlohmann::json;
using std::chrono::steady_clock;

bool lacks_bus(const std::string& reason) {
  return reason.find("No 'virtio-serial-bus' bus found") != std::string::npos;
}

// Root ports of a PCIe machine that have nothing behind them, as QEMU names their buses.
std::vector<std::string> free_root_ports(const json& bridges) {
  std::vector<std::string> free;
  for (const json& bus : bridges) {
    for (const json& device : bus.value("devices", json::array())) {
      const std::string id = device.value("qdev_id", "");
      if (!device.contains("pci_bridge") || id.empty()) continue;
      if (device["pci_bridge"].value("devices", json::array()).empty()) free.push_back(id);
    }
  }
  return free;
}

// A controller where the machine takes one while it runs.
tl::expected<void, std::string> add_controller(Qmp& qmp, const std::string& id) {
  json arguments{{"driver", "virtio-serial-pci"}, {"id", id}};
  auto added = qmp.execute("device_add", arguments);
  if (added) return {};
  const std::string first = added.error();
  const auto buses = qmp.execute("query-pci", json::object());
  if (!buses) return Failure(buses.error());
  for (const std::string& port : free_root_ports(*buses)) {
    arguments["bus"] = port;
    if (qmp.execute("device_add", arguments)) return {};
  }
  return Failure(
      fmt::format("{}: the machine has no virtio-serial controller and no free slot for "
                  "one; start it with -device virtio-serial-pci, or with a pcie-root-port",
                  first));
}

}  // namespace

Qmp::Qmp(Qmp&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      buffer_(std::move(other.buffer_)),
      events_(std::move(other.events_)) {}

Qmp::~Qmp() {
  if (fd_ >= 0) close(fd_);
}

tl::expected<Qmp, std::string> Qmp::connect(const std::string& path) {
  const auto fail = [&](std::string_view what) {
    return Failure(fmt::format("--qmp {}: {}", printable(path), what));
  };
  const auto address = to_socket_address({Address::Kind::kUnix, path, 0});
  if (path.empty() || path.size() > kMaxUnixPath || !address)
    return fail("no path of a unix socket");
  Qmp qmp(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (qmp.fd_ < 0 || ::connect(qmp.fd_, address->data(), address->length) != 0) {
    return fail(fmt::format("{} (QEMU: -qmp unix:PATH,server=on,wait=off)",
                            connect_fault(path, errno)));
  }
  const auto greeting = qmp.message();
  if (!greeting) return fail(greeting.error());
  if (!greeting->contains("QMP")) return fail("no QMP monitor listens there");
  if (const auto ready = qmp.execute("qmp_capabilities", json::object()); !ready) {
    return fail(ready.error());
  }
  return qmp;
}

tl::expected<json, std::string> Qmp::message() {
  const auto deadline = steady_clock::now() + kPatience;
  for (;;) {
    if (const size_t end = buffer_.find('\n'); end != std::string::npos) {
      const std::string line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      json parsed = json::parse(line, nullptr, false);
      if (!parsed.is_object()) return Failure("what listens there does not speak QMP");
      return parsed;
    }
    if (buffer_.size() > kMostLine) return Failure("an answer has no end");
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - steady_clock::now());
    pollfd wait{fd_, POLLIN, 0};
    if (left.count() <= 0 || poll(&wait, 1, static_cast<int>(left.count())) == 0) {
      return Failure(
          "QEMU does not answer: another client may hold this monitor, which serves one");
    }
    char piece[4096];
    const ssize_t count = read(fd_, piece, sizeof piece);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (count <= 0) return Failure("QEMU has closed the connection");
    buffer_.append(piece, static_cast<size_t>(count));
  }
}

tl::expected<json, std::string> Qmp::execute(const std::string& command, const json& arguments) {
  const std::string request = json{{"execute", command}, {"arguments", arguments}}.dump() + "\n";
  // Far less than what a socket takes at once.
  if (send(fd_, request.data(), request.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(request.size())) {
    return Failure(fmt::format("{}: cannot write to QEMU: {}", command, std::strerror(errno)));
  }
  constexpr size_t kMostEvents = 1024;
  while (events_.size() < kMostEvents) {
    auto answer = message();
    if (!answer) return answer;
    if (answer->contains("event")) {
      events_.push_back(*std::move(answer));
      continue;
    }
    if (answer->contains("return")) return (*answer)["return"];
    const json error = answer->value("error", json::object());
    const json reason = error.is_object() ? error.value("desc", json()) : json();
    return Failure(fmt::format(
        "{}: {}", command, reason.is_string() ? printable(reason.get<std::string>()) : "refused"));
  }
  return Failure(command + ": QEMU sends events without end");
}

tl::expected<void, std::string> Qmp::wait_event(const std::string& name,
                                                const std::string& device) {
  const auto is_it = [&](const json& event) {
    const json data = event.value("data", json::object());
    return event.value("event", json()) == json(name) && data.is_object() &&
           data.value("device", json()) == json(device);
  };
  const auto deadline = steady_clock::now() + kPatience;
  if (std::any_of(events_.begin(), events_.end(), is_it)) return {};
  while (steady_clock::now() < deadline) {
    const auto event = message();
    if (!event) return Failure(event.error());
    if (is_it(*event)) return {};
  }
  return Failure(fmt::format("QEMU did not report {} of {}", name, device));
}

tl::expected<void, std::string> attach(Qmp& qmp, const GuestPort& port) {
  const json chardev{{"id", port.id()},
                     {"backend",
                      {{"type", "socket"},
                       {"data",
                        {{"addr", {{"type", "unix"}, {"data", {{"path", port.socket}}}}},
                         {"server", true},
                         {"wait", false}}}}}};
  if (const auto added = qmp.execute("chardev-add", chardev); !added) return Failure(added.error());
  json device{{"driver", "virtserialport"},
              {"id", port.id() + "-port"},
              {"chardev", port.id()},
              {"name", port.name}};
  if (!port.bus.empty()) device["bus"] = port.bus;
  auto added = qmp.execute("device_add", device);
  if (!added && port.bus.empty() && lacks_bus(added.error())) {
    if (const auto controller = add_controller(qmp, port.id() + "-bus"); !controller) {
      added = Failure(controller.error());
    } else {
      added = qmp.execute("device_add", device);
    }
  }
  if (added) return {};
  if (const auto removed = qmp.execute("chardev-remove", {{"id", port.id()}}); !removed) {
    return Failure(added.error() + "; and then " + removed.error());
  }
  return Failure(added.error());
}

tl::expected<void, std::string> detach(Qmp& qmp, const GuestPort& port) {
  const std::string device = port.id() + "-port";
  if (const auto asked = qmp.execute("device_del", {{"id", device}}); !asked) {
    return Failure(asked.error());
  }
  if (const auto gone = qmp.wait_event("DEVICE_DELETED", device); !gone) return gone;
  if (const auto removed = qmp.execute("chardev-remove", {{"id", port.id()}}); !removed) {
    return Failure(removed.error());
  }
  return {};
}

}  // namespace virtproxy::ctl
