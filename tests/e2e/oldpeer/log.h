// Lines on standard error.

#ifndef VIRTPROXY_OLDPEER_LOG_H_
#define VIRTPROXY_OLDPEER_LOG_H_

#include <string>

namespace oldpeer {

// Writes one line at once.
void Say(const std::string& line);

// "WHAT: the text of errno".
std::string WithErrno(const std::string& what);

}  // namespace oldpeer

#endif  // VIRTPROXY_OLDPEER_LOG_H_
