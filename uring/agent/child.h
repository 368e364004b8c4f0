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

// Why this process cannot run the program, now.
std::optional<std::string> program_fault(const std::string& path);

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

// Freezes file systems, and thaws them again: a process which holds them frozen until it is let go,
// that is, also when the agent ends, and for a limited time.
class Freezer {
 public:
  // The child that freezes them: its result is their number, and from then on they are frozen, for
  // `longest`. The process of the last freeze must have ended.
  tl::expected<Child, Error> freeze(Duration longest);
  // The process freezes nothing more, thaws what it has frozen and ends. It may wait for a disk
  // before that.
  void let_go();
  // Whether the process has not ended: until then something may be frozen.
  bool holds() const;
  // For poll(2), which reports POLLHUP once the process has ended.
  int process() const { return hold_.get(); }

 private:
  UniqueFd hold_;  // a socket whose other end the process has
};

}  // namespace virtproxy::agent
