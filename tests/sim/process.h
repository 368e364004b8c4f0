// A process of the simulated kernel: its descriptors and its rings.
//
// It runs when the scenario calls its loop; in between, its ring collects completions. kill() does
// to it what the kernel does: every descriptor is closed, every request is over. The objects of the
// dead daemon then live on for a moment in which nothing they do has any effect, so that they can
// be destroyed in the orderly way that they insist on.
#pragma once

#include <map>
#include <string>

#include "tests/sim/file.h"
#include "tests/sim/kernel_epoll.h"
#include "tests/sim/kernel_ring.h"
#include "tests/sim/socket.h"

namespace virtproxy::sim {

class Device;

// The names that processes share.
class Network {
 public:
  void bind(const std::string& name, const std::shared_ptr<Socket>& socket);
  std::shared_ptr<Socket> find(const std::string& name) const;
  // The inode of a unix socket's path, 0 when there is no such path.
  uint64_t inode(const std::string& path) const;
  bool unlink(const std::string& path);

  void add_device(Device* device);
  Device* device(const std::string& path) const;

  // How the connections to a name travel; a default where nothing was said.
  void set_path(const std::string& name, const Path& path);
  Path path(const std::string& name) const;

 private:
  struct Bound {
    std::weak_ptr<Socket> socket;
    uint64_t inode;
  };
  std::map<std::string, Bound> bound_;
  std::map<std::string, Device*> devices_;
  std::map<std::string, Path> paths_;
  uint64_t inodes_ = 0;
};

class Process {
 public:
  static constexpr int kFirstDescriptor = 1'000'000;  // of the first process; real ones are below

  Process(Network& network, unsigned number);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  // The process whose code runs now.
  static Process* current();
  // The one that the descriptor belongs to, and nullptr for real descriptors.
  static Process* owner_of(int fd);
  class Running {
   public:
    explicit Running(Process& process);
    ~Running();

   private:
    Process* before_;
  };

  Network& network() { return network_; }
  unsigned number() const { return number_; }

  int add(FileRef file);
  FileRef get(int fd) const;
  bool close(int fd);
  // What dup3(2) does: the number means another file from now on. False when it is not in use.
  bool replace(int fd, FileRef file);
  size_t open_files() const;
  // The first socket that `matches`.
  template <typename Matches>
  std::shared_ptr<Socket> find_socket(Matches matches) const {
    for (const FileRef& file : files_) {
      auto socket = std::dynamic_pointer_cast<Socket>(file);
      if (socket && matches(*socket)) return socket;
    }
    return nullptr;
  }

  template <typename Matches>
  FileRef find_file(Matches matches) const {
    for (const FileRef& file : files_) {
      if (file && matches(*file)) return file;
    }
    return nullptr;
  }

  KernelRing& open_ring(io_uring* ring, unsigned submissions, unsigned completions);
  KernelRing* ring_of(const io_uring* ring);
  // By the number that liburing enters it with.
  KernelRing* ring_entered_by(int descriptor);
  void close_ring(const io_uring* ring);
  // A descriptor.
  int open_epoll();
  bool uses_epoll() const { return epoll_ != nullptr; }

  // Whether what it waits with would let it run now.
  bool ready() const;
  // It runs for a reason that it does not wait for, such as a signal.
  void resume();
  // Requests that its rings have.
  size_t pending() const;

  // Its monotonic clock, which runs ahead of the world's a little while the process runs.
  Instant read_clock();

  void kill();
  bool dead() const { return dead_; }

  bool forgets_links = false;  // see Canary::kForgetLink

 private:
  bool may_stay(const File& file) const;
  int first() const { return kFirstDescriptor * static_cast<int>(number_ + 1); }

  Network& network_;
  const unsigned number_;
  std::vector<FileRef> files_;
  std::vector<std::unique_ptr<KernelRing>> rings_;
  std::shared_ptr<KernelEpoll> epoll_;
  Instant clock_{};
  bool dead_ = false;
};

}  // namespace virtproxy::sim
