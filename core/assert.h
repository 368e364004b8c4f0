// Assertions that stay on in every build. They guard our own logic only: what a peer, the kernel or
// a user can cause is an error to be returned, never an assertion.
#pragma once

namespace virtproxy {

[[noreturn]] void assertion_failed(const char* expression, const char* file, int line);

}  // namespace virtproxy

#define VP_ASSERT(expression)          \
  (__builtin_expect(!!(expression), 1) \
       ? void(0)                       \
       : ::virtproxy::assertion_failed(#expression, __FILE__, __LINE__))
