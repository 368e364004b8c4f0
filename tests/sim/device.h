// Character devices: a virtio-serial port, which knows whether anybody holds its host side, and a
// tty, which knows nothing. And who moves the bytes behind them: an emulator with a socket on its
// other side, or a plain cable.
//
// Neither side of a device sees the other one leave. What lies in the device and in the emulator
// when a daemon dies is there for its successor.
#pragma once

#include <memory>
#include <string>

#include "tests/sim/file.h"
#include "tests/sim/process.h"
#include "tests/sim/socket.h"

namespace virtproxy::sim {

class Device {
 public:
  enum class Kind : uint8_t { kPort, kTty };

  Device(unsigned channel, std::string path, Kind kind, size_t capacity)
      : channel_(channel), path_(std::move(path)), kind_(kind), capacity_(capacity) {}

  unsigned channel() const { return channel_; }  // the id of the one that runs over it
  const std::string& path() const { return path_; }
  Kind kind() const { return kind_; }
  // The device behind a file of one.
  static Device* of(const FileRef& file);

  // A file, or nullptr with `error` set.
  FileRef open(int& error);
  void flush_input();  // tcflush(3)

  // The far side.
  Fifo& to_daemon() { return to_daemon_; }
  Fifo& from_daemon() { return from_daemon_; }
  size_t room_to_daemon() const {
    return capacity_ > to_daemon_.size() ? capacity_ - to_daemon_.size() : 0;
  }
  void set_host_connected(bool connected);
  void changed();
  // Told when the daemon wrote or read.
  void set_far_side(File::Waiter* waiter) { far_side_ = waiter; }

 private:
  class Handle;

  void looked_at();

  const unsigned channel_;
  const std::string path_;
  const Kind kind_;
  const size_t capacity_;
  Fifo to_daemon_;
  Fifo from_daemon_;
  bool host_connected_ = false;
  bool asleep_ = false;  // it wakes nobody until the daemon looks at it
  std::weak_ptr<Handle> handle_;
  File::Waiter* far_side_ = nullptr;
};

// What an emulator does between a device and its chardev's socket: small pieces, one after another,
// and nothing is lost but what a lost client or a reset guest leaves behind.
class Emulator final : private File::Waiter {
 public:
  // Listens at `name` like a chardev with server=on.
  Emulator(Network& network, Device& device, const std::string& name);
  ~Emulator();

  // Drops the client, as a chardev does that is told to.
  void drop_client();
  void pause(Instant until);
  bool has_client() const { return client_ != nullptr; }

 private:
  void file_changed() override;
  void move();
  void lose_client();

  Device& device_;
  std::shared_ptr<Socket> listener_;
  std::shared_ptr<Socket> client_;
  Fifo to_device_;
  Fifo to_socket_;
  Instant paused_until_{};
  bool scheduled_ = false;
  std::shared_ptr<int> alive_ = std::make_shared<int>();
};

// Two ttys and the wires between them, at a given speed.
class Cable final : private File::Waiter {
 public:
  Cable(Device& left, Device& right, double bytes_per_second);
  ~Cable();

  void pause(Instant until) { paused_until_ = until; }
  // Some of what is in the wires is gone.
  void lose();

 private:
  void file_changed() override;
  void move();
  bool move(Device& from, Device& to);

  Device& left_;
  Device& right_;
  const double bytes_per_second_;
  Instant paused_until_{};
  bool scheduled_ = false;
  std::shared_ptr<int> alive_ = std::make_shared<int>();
};

}  // namespace virtproxy::sim
