// Tasks that other threads leave for one thread, its owner, which runs them when it has time.
//
// The main thread asks a worker in this way, and the worker answers in the same way. A task is run
// once or, where the owner has ended, destroyed without having run: what it holds may tell by its
// destructor, see Answer.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

namespace virtproxy {

class Mailbox {
 public:
  using Task = std::function<void()>;

  // Throws std::system_error when the process has no descriptor left.
  Mailbox();
  ~Mailbox();
  Mailbox(const Mailbox&) = delete;
  Mailbox& operator=(const Mailbox&) = delete;

  // From any thread; never waits for the owner. Tasks of one thread run in the order of its calls.
  void post(Task task);

  // A non-blocking eventfd, readable while tasks wait. The owner reads its count, 8 bytes, before
  // it calls run().
  int fd() const { return fd_; }
  // In the owner's thread. Runs what was posted until now; what a task posts here waits for the
  // next call.
  void run();
  // In the owner's thread, when it will not call run() again. Destroys what waits; what is posted
  // from now on is destroyed by post(), in the thread that posts.
  void close();

 private:
  enum class State { kOpen, kClosed };

  const int fd_;
  std::mutex mutex_;
  State state_ = State::kOpen;  // guarded by mutex_, as what follows
  std::vector<Task> tasks_;
};

// An answer that a task of one thread gives to another: `finish` runs once in the thread of
// `mailbox`, after the last owner of the answer has let it go, with what was given until then. It
// therefore also runs if the task is destroyed without having run; nothing was given then.
template <typename Part>
class Answer {
 public:
  using Finish = std::function<void(std::optional<Part>)>;

  Answer(std::shared_ptr<Mailbox> mailbox, Finish finish)
      : mailbox_(std::move(mailbox)), finish_(std::move(finish)) {}
  ~Answer() {
    mailbox_->post([finish = std::move(finish_), part = std::move(part_)]() mutable {
      finish(std::move(part));
    });
  }
  Answer(const Answer&) = delete;
  Answer& operator=(const Answer&) = delete;

  void give(Part part) { part_ = std::move(part); }

 private:
  const std::shared_ptr<Mailbox> mailbox_;
  Finish finish_;
  std::optional<Part> part_;
};

// Calls `ask` for each of `count` places with an answer to give, and `finish` in the thread of
// `mailbox` when all of them have been let go: with one part a place, default-constructed where
// nothing was given. With a `count` of 0 it calls `finish` before it returns.
template <typename Part>
void gather(const std::shared_ptr<Mailbox>& mailbox, size_t count,
            const std::function<void(size_t place, std::shared_ptr<Answer<Part>>)>& ask,
            std::function<void(std::vector<Part>)> finish) {
  if (count == 0) return finish({});
  struct Gathered {
    std::vector<Part> parts;
    size_t missing;
    std::function<void(std::vector<Part>)> finish;
  };
  const auto gathered =
      std::make_shared<Gathered>(Gathered{std::vector<Part>(count), count, std::move(finish)});
  for (size_t i = 0; i < count; ++i) {
    ask(i, std::make_shared<Answer<Part>>(mailbox, [gathered, i](std::optional<Part> part) {
          if (part) gathered->parts[i] = *std::move(part);
          if (--gathered->missing == 0) gathered->finish(std::move(gathered->parts));
        }));
  }
}

}  // namespace virtproxy
