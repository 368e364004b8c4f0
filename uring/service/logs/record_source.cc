#include "uring/service/logs/record_source.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "uring/base/log.h"
#include "uring/base/text.h"
#include "uring/base/units.h"
#include "uring/service/logs/journal_export.h"
#include "uring/service/logs/journalctl.h"

namespace virtproxy::logs {
namespace {

// Which record each number was, until it is safe, and the file that tells the last safe one.
class Cursor {
 public:
  explicit Cursor(UniqueFd file) : file_(std::move(file)) {}

  // The record of the number that was given last, `numbered` in all.
  void given(uint64_t numbered, std::string position) {
    if (!file_) return;
    // Every so many records are enough, and bound what is kept.
    if (places_.size() >= kMostPlaces) {
      places_.back() = {numbered, std::move(position)};
    } else {
      places_.push_back({numbered, std::move(position)});
    }
  }
  void safe(uint64_t numbered) {
    std::string position;
    while (!places_.empty() && places_.front().first <= numbered) {
      position = std::move(places_.front().second);
      places_.pop_front();
    }
    if (!position.empty()) write(position);
  }

 private:
  static constexpr size_t kMostPlaces = 4096;

  // Padded, so that what was there before is overwritten.
  void write(const std::string& position) {
    std::string text = position + "\n";
    const size_t size = text.size();
    text.resize(std::max(size_, size), '\n');
    size_ = size;
    if (pwrite(file_.get(), text.data(), text.size(), 0) == static_cast<ssize_t>(text.size())) {
      return;
    }
    if (!std::exchange(failed_, true)) log_error("cannot write a cursor: {}", std::strerror(errno));
  }

  UniqueFd file_;
  std::deque<std::pair<uint64_t, std::string>> places_;
  size_t size_ = 512;  // of the text that may be there
  bool failed_ = false;
};

// What both have in common.
class RecordSource : public LogSource, protected Input {
 public:
  RecordSource(Loop& loop, LineTarget& target, uint16_t index, OpenedSource& opened)
      : Input(loop, opened.fd.get()),
        target_(target),
        index_(index),
        fd_(std::move(opened.fd)),
        cursor_(std::move(opened.cursor)) {}

  void start() override { Input::start(); }
  void resume() override { Input::resume(); }
  void drain() override { Input::drain(); }
  void stop() override { Input::stop(); }
  bool is_over() const override { return Input::is_over(); }
  bool idle() const override { return Input::idle(); }
  void safe(uint64_t numbered) override { cursor_.safe(numbered); }

 protected:
  // False where the source is blocked.
  bool offer(const Line& line, std::string position) {
    if (!target_.offer(index_, line, line.bytes.size())) return false;
    cursor_.given(++numbered_, std::move(position));
    return true;
  }
  void lost(uint64_t lines) {
    target_.lost_by_kernel(index_, lines);
    numbered_ += lines;
  }
  void on_over() override { fd_.reset(); }

  LineTarget& target_;
  const uint16_t index_;
  UniqueFd fd_;

 private:
  Cursor cursor_;
  uint64_t numbered_ = 0;
};

// --- the kernel's log ---------------------------------------------------------------------------

// "priority,number,microseconds,flags;text", Documentation/ABI/testing/dev-kmsg.
class KmsgSource final : public RecordSource {
 public:
  KmsgSource(Loop& loop, LineTarget& target, uint16_t index, OpenedSource& opened, std::string boot)
      : RecordSource(loop, target, index, opened), boot_(std::move(boot)) {
    const std::string_view position = opened.position;
    const size_t space = position.find(' ');
    const bool same_boot =
        !boot_.empty() && space != std::string_view::npos && position.substr(0, space) == boot_;
    if (same_boot) next_ = parse_number<uint64_t>(position.substr(space + 1)).value_or(0);
  }

 private:
  Progress read_some() override {
    if (!text_.empty() && !offer_text()) return Progress::kBlocked;
    const auto scratch = target_.scratch();
    const ssize_t got = ::read(fd_.get(), scratch.data(), scratch.size());
    if (got < 0) {
      // EPIPE: what was to be read was overwritten; the next read gives what is there.
      if (errno == EPIPE || errno == EINTR) return Progress::kMore;
      if (errno == EAGAIN) return Progress::kEmpty;
      log_error("/dev/kmsg: {}: the kernel's log is not shipped until this daemon is started anew",
                std::strerror(errno));
      return Progress::kOver;
    }
    if (got == 0) return Progress::kOver;
    take({reinterpret_cast<const char*>(scratch.data()), static_cast<size_t>(got)});
    return text_.empty() || offer_text() ? Progress::kMore : Progress::kBlocked;
  }

  void take(std::string_view record) {
    const size_t semicolon = record.find(';');
    if (semicolon == std::string_view::npos) return;
    const std::string_view head = record.substr(0, semicolon);
    const size_t comma = head.find(',');
    if (comma == std::string_view::npos) return;
    const std::string_view rest = head.substr(comma + 1);
    const auto number = parse_number<uint64_t>(rest.substr(0, rest.find(',')));
    if (!number || *number < next_.value_or(0)) return;
    // Without a cursor the log begins at the first record that is there.
    if (next_ && *number > *next_) lost(*number - *next_);
    next_ = *number + 1;
    std::string_view text = record.substr(semicolon + 1);
    text = text.substr(0, text.find('\n'));  // what follows names the device
    text_ = "<" + std::string(head.substr(0, comma)) + ">" + std::string(text);
  }

  bool offer_text() {
    Line line;
    line.time = target_.wall();
    line.bytes = std::as_bytes(std::span(text_));
    if (!offer(line, boot_ + " " + std::to_string(*next_))) return false;
    text_.clear();
    return true;
  }

  const std::string boot_;
  std::optional<uint64_t> next_;
  std::string text_;  // that was not taken yet
};

// --- the journal --------------------------------------------------------------------------------

class JournalSource final : public RecordSource, private Journalctl::Client, private Timer::Owner {
 public:
  JournalSource(Loop& loop, LineTarget& target, uint16_t index, OpenedSource& opened)
      : RecordSource(loop, target, index, opened),
        journal_(std::move(opened.journal)),
        journalctl_(loop, *std::move(opened.journalctl), printable(opened.spec.config.name), this),
        cursor_of_last_(std::move(opened.position)),
        silence_(loop.timers(), this) {
    parser_.emplace(target.max_line());
  }

  void start() override {
    journalctl_.start();
    RecordSource::start();
  }
  bool idle() const override { return RecordSource::idle() && journalctl_.idle(); }
  bool up() const override { return journalctl_.up() && !is_over(); }

 private:
  void journalctl_runs(UniqueFd output) override {
    // What was read of an entry that was not complete comes again.
    parser_.emplace(target_.max_line());
    fd_ = std::move(output);
    renew(fd_.get());
  }
  Progress on_end() {
    if (draining()) return Progress::kOver;
    fd_.reset();
    journalctl_.output_ended(cursor_of_last_);
    return Progress::kSuspended;
  }

  // What the journal had before this moment may not have come through the child yet. A line that is
  // written to it now comes behind all of that, and is the last one.
  void on_drain() override {
    if (!journal_ || !journalctl_.up()) return;
    last_ = "log shipping: the last line of this run, " + std::to_string(target_.wall());
    const std::string entry =
        "PRIORITY=6\nSYSLOG_FACILITY=3\nSYSLOG_IDENTIFIER=virtproxy\nMESSAGE=" + last_ + "\n";
    const ssize_t written = ::write(journal_.get(), entry.data(), entry.size());
    if (written != static_cast<ssize_t>(entry.size())) return last_.clear();
    silence_.set(Input::loop().now() + kSilence);
  }
  bool awaits_more() const override { return !last_.empty(); }

  Progress read_some() override {
    for (;;) {
      if (entry_) {
        Line line;
        line.time = entry_->time != 0 ? entry_->time : target_.wall();
        line.credentials = entry_->credentials;
        line.bytes = std::as_bytes(std::span(entry_->line));
        if (!offer(line, entry_->cursor)) return Progress::kBlocked;
        cursor_of_last_ = std::move(entry_->cursor);
        if (!last_.empty()) {
          if (entry_->line.ends_with(last_)) return Progress::kOver;
          silence_.set(Input::loop().now() + kSilence);
        }
        entry_.reset();
      }
      entry_ = parser_->next();
      if (!entry_) break;
    }
    const auto scratch = target_.scratch();
    const ssize_t got = ::read(fd_.get(), scratch.data(), scratch.size());
    if (got < 0) {
      if (errno == EINTR) return Progress::kMore;
      return errno == EAGAIN ? Progress::kEmpty : on_end();
    }
    if (got == 0) return on_end();
    parser_->feed({reinterpret_cast<const char*>(scratch.data()), static_cast<size_t>(got)});
    return Progress::kMore;
  }

  // The journal may not store the line: its level or its rate is limited.
  void expired(Timer&) override {
    last_.clear();
    await_no_more();
  }
  void on_over() override {
    silence_.clear();
    journalctl_.stop();
    RecordSource::on_over();
  }

  // An entry is there as soon as journald has it.
  static constexpr Duration kSilence = std::chrono::seconds(1);

  UniqueFd journal_;
  Journalctl journalctl_;
  std::string cursor_of_last_;  // entry that was taken, or where the first run began
  std::optional<JournalExport> parser_;
  Timer silence_;  // while last_ is awaited, since the last entry
  std::optional<JournalEntry> entry_;
  std::string last_;  // what the line says that draining waits for
};

}  // namespace

std::unique_ptr<LogSource> make_record_source(Loop& loop, LineTarget& target, uint16_t index,
                                              OpenedSource opened) {
  if (opened.spec.kind == SourceKind::kJournal) {
    return std::make_unique<JournalSource>(loop, target, index, opened);
  }
  return std::make_unique<KmsgSource>(loop, target, index, opened, opened.boot);
}

}  // namespace virtproxy::logs
