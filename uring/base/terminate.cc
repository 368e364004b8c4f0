// What the static programs do with an exception that nobody catches. The handler of libstdc++ prints its type as a
// person would write it, and brings a demangler of 53 KB for that.
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
