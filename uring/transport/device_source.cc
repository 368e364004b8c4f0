#include "uring/transport/device_source.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "uring/net/baud.h"
#include "uring/transport/device_check.h"

namespace virtproxy {
namespace {

// Eight bits, no line discipline at work, no modem lines, no signals.
bool make_raw(int fd, uint32_t baud) {
  termios settings{};
  if (tcgetattr(fd, &settings) != 0) return false;
  cfmakeraw(&settings);
  settings.c_cflag |= CLOCAL | CREAD;
  settings.c_cflag &= static_cast<tcflag_t>(~(HUPCL | CSTOPB | CRTSCTS));
  settings.c_cc[VMIN] = 1;
  settings.c_cc[VTIME] = 0;
  if (baud != 0) {
    const auto speed = termios_speed(baud);
    if (!speed) {
      errno = EINVAL;
      return false;
    }
    cfsetispeed(&settings, *speed);
    cfsetospeed(&settings, *speed);
  }
  return tcsetattr(fd, TCSANOW, &settings) == 0;
}

}  // namespace

void DeviceSource::acquire() {
  spare().release();
  const std::string& path = spec().address.host;
  const int fd = open(path.c_str(), O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (fd < 0) {
    return try_later(path + ": " + std::strerror(errno) +
                     (errno == EBUSY ? " (is another process using it?)" : ""));
  }
  struct stat status {};
  if (fstat(fd, &status) == 0) {
    if (const auto fault = device_fault(status)) {
      close(fd);
      return try_later(path + " " + *fault);
    }
  }
  // A tty may be given to either method; it works with neither unless it is raw.
  const bool tty = isatty(fd) == 1;
  // A tty can be opened by several at once, who would then steal each other's bytes. The lock goes
  // with the process. TIOCEXCL would not: it stays for as long as the master of a pty is open.
  if (tty && flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    close(fd);
    return try_later(path + " is in use by another process");
  }
  if (tty && !make_raw(fd, spec().address.port)) {
    const std::string reason = path + ": cannot set the tty raw: " + std::strerror(errno);
    close(fd);
    return try_later(reason);
  }
  if (tty) {
    // What we may have left in the output goes its way: dropped, it could tear a packet.
    tcflush(fd, TCIFLUSH);
  }
  ready(fd, tty ? transport_traits::kTty : transport_traits::kPort);
}

std::optional<std::string> port_fault(const Address& address) {
  if (address.port == 0) return std::nullopt;
  return "a virtio-serial port has no speed: write - as its port";
}

}  // namespace virtproxy
