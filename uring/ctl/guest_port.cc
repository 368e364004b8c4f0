#include "uring/ctl/guest_port.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "uring/net/address.h"

namespace virtproxy::ctl {
namespace {

using Failure = tl::unexpected<std::string>;

constexpr size_t kMostName = 64;
constexpr std::string_view kLetters =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";

bool is_plain(std::string_view text) {
  return !text.empty() && text.size() <= kMostName &&
         text.find_first_not_of(kLetters) == std::string_view::npos && text.front() != '-' &&
         text.front() != '.';
}

// What no shell splits or expands, and QEMU takes once commas are doubled.
bool is_plain_path(std::string_view text) {
  return text.starts_with('/') && text.size() <= kMaxUnixPath &&
         text.find_first_not_of("/,:=+@%~") != std::string_view::npos &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return kLetters.find(c) != std::string_view::npos ||
                  std::string_view("/,:=+@%").find(c) != std::string_view::npos;
         });
}

std::string doubled_commas(std::string_view text) {
  std::string result;
  for (const char c : text) result.append(c == ',' ? 2 : 1, c);
  return result;
}

std::string chardev(std::string_view id, std::string_view socket) {
  return fmt::format("-chardev socket,id={},path={},server=on,wait=off", id,
                     doubled_commas(socket));
}

// A port and its chardev, on a bus that is there.
std::string virtio_port(std::string_view id, std::string_view socket, std::string_view bus,
                        std::string_view name) {
  return fmt::format("{} -device virtserialport,id={}-port,bus={},chardev={},name={}",
                     chardev(id, socket), id, bus, id, name);
}

std::string isa_port(std::string_view id, std::string_view socket) {
  return fmt::format("{} -serial chardev:{}", chardev(id, socket), id);
}

std::string serial_xml(std::string_view socket) {
  return fmt::format(
      "<serial type='unix'>\n"
      "  <source mode='bind' path='{}'/>\n"
      "  <target type='isa-serial'/>\n"
      "</serial>\n",
      socket);
}

std::string channel_xml(std::string_view socket, std::string_view name) {
  return fmt::format(
      "<channel type='unix'>\n"
      "  <source mode='bind' path='{}'/>\n"
      "  <target type='virtio' name='{}'/>\n"
      "</channel>\n",
      socket, name);
}

tl::expected<void, std::string> check_socket(std::string_view option, std::string_view path) {
  if (is_plain_path(path)) return {};
  return Failure(
      fmt::format("{} '{}': give an absolute path of at most {} characters without spaces and "
                  "quotes",
                  option, printable(path), kMaxUnixPath));
}

}  // namespace

std::string default_socket(const std::string& vm) { return "/run/virtproxy/" + vm + ".sock"; }

std::string default_agent_socket(const std::string& vm) {
  return "/run/virtproxy/" + vm + ".agent";
}

tl::expected<void, std::string> check(const GuestPort& port) {
  if (!is_plain(port.vm)) {
    return Failure(
        fmt::format("--vm '{}': a name has 1 to {} letters, digits, dots, dashes and "
                    "underscores, and begins with a letter, a digit or an underscore",
                    printable(port.vm), kMostName));
  }
  if (!is_plain(port.name)) {
    return Failure(
        fmt::format("--port-name '{}': a name has 1 to {} letters, digits, dots, dashes "
                    "and underscores",
                    printable(port.name), kMostName));
  }
  if (port.device != GuestDevice::kVsock) {
    if (auto checked = check_socket("--socket", port.socket); !checked) return checked;
  }
  if (port.agent) {
    if (port.device == GuestDevice::kVsock) {
      return Failure(
          "--agent needs a port: with --vsock, run virtagent behind virtproxy, virtagent(1)");
    }
    if (port.name == kAgentPort) {
      return Failure(fmt::format("--port-name {}: --agent adds a port of this name", port.name));
    }
    if (auto checked = check_socket("--agent-socket", port.agent_socket); !checked) return checked;
    if (port.agent_socket == port.socket) {
      return Failure("--agent-socket: a port has a socket of its own");
    }
  }
  if (!port.bus.empty() && !is_plain(port.bus)) {
    return Failure(
        fmt::format("--bus '{}': give the name of a bus such as vps0.0", printable(port.bus)));
  }
  // 0 to 2 are those of the hypervisor and the host, the last one is any.
  if (port.device == GuestDevice::kVsock && (port.cid < 3 || port.cid == UINT32_MAX)) {
    return Failure(fmt::format("--vsock {}: a guest's CID is 3 to {}", port.cid, UINT32_MAX - 1));
  }
  return {};
}

std::string qemu_args(const GuestPort& port) {
  const std::string_view agent = "virtagent";  // GuestPort::id() never is
  switch (port.device) {
    case GuestDevice::kVsock:
      return fmt::format("-device vhost-vsock-pci,guest-cid={}", port.cid);
    case GuestDevice::kIsaPort:
      return isa_port(port.id(), port.socket) +
             (port.agent ? " " + isa_port(agent, port.agent_socket) : "");
    case GuestDevice::kVirtioPort:
      break;
  }
  const std::string controller = port.id() + "-bus";
  const std::string bus = port.bus.empty() ? controller + ".0" : port.bus;
  return (port.bus.empty() ? fmt::format("-device virtio-serial-pci,id={} ", controller) : "") +
         virtio_port(port.id(), port.socket, bus, port.name) +
         (port.agent ? " " + virtio_port(agent, port.agent_socket, bus, kAgentPort) : "");
}

// check() has seen to it that no character needs quoting in XML.
std::string libvirt_xml(const GuestPort& port) {
  switch (port.device) {
    case GuestDevice::kVsock:
      return fmt::format(
          "<vsock model='virtio'>\n"
          "  <cid auto='no' address='{}'/>\n"
          "</vsock>\n",
          port.cid);
    case GuestDevice::kIsaPort:
      return serial_xml(port.socket) + (port.agent ? serial_xml(port.agent_socket) : "");
    case GuestDevice::kVirtioPort:
      break;
  }
  return channel_xml(port.socket, port.name) +
         (port.agent ? channel_xml(port.agent_socket, kAgentPort) : "");
}

}  // namespace virtproxy::ctl
