#include "uring/agent/client.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "uring/agent/agent.h"
#include "uring/agent/transfer_file.h"
#include "uring/base/read_append.h"
#include "uring/base/text.h"

namespace virtproxy::agent {
namespace {

// Of a call that something else limits.
constexpr Duration kNoLimit = std::chrono::hours(24);

class Client {
 public:
  explicit Client(const ClientOptions& options)
      : options_(options),
        conversation_(config(options), [](std::string_view) { return Pace::kQueued; }) {}

  int run() {
    // Standard input may take long to end, and the connection would stand idle meanwhile.
    if (options_.action == ClientOptions::Action::kPut) {
      auto source = SourceFile::open(options_.file);
      if (!source) return fail(source.error());
      source_ = std::move(*source);
    }
    auto fd = open_port(options_.target);
    if (!fd) return fail(fd.error());
    fd_ = std::move(*fd);
    switch (options_.action) {
      case ClientOptions::Action::kCall:
        return call();
      case ClientOptions::Action::kGet:
        return get();
      case ClientOptions::Action::kPut:
        return put();
      case ClientOptions::Action::kEvents:
        return events();
    }
    return 1;
  }

 private:
  static ConversationConfig config(const ClientOptions& options) {
    ConversationConfig config;
    const bool stream = options.target.method == PortSpec::Method::kStream;
    config.sync_first = !stream;
    config.max_incoming = stream ? kMaxStreamAnswer : kMaxMessage;
    config.first_id = random_first_id();
    return config;
  }

  static int fail(const std::string& text) {
    std::fprintf(stderr, "virtagent: %s\n", text.c_str());
    return 1;
  }
  // What the other end has answered to the call: nothing of it may reach the terminal as it is.
  int refused(const Error& error) const {
    return fail(fmt::format("{}: {}: {} ({})", options_.target.to_string(), asked_,
                            printable(error.text), printable(error_code_text(error))));
  }
  int broken(std::string_view what) const {
    return fail(fmt::format("{}: {}: {}", options_.target.to_string(), asked_, what));
  }

  // For poll(2). Rounded up, so that it does not return just before the time.
  static int milliseconds_of(Duration left) {
    return static_cast<int>(std::max(Duration(0), left).count() / 1000000) + 1;
  }

  std::string stalled(const char* what) const {
    return fmt::format("{} for {:g} s (--stall-timeout)", what, options_.stall_timeout);
  }

  // Bytes that came and are no message of ours yet.
  bool read_some() {
    const ssize_t size = read_append(fd_.get(), unread_);
    return size > 0 || (size < 0 && (errno == EAGAIN || errno == EINTR));
  }

  bool write_some(Instant now) {
    while (!conversation_.pending().empty()) {
      const std::string_view bytes = conversation_.pending();
      const ssize_t size = options_.target.is_device()
                               ? write(fd_.get(), bytes.data(), bytes.size())
                               : send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (size < 0) return errno == EAGAIN || errno == EINTR;
      if (size == 0) return true;
      conversation_.sent(static_cast<size_t>(size), now);
    }
    return true;
  }

  // Takes lines until the answer of `call` or, with `events`, any event is there.
  std::optional<Notice> take(uint64_t call, Instant now) {
    for (;;) {
      for (Notice& notice : conversation_.take_notices()) {
        if ((notice.kind == Notice::Kind::kAnswered || notice.kind == Notice::Kind::kFailed) &&
            notice.token == call) {
          return std::move(notice);
        }
        if (notice.kind == Notice::Kind::kEvent) {
          if (options_.action == ClientOptions::Action::kEvents) print_event(notice);
          if (notice.name == "va-continue") may_feed_ = true;
        }
        if (notice.kind == Notice::Kind::kRequest) {
          Error none = error_of(ErrorCode::kUnsupported, "this end only calls");
          none.command_not_found = true;
          conversation_.answer(notice.token, tl::unexpected(none), now);
        }
      }
      const size_t taken =
          conversation_.receive(std::as_bytes(std::span(unread_.data(), unread_.size())), now);
      unread_.erase(0, taken);
      if (taken == 0) return std::nullopt;
    }
  }

  enum class Feeding {
    kNothing,  // left to send
    kMoved,
    kBlocked,  // the socket takes nothing
  };

  // The error was told, and is empty.
  tl::expected<Json, std::string> outcome_of(Notice done) const {
    if (done.kind == Notice::Kind::kAnswered) return std::move(done.body);
    refused(done.error);
    return tl::unexpected(std::string());
  }

  // Waits for the answer, and calls `feed` meanwhile while the socket takes bytes. Fails once
  // nothing was fed and no answer came for `patience`.
  template <typename Feed>
  tl::expected<Json, std::string> answer_of(uint64_t call, Feed feed, Duration patience) {
    Instant stalls_at = monotonic_now() + patience;
    for (;;) {
      Instant now = monotonic_now();
      // What has come counts before the time that has passed: this process may have been stopped.
      auto done = take(call, now);
      if (!done) {
        conversation_.tick(now);
        done = take(call, now);
      }
      if (done) return outcome_of(*std::move(done));
      if (!write_some(now)) return tl::unexpected(std::string("the other end is gone"));
      const Feeding fed = conversation_.pending().empty() ? feed() : Feeding::kNothing;
      if (fed == Feeding::kMoved) stalls_at = now + patience;
      if (now >= stalls_at) return tl::unexpected(stalled("nothing was taken and no answer came"));
      pollfd wait{fd_.get(), static_cast<short>(POLLIN), 0};
      if (fed != Feeding::kNothing || !conversation_.pending().empty()) wait.events |= POLLOUT;
      const Instant next = conversation_.next_deadline().value_or(now + std::chrono::seconds(1));
      poll(&wait, 1, milliseconds_of(std::min(next, stalls_at) - now));
      if (wait.revents != 0 && (wait.revents & (POLLIN | POLLHUP | POLLERR)) != 0 && !read_some()) {
        done = take(call, monotonic_now());
        if (done) return outcome_of(*std::move(done));
        return tl::unexpected(std::string("the connection ended before the answer came"));
      }
    }
  }

  tl::expected<Json, std::string> ask(const std::string& method, const Json& arguments) {
    asked_ = method;
    const auto call =
        conversation_.call(method, arguments, to_duration(options_.timeout), monotonic_now());
    if (!call) return tl::unexpected(call.error().text);
    return answer_of(
        *call, [] { return Feeding::kNothing; }, kNoLimit);
  }

  int failed(const std::string& text) const { return text.empty() ? 1 : broken(text); }

  int call() {
    const auto answer = ask(options_.method, options_.arguments);
    if (!answer) return failed(answer.error());
    std::printf("%s\n", answer->dump(-1, ' ', true, Json::error_handler_t::replace).c_str());
    return std::fflush(stdout) == 0 ? 0 : 1;
  }

  int get() {
    Json arguments = {{"path", options_.remote}};
    if (options_.offset) arguments["offset"] = *options_.offset;
    if (options_.length) arguments["length"] = *options_.length;
    const auto answer = ask("va-get", arguments);
    if (!answer) return failed(answer.error());
    const auto size = answer->find("size");
    if (size == answer->end() || !size->is_number_unsigned())
      return broken("the answer has no size");
    uint64_t left = *size;
    auto file = TargetFile::open(options_.file);
    if (!file) return fail(file.error());
    while (left > 0) {
      if (unread_.empty()) {
        pollfd wait{fd_.get(), POLLIN, 0};
        if (poll(&wait, 1, milliseconds_of(to_duration(options_.stall_timeout))) == 0) {
          return broken(fmt::format("{}; {} bytes are missing", stalled("nothing came"), left));
        }
        if (!read_some()) break;
        continue;
      }
      const size_t piece = std::min<uint64_t>(left, unread_.size());
      const std::string error = file->write(std::string_view(unread_).substr(0, piece));
      if (!error.empty()) return fail(error);
      unread_.erase(0, piece);
      left -= piece;
    }
    if (left > 0) return broken(fmt::format("the file ended {} bytes early", left));
    const std::string error = file->finish();
    return error.empty() ? 0 : fail(error);
  }

  int put() {
    uint64_t left = source_.size;
    Json arguments = {{"path", options_.remote}, {"size", left}};
    if (options_.mode) arguments["mode"] = *options_.mode;
    // The whole transfer may take long, as long as it goes on.
    asked_ = "va-put";
    const auto call = conversation_.call(asked_, arguments, kNoLimit, monotonic_now());
    if (!call) return broken(call.error().text);
    // Where the call is refused, no byte of the file may come to who would take it for requests.
    const auto feed = [&] {
      if (left == 0 || !may_feed_) return Feeding::kNothing;
      const ssize_t size =
          sendfile(fd_.get(), source_.fd.get(), nullptr, std::min<uint64_t>(left, 1 << 20));
      if (size > 0) left -= static_cast<uint64_t>(size);
      // A file that has become shorter, or cannot be read, is not sent as it was announced.
      if (size == 0 || (size < 0 && errno != EAGAIN && errno != EINTR)) {
        shutdown(fd_.get(), SHUT_WR);
        left = 0;
      }
      return size > 0 ? Feeding::kMoved : Feeding::kBlocked;
    };
    const auto answer = answer_of(*call, feed, to_duration(options_.stall_timeout));
    return answer ? 0 : failed(answer.error());
  }

  void print_event(const Notice& notice) {
    Json line = {{"event", notice.name}, {"data", notice.body}};
    if (!notice.timestamp.is_null()) line["timestamp"] = notice.timestamp;
    std::printf("%s\n", line.dump(-1, ' ', true, Json::error_handler_t::replace).c_str());
    std::fflush(stdout);
    ++printed_;
  }

  int events() {
    const auto answer = ask("va-events", Json::object());
    if (!answer) return failed(answer.error());
    // The first ones may have come with the answer.
    take(0, monotonic_now());
    while (options_.count == 0 || printed_ < options_.count) {
      pollfd wait{fd_.get(), POLLIN, 0};
      poll(&wait, 1, -1);
      const bool open = read_some();
      take(0, monotonic_now());
      if (!open) return broken("the other end is gone");
    }
    return 0;
  }

  const ClientOptions& options_;
  Conversation conversation_;
  std::string asked_;  // the method that was called last
  UniqueFd fd_;
  SourceFile source_;  // of kPut
  std::string unread_;
  uint64_t printed_ = 0;
  bool may_feed_ = false;  // the other end takes the file that is put
};

}  // namespace

int run_client(const ClientOptions& options) { return Client(options).run(); }

}  // namespace virtproxy::agent
