// Sockets and devices by their place on the command line.

#ifndef VIRTPROXY_OLDPEER_NET_H_
#define VIRTPROXY_OLDPEER_NET_H_

#include <cstddef>

#include "options.h"

namespace oldpeer {

// Each returns a descriptor, or -1 with errno.
int Listen(const Place& place, int backlog);
int Dial(const Place& place);
int OpenDevice(const Place& place, bool raw_tty);

// A dial that may still be under way: the descriptor becomes writable when it is decided.
int StartDial(const Place& place);
// The outcome of such a dial: 0 or an errno.
int DialError(int fd);

void SetNonblocking(int fd, bool on);

// Writes everything, waiting as long as it takes on a blocking descriptor.
bool WriteAll(int fd, const void* data, size_t size);

}  // namespace oldpeer

#endif  // VIRTPROXY_OLDPEER_NET_H_
