// Results of simulated calls as the C library gives them.
#pragma once

#include <cerrno>

namespace virtproxy::sim {

// A kernel's result, which is a negative errno on failure: -1 with errno set.
template <typename Result>
Result as_libc_result(Result of_kernel) {
  if (of_kernel >= 0) return of_kernel;
  errno = static_cast<int>(-of_kernel);
  return -1;
}

}  // namespace virtproxy::sim
