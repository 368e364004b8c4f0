// Work that may take long, in a process of its own: the agent goes on answering meanwhile.
#pragma once

#include <sys/types.h>

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "core/agent/conversation.h"
#include "uring/base/unique_fd.h"

namespace virtproxy::agent {

// A child that leads a process group and writes to a pipe.
class Child {
 public:
  // Runs `work` there, which gives back an answer; take it with result().
  static tl::expected<Child, Error> run(const std::function<Result()>& work);
  // Runs a program. Its standard output and error are the pipe; its input is empty.
  static tl::expected<Child, Error> execute(const std::string& program,
                                            const std::vector<std::string>& arguments);

  // A process that was started elsewhere, with the reading end of its pipe.
  static Child adopt(pid_t pid, UniqueFd output) { return {pid, std::move(output)}; }

  Child(Child&& other) noexcept;
  Child& operator=(Child&& other) noexcept;
  ~Child();

  int output() const { return output_.get(); }
  // Reads once, if there is anything. False at the end of the output.
  bool read_some();
  // Of run(), at the end of the output.
  Result result() const;
  // Ends its process group.
  void kill();
  // Its status, as waitpid(2) has it, once it has ended; then nothing of its group runs any more.
  std::optional<int> try_wait();

  std::string text;  // its output, of which at most `most` is kept
  bool truncated = false;
  size_t most = kMaxStreamAnswer;

 private:
  Child(pid_t pid, UniqueFd output) : pid_(pid), output_(std::move(output)) {}

  pid_t pid_ = -1;
  UniqueFd output_;
};

// Reaps children that were killed while the kernel still held them.
void reap_killed();

// Freezes file systems, and thaws them again: a process which holds them frozen until its pipe
// closes, that is, also when the agent ends, and for a limited time.
class Freezer {
 public:
  bool frozen() const { return static_cast<bool>(hold_); }
  // The child that freezes them: its result is their number, and from then on they are frozen, for
  // `longest`.
  tl::expected<Child, Error> freeze(Duration longest);
  // Lets go. Its process thaws and ends.
  void thaw() { hold_.reset(); }

 private:
  UniqueFd hold_;
};

}  // namespace virtproxy::agent
