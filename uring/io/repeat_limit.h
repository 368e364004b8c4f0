// Holds back reports that are the same again and again, each subject for itself: a client that is
// refused a thousand times a second does not hide another one that is refused once.
//
//   report("uid 5") ──▶ said, said, held, counted, … ──▶ at the end of the window: the one held,
//   with report("uid 6") ──▶ said                             the number of those that were counted
//
// The first `first` reports of a subject in a window are said. The next one is held and said when
// the window ends, whether others come or not. From then on there is one a window, until a window
// has passed without any: the subject is forgotten.
//
// Bounded: kMostSubjects are known at a time. Those beyond them are one subject, the rest.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "uring/base/log.h"
#include "uring/io/loop.h"

namespace virtproxy {

struct RepeatRule {
  unsigned first = 1;
  Duration window{};
  RateLimit::Of of = RateLimit::Of::kLines;
};

// What the reports that were counted are like: the one that is said, or of any subject.
enum class Counted : uint8_t { kAlike, kOthers };

// " (and 7 alike)" or " (and 7 others)"; nothing for none.
inline std::string and_counted(uint64_t count, Counted counted) {
  if (count == 0 || counted == Counted::kOthers) return and_others(count);
  return " (and " + std::to_string(count) + " alike)";
}

template <typename Report>
class RepeatLimit final : private Timer::Owner {
 public:
  static constexpr size_t kMostSubjects = 32;

  using Say = std::function<void(const Report&, uint64_t count, Counted counted)>;

  RepeatLimit(Loop& loop, const RepeatRule& rule, Say say)
      : loop_(loop), rule_(rule), say_(std::move(say)), window_ends_(loop.timers(), this) {}
  // Passes the held reports to `say`.
  ~RepeatLimit() { flush(); }

  // `make` returns the Report. It is called only for one that is said or held, so that a flood
  // costs no text. An empty subject is the rest.
  template <typename Make>
  void report(std::string_view subject, Make&& make) {
    Record& record = record_of(subject);
    if (record.said < rule_.first) {
      if (record.said++ == 0) record.since = loop_.now();
      say_(make(), 0, counted_by(record));
    } else if (!record.held) {
      record.held = make();
      set_timer();
    } else {
      ++record.counted;
      if (rule_.of == RateLimit::Of::kLines) count_suppressed_line();
    }
  }

  // Passes the held reports to `say` without waiting for the end of their windows.
  void flush() {
    window_ends_.clear();
    for (Record& record : records_) say_held(record);
    say_held(rest_);
  }

 private:
  struct Record {
    std::string subject{};
    unsigned said = 0;
    Instant since{};  // the window
    std::optional<Report> held{};
    uint64_t counted = 0;  // since that one
  };

  Record& record_of(std::string_view subject) {
    const auto forgotten = [this](const Record& record) { return !record.held && is_over(record); };
    std::erase_if(records_, forgotten);
    if (forgotten(rest_)) rest_ = {};
    if (subject.empty()) return rest_;
    const auto found = std::find_if(records_.begin(), records_.end(), [&](const Record& record) {
      return record.subject == subject;
    });
    if (found != records_.end()) return *found;
    if (records_.size() == kMostSubjects) return rest_;
    return records_.emplace_back(Record{.subject = std::string(subject)});
  }

  Counted counted_by(const Record& record) const {
    return &record == &rest_ ? Counted::kOthers : Counted::kAlike;
  }
  bool is_over(const Record& record) const { return record.since + rule_.window <= loop_.now(); }

  void say_held(Record& record) {
    if (!record.held) return;
    const Report report = *std::exchange(record.held, std::nullopt);
    record.since = loop_.now();
    say_(report, std::exchange(record.counted, 0), counted_by(record));
  }

  // For the window that ends first.
  void set_timer() {
    std::optional<Instant> first;
    const auto look_at = [&](const Record& record) {
      if (record.held && (!first || record.since < *first)) first = record.since;
    };
    std::for_each(records_.begin(), records_.end(), look_at);
    look_at(rest_);
    if (first) window_ends_.set(*first + rule_.window);
  }

  void expired(Timer&) override {
    const auto end = [this](Record& record) {
      if (is_over(record)) say_held(record);
    };
    std::for_each(records_.begin(), records_.end(), end);
    end(rest_);
    set_timer();
  }

  Loop& loop_;
  const RepeatRule rule_;
  const Say say_;
  Timer window_ends_;
  std::vector<Record> records_;
  Record rest_;
};

}  // namespace virtproxy
