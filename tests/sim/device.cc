#include "tests/sim/device.h"

#include <poll.h>

#include <algorithm>
#include <utility>

#include "core/wire/v1_packet.h"

namespace virtproxy::sim {
namespace {

constexpr size_t kPortRead = 4096;
constexpr size_t kPortWrite = 32768;
constexpr size_t kTtyPiece = 4096;
constexpr size_t kEmulatorPiece = 4096;
constexpr Duration kEmulatorPause = microseconds(30);
// Until a PING counts the frames, and the ends have greeted anew.
constexpr Duration kToNotice = seconds(8);
constexpr Duration kCableTick = milliseconds(2);

// Who misses whole packets has nothing to notice it by. What is left of a packet that is missing but
// for its first bytes is taken for stray bytes (PROTOCOL.md, "Finding the boundary").
bool goes_unnoticed(size_t lost) {
  constexpr size_t kMostStray = 16;
  return lost > 0 && (lost + kMostStray) % kV1PacketSize <= kMostStray;
}

// A line that may corrupt does so to one byte of a piece at most.
void corrupt(unsigned channel, Fifo& line, size_t from) {
  World& world = World::current();
  if (line.size() <= from) return;
  const size_t at = world.random().between(from, line.size() - 1);
  ChannelRecord& record = world.channel(channel);
  if (world.happens(Mishap::kByteFlipped, channel)) {
    record.falsify(world.now());
    line.contents()[at] ^= static_cast<std::byte>(1u << world.random().below(8));
  } else if (world.happens(Mishap::kByteLost, channel)) {
    line.erase(at);
  } else if (world.happens(Mishap::kByteInserted, channel)) {
    line.insert(at, static_cast<std::byte>(world.random().below(256)));
  } else {
    return;
  }
  record.spoil(world.now());
  record.disturb(world.now());
  record.hinder(world.now() + kToNotice);
}

}  // namespace

class Device::Handle final : public File {
 public:
  explicit Handle(Device& device) : device_(device) { carries_channel = device.channel(); }
  ~Handle() override {
    // A port forgets what was not read; a tty flushes what was not sent only when asked to.
    if (device_.kind_ == Kind::kPort) device_.flush_input();
  }

  int64_t read(std::span<std::byte> to) override {
    device_.looked_at();
    Fifo& line = device_.to_daemon_;
    if (line.size() == 0) {
      return device_.kind_ == Kind::kPort && !device_.host_connected_ ? 0 : -EAGAIN;
    }
    World& world = World::current();
    const size_t most = device_.kind_ == Kind::kPort ? kPortRead : kTtyPiece;
    size_t count = std::min({to.size(), line.size(), most});
    if (count > 1 && world.happens(Mishap::kShortRead, carries_channel)) {
      count = world.random().between(1, count - 1);
    }
    std::copy_n(line.contents().begin(), count, to.begin());
    line.consume(count);
    ++reads;
    if (device_.far_side_ != nullptr) device_.far_side_->file_changed();
    return static_cast<int64_t>(count);
  }

  int64_t write(std::span<const std::byte> from) override {
    if (room() == 0) return -EAGAIN;
    World& world = World::current();
    const size_t most = device_.kind_ == Kind::kPort ? kPortWrite : kTtyPiece;
    size_t count = std::min({from.size(), most, room()});
    if (count > 1 && world.happens(Mishap::kShortWrite, carries_channel)) {
      count = world.random().between(1, count - 1);
    }
    device_.from_daemon_.append(from.first(count));
    if (device_.far_side_ != nullptr) device_.far_side_->file_changed();
    return static_cast<int64_t>(count);
  }

  Device& device() { return device_; }

  uint32_t poll() const override {
    device_.looked_at();
    const bool port = device_.kind_ == Kind::kPort;
    const bool alone = port && !device_.host_connected_;
    uint32_t events = 0;
    if (device_.to_daemon_.size() > 0 || alone) events |= POLLIN;
    if (room() > 0) events |= POLLOUT;
    if (alone) events |= POLLHUP;
    return events;
  }

 private:
  size_t room() const {
    if (device_.kind_ == Kind::kPort && !device_.host_connected_) return 0;
    const size_t used = device_.from_daemon_.size();
    return device_.capacity_ > used ? device_.capacity_ - used : 0;
  }

  Device& device_;
};

FileRef Device::open(int& error) {
  World& world = World::current();
  if (!handle_.expired()) {
    error = EBUSY;
    return nullptr;
  }
  if (world.happens(Mishap::kDeviceAbsent, channel_)) {
    error = ENOENT;
    return nullptr;
  }
  if (to_daemon_.size() + from_daemon_.size() > 0) world.count(Mishap::kStaleBytes, channel_);
  const auto handle = std::make_shared<Handle>(*this);
  handle_ = handle;
  asleep_ = false;
  return handle;
}

Device* Device::of(const FileRef& file) {
  return &std::dynamic_pointer_cast<Handle>(file)->device();
}

// There is room now for what waited on the far side.
void Device::flush_input() {
  to_daemon_.truncate(0);
  if (far_side_ != nullptr) far_side_->file_changed();
}

void Device::set_host_connected(bool connected) {
  host_connected_ = connected;
  changed();
}

// By the daemon, not by who watches the simulation.
void Device::looked_at() {
  if (Process::current() != nullptr) asleep_ = false;
}

void Device::changed() {
  const auto handle = handle_.lock();
  if (!handle || asleep_) return;
  World& world = World::current();
  const bool may_sleep = world.rate(Mishap::kWakeLost) > 0 && world.channel(channel_).streams_open();
  asleep_ = may_sleep && world.happens(Mishap::kWakeLost, channel_);
  if (!asleep_) handle->changed();
}

Emulator::Emulator(Network& network, Device& device, const std::string& name)
    : device_(device), listener_(std::make_shared<Socket>(Family::kUnix)) {
  listener_->carries_channel = device.channel();
  listener_->listen(1);
  listener_->add_waiter(this);
  network.bind(name, listener_);
  device_.set_far_side(this);
}

Emulator::~Emulator() {
  device_.set_far_side(nullptr);
  listener_->remove_waiter(this);
  if (client_) client_->remove_waiter(this);
}

void Emulator::file_changed() {
  if (scheduled_) return;
  scheduled_ = true;
  World& world = World::current();
  world.at(std::max(world.now() + kEmulatorPause, paused_until_),
           [this, alive = std::weak_ptr(alive_)] {
             if (!alive.expired()) move();
           });
}

void Emulator::pause(Instant until) {
  paused_until_ = until;
  file_changed();
}

void Emulator::lose_client() {
  client_->remove_waiter(this);
  client_.reset();
  // What the host side had sent and the guest did not take stays; what was on its way to the host
  // goes to whoever connects next.
  device_.set_host_connected(false);
}

void Emulator::drop_client() {
  if (client_) lose_client();
  file_changed();
}

void Emulator::move() {
  scheduled_ = false;
  World& world = World::current();
  if (world.now() < paused_until_) return file_changed();
  if (!client_) {
    client_ = listener_->accept();
    if (client_) {
      client_->add_waiter(this);
      device_.set_host_connected(true);
    }
  }
  bool moved = false;
  if (client_) {
    if (to_device_.size() == 0) {
      std::array<std::byte, kEmulatorPiece> piece;
      const int64_t got = client_->read(piece);
      if (got > 0) {
        to_device_.append(std::span(piece).first(static_cast<size_t>(got)));
        moved = true;
      } else if (got != -EAGAIN) {
        lose_client();
        return file_changed();
      }
    }
    if (to_socket_.size() > 0) {
      const int64_t put = client_->write(to_socket_.contents());
      if (put > 0) {
        to_socket_.consume(static_cast<size_t>(put));
        moved = true;
      } else if (put != -EAGAIN) {
        lose_client();
        return file_changed();
      }
    }
  }
  const size_t room = std::min(to_device_.size(), device_.room_to_daemon());
  if (room > 0) {
    const size_t before = device_.to_daemon().size();
    device_.to_daemon().append(to_device_.contents().first(room));
    to_device_.consume(room);
    if (device_.kind() == Device::Kind::kTty)
      corrupt(device_.channel(), device_.to_daemon(), before);
    device_.changed();
    moved = true;
  }
  // A serial port without a client drops what the guest says; a virtio port keeps it.
  Fifo& said = device_.from_daemon();
  if (said.size() > 0 && (client_ || device_.kind() == Device::Kind::kTty) &&
      to_socket_.size() == 0) {
    const size_t count = std::min(said.size(), kEmulatorPiece);
    if (client_) to_socket_.append(said.contents().first(count));
    said.consume(count);
    if (client_ && device_.kind() == Device::Kind::kTty) corrupt(device_.channel(), to_socket_, 0);
    device_.changed();
    moved = true;
  }
  if (moved) file_changed();
}

Cable::Cable(Device& left, Device& right, double bytes_per_second)
    : left_(left), right_(right), bytes_per_second_(bytes_per_second) {
  left_.set_far_side(this);
  right_.set_far_side(this);
}

Cable::~Cable() {
  left_.set_far_side(nullptr);
  right_.set_far_side(nullptr);
}

void Cable::file_changed() {
  if (scheduled_) return;
  scheduled_ = true;
  World& world = World::current();
  world.at(std::max(world.now() + kCableTick, paused_until_),
           [this, alive = std::weak_ptr(alive_)] {
             if (!alive.expired()) move();
           });
}

void Cable::move() {
  scheduled_ = false;
  if (World::current().now() < paused_until_) return file_changed();
  const bool one = move(left_, right_);
  const bool other = move(right_, left_);
  if (one || other) file_changed();
}

void Cable::lose() {
  World& world = World::current();
  ChannelRecord& record = world.channel(left_.channel());
  const auto lose_in = [&](Fifo& line) -> size_t {
    const size_t before = line.size();
    if (before == 0) return 0;
    world.count(Mishap::kByteLost, left_.channel());
    line.truncate(world.random().between(0, before - 1));
    record.spoil(world.now());
    record.disturb(world.now());
    record.hinder(world.now() + kToNotice);
    return before - line.size();
  };
  for (const auto& [from, to] : {std::pair(&left_, &right_), std::pair(&right_, &left_)}) {
    const size_t one = lose_in(from->from_daemon());
    const size_t other = lose_in(to->to_daemon());
    for (const size_t lost : {one, other, one + other}) {
      if (goes_unnoticed(lost)) record.falsify(world.now());
    }
  }
}

bool Cable::move(Device& from, Device& to) {
  const auto most =
      static_cast<size_t>(bytes_per_second_ * 1e-9 * static_cast<double>(kCableTick.count()));
  Fifo& said = from.from_daemon();
  // A receiver that is slow loses nothing here: the speed is far below what a daemon reads.
  const size_t count = std::min({said.size(), std::max<size_t>(most, 1), to.room_to_daemon()});
  if (count == 0) return false;
  const size_t before = to.to_daemon().size();
  to.to_daemon().append(said.contents().first(count));
  said.consume(count);
  corrupt(to.channel(), to.to_daemon(), before);
  from.changed();
  to.changed();
  return true;
}

}  // namespace virtproxy::sim
