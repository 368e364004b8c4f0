// Sockets for the tool: addresses, listeners, non-blocking connects, the abortive close.
//
// An address is `host:port`, `[v6]:port`, a unix path (it contains a `/`) or an abstract `@name`.

#ifndef VIRTPROXY_TESTS_E2E_TRAFFIC_NET_H_
#define VIRTPROXY_TESTS_E2E_TRAFFIC_NET_H_

#include <sys/socket.h>

#include <stdexcept>
#include <string>

namespace virtproxy::traffic {

// Wrong arguments: the program ends with exit code 2.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// An expectation that did not hold outside any stream (a refused bind, say): exit code 1.
class Failure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Address {
  sockaddr_storage storage{};
  socklen_t length = 0;
  std::string text;

  bool IsUnix() const { return storage.ss_family == AF_UNIX; }
  const sockaddr* Get() const { return reinterpret_cast<const sockaddr*>(&storage); }

  static Address Parse(const std::string& text);
};

// A non-blocking listener. A stale unix path is unlinked first.
int Listen(const Address& address, int backlog);

enum class ConnectState { kDone, kInProgress, kTryLater };

// Starts a non-blocking connect on a fresh socket; throws Failure with the address when it is
// refused at once. kTryLater: the backlog of a unix listener is full; `*fd` is then -1.
ConnectState StartConnect(const Address& address, int* fd);

// Takes one connection, or -1 when there is none at the moment.
int AcceptOne(int listener);

void SetNoDelay(int fd);

// Closes without a goodbye: TCP sends RST.
void CloseHard(int fd);

// The error kept in the socket, taken out of it.
int TakeError(int fd);

// Raises the soft limit of descriptors to the hard one and returns it.
size_t RaiseDescriptorLimit();

std::string ErrorText(int error);

}  // namespace virtproxy::traffic

#endif  // VIRTPROXY_TESTS_E2E_TRAFFIC_NET_H_
