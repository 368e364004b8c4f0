// Writing to descriptors: by default each write waits until the destination has taken everything,
// as the original does; with queues nothing waits.

#ifndef VIRTPROXY_OLDPEER_WRITER_H_
#define VIRTPROXY_OLDPEER_WRITER_H_

#include <poll.h>

#include <cstddef>
#include <map>
#include <string>
#include <vector>

namespace oldpeer {

class Writer {
 public:
  explicit Writer(bool queues) : queues_(queues) {}

  // Prepares a new descriptor.
  void Adopt(int fd) const;
  // Writes or queues everything; false with errno when the destination is broken.
  bool Write(int fd, const void* data, size_t size);
  // Closes when the queue has been written.
  void Close(int fd);
  // Closes now; what is queued is lost.
  void CloseNow(int fd);

  size_t Queued(int fd) const;
  void AddTo(std::vector<pollfd>* poll_set) const;
  // Goes on with the queue of a descriptor that poll reported.
  void Flush(int fd);

 private:
  struct Queue {
    std::string bytes;
    size_t written = 0;
    bool closing = false;
  };

  bool queues_;
  std::map<int, Queue> waiting_;
};

}  // namespace oldpeer

#endif  // VIRTPROXY_OLDPEER_WRITER_H_
