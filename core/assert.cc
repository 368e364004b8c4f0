#include "core/assert.h"

#include <cstdio>
#include <cstdlib>

namespace virtproxy {

void assertion_failed(const char* expression, const char* file, int line) {
  std::fprintf(stderr, "virtproxy: assertion failed: %s at %s:%d\n", expression, file, line);
  std::abort();
}

}  // namespace virtproxy
