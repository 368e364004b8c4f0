// A program that runs as long as this process, beside a sandbox that lets it start none.
//
// A process that is forked before the sandbox runs the program, and again when it is asked to after
// that has ended; then after a pause that grows from 1 s to 60 s. It passes on the ends of two
// pipes for each run. When this process has ended, the program sees the end of its input, and is
// killed if it has not ended 10 s later; then the process that ran it ends too.
//
// It has the rights that this process has when it is forked, so what it takes from this process
// later is little: run, kill, and a text of which it alone makes arguments.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
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

  // The program and its arguments for the next run, by the text that came with run(); empty where
  // that is none of use. Called in the process that runs it.
  using Command = std::function<std::vector<std::string>(std::string_view text)>;
  // While this process has one thread.
  static tl::expected<ChildKeeper, std::string> start(Command command);

  // Readable when there is news.
  int fd() const { return control_.get(); }
  std::optional<News> receive();
  // Runs the program, for the first time or after kEnded or kCannotRun; kStarted or kCannotRun
  // follows.
  void run(std::string_view text = {});
  // Ends the program at once.
  void kill();

 private:
  explicit ChildKeeper(UniqueFd control) : control_(std::move(control)) {}

  UniqueFd control_;
};

// "was killed by signal 9", by a status as waitpid() gives it.
std::string ending_of(int status);

}  // namespace virtproxy
