// A program that runs as long as this process, beside a sandbox that lets it start none.
//
// A process that is forked before the sandbox runs the program, again whenever it has ended, after
// a pause that grows from 1 s to 60 s. It passes on the ends of two pipes for each run. When this
// process has ended it ends too, and the program sees the end of its input.
#pragma once

#include <optional>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "uring/base/unique_fd.h"

namespace virtproxy {

class ChildKeeper {
 public:
  struct News {
    enum class Kind : uint8_t {
      kStarted,    // input and output; `value` is its process
      kEnded,      // `value` is its status, as waitpid() gives it
      kCannotRun,  // `value` is an errno
      kGone        // the process that runs it: nothing comes any more
    };
    Kind kind = Kind::kGone;
    int value = 0;
    // Pipes to its standard input and from its standard output; neither blocks.
    UniqueFd input;
    UniqueFd output;
  };

  // While this process has one thread. The program is `command[0]`.
  static tl::expected<ChildKeeper, std::string> start(const std::vector<std::string>& command);

  // Readable when there is news.
  int fd() const { return control_.get(); }
  std::optional<News> receive();
  // Ends the program at once; it is run again.
  void kill();

 private:
  explicit ChildKeeper(UniqueFd control) : control_(std::move(control)) {}

  UniqueFd control_;
};

}  // namespace virtproxy
