#include "tests/sim/process.h"

#include <algorithm>

#include "tests/sim/device.h"

namespace virtproxy::sim {
namespace {

// Of a process's time between two looks at the clock, and of all that the world does not know of.
constexpr Duration kLeastTaken = microseconds(10);
constexpr Duration kMostTaken = microseconds(300);
constexpr Duration kMostAhead = milliseconds(1);

std::vector<Process*> processes;  // by number
Process* running = nullptr;

}  // namespace

void Network::bind(const std::string& name, const std::shared_ptr<Socket>& socket) {
  bound_[name] = {socket, ++inodes_};
}

std::shared_ptr<Socket> Network::find(const std::string& name) const {
  const auto found = bound_.find(name);
  return found == bound_.end() ? nullptr : found->second.socket.lock();
}

uint64_t Network::inode(const std::string& path) const {
  const auto found = bound_.find(path);
  return found == bound_.end() ? 0 : found->second.inode;
}

bool Network::unlink(const std::string& path) { return bound_.erase(path) == 1; }

void Network::add_device(Device* device) { devices_[device->path()] = device; }

Device* Network::device(const std::string& path) const {
  const auto found = devices_.find(path);
  return found == devices_.end() ? nullptr : found->second;
}

void Network::set_path(const std::string& name, const Path& path) { paths_[name] = path; }

Path Network::path(const std::string& name) const {
  const auto found = paths_.find(name);
  return found == paths_.end() ? Path{} : found->second;
}

Process::Process(Network& network, unsigned number) : network_(network), number_(number) {
  if (processes.size() <= number) processes.resize(number + 1);
  processes[number] = this;
}

Process::~Process() { processes[number_] = nullptr; }

Process* Process::current() { return running; }

Instant Process::read_clock() {
  World& world = World::current();
  clock_ = std::max(clock_, world.now());
  if (world.happens(Mishap::kSlowProcessor)) {
    const Instant later = clock_ + world.random().duration(kLeastTaken, kMostTaken);
    clock_ = std::max(clock_, std::min(later, world.now() + kMostAhead));
  }
  return clock_;
}

Process* Process::owner_of(int fd) {
  if (fd < kFirstDescriptor) return nullptr;
  const auto number = static_cast<size_t>(fd / kFirstDescriptor - 1);
  return number < processes.size() ? processes[number] : nullptr;
}

Process::Running::Running(Process& process) : before_(running) { running = &process; }
Process::Running::~Running() { running = before_; }

// The lowest free number, as the kernel does: a number that was closed comes back at once.
int Process::add(FileRef file) {
  const auto free = std::find(files_.begin(), files_.end(), nullptr);
  const auto at = static_cast<size_t>(free - files_.begin());
  if (at == files_.size()) {
    files_.push_back(std::move(file));
  } else {
    *free = std::move(file);
  }
  return first() + static_cast<int>(at);
}

FileRef Process::get(int fd) const {
  const auto at = static_cast<size_t>(fd - first());
  return fd >= first() && at < files_.size() ? files_[at] : nullptr;
}

// Of a file that epoll knows: whether it may live on after its descriptor was closed, because
// another thread is about to run another program and has a copy until then. An application must not
// be able to tell: the oracles would take the daemon for the one who is late.
bool Process::may_stay(const File& file) const {
  const auto* socket = dynamic_cast<const Socket*>(&file);
  return uses_epoll() && !dead_ && socket != nullptr && !socket->listening() &&
         (file.carries_channel || socket->said_and_heard_all());
}

bool Process::close(int fd) {
  const FileRef file = get(fd);
  if (!file) return dead_;
  World& world = World::current();
  if (world.canary_strikes(Canary::kLeakDescriptor, 0.02)) return true;
  if (may_stay(*file) && world.happens(Mishap::kLateRelease)) {
    world.after(world.random().duration(milliseconds(1), seconds(1)), [file] {});
  }
  files_[static_cast<size_t>(fd - first())] = nullptr;
  return true;
}

bool Process::replace(int fd, FileRef file) {
  if (!get(fd)) return false;
  files_[static_cast<size_t>(fd - first())] = std::move(file);
  return true;
}

size_t Process::open_files() const {
  return files_.size() - static_cast<size_t>(std::count(files_.begin(), files_.end(), nullptr));
}

KernelRing& Process::open_ring(io_uring* ring, unsigned submissions, unsigned completions) {
  rings_.push_back(std::make_unique<KernelRing>(*this, ring, submissions, completions));
  return *rings_.back();
}

KernelRing* Process::ring_of(const io_uring* ring) {
  for (const auto& known : rings_) {
    if (known->handle() == ring) return known.get();
  }
  return nullptr;
}

KernelRing* Process::ring_entered_by(int descriptor) {
  for (const auto& known : rings_) {
    if (known->handle()->enter_ring_fd == descriptor) return known.get();
  }
  return nullptr;
}

void Process::close_ring(const io_uring* ring) {
  std::erase_if(rings_, [&](const auto& known) { return known->handle() == ring; });
}

int Process::open_epoll() {
  epoll_ = std::make_shared<KernelEpoll>();
  return add(epoll_);
}

bool Process::ready() const {
  return (epoll_ && epoll_->ready()) ||
         std::any_of(rings_.begin(), rings_.end(), [](const auto& r) { return r->ready(); });
}

void Process::resume() {
  if (epoll_) epoll_->resume();
}

size_t Process::pending() const {
  size_t count = 0;
  for (const auto& ring : rings_) count += ring->pending();
  return count;
}

void Process::kill() {
  dead_ = true;
  for (const auto& ring : rings_) ring->kill();
  if (epoll_) epoll_->kill();
  for (FileRef& file : files_) {
    if (file && !file->of_driver) file.reset();
  }
}

}  // namespace virtproxy::sim
