// The handler for uncaught exceptions in the static programs. It replaces the one of libstdc++,
// which links a demangler of 53 KB to print the type of the exception.
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <exception>

namespace __gnu_cxx {

void __verbose_terminate_handler() {
  const auto say = [](const char* text) {
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text, std::strlen(text));
  };
  say("an exception was not caught: ");
  try {
    if (std::current_exception()) throw;
  } catch (const std::exception& exception) {
    say(exception.what());
  } catch (...) {
  }
  say("\n");
  std::abort();
}

}  // namespace __gnu_cxx
