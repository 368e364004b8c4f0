#include "tests/sim/log_writer.h"

#include <fmt/format.h>

#include <algorithm>

namespace virtproxy::sim {
namespace {

constexpr Duration kConnectRetry = milliseconds(20);

}  // namespace

LogWriter::LogWriter(Network& network, LogLedger& ledger, const Plan& plan)
    : network_(network), ledger_(ledger), plan_(plan), left_(plan.bytes) {
  act_later(World::current().now());
}

LogWriter::~LogWriter() {
  if (socket_) socket_->remove_waiter(this);
}

void LogWriter::file_changed() { act_later(World::current().now() + microseconds(5)); }

void LogWriter::act_later(Instant when) {
  if (scheduled_ && scheduled_for_ <= when) return;
  scheduled_ = true;
  scheduled_for_ = when;
  // Writers live as long as their world.
  World::current().at(when, [this, turn = ++schedule_] {
    if (turn != schedule_) return;
    scheduled_ = false;
    act();
  });
}

void LogWriter::hurry() {
  hurries_ = true;
  act_later(World::current().now());
}

void LogWriter::leave() {
  if (!socket_) return;
  socket_->remove_waiter(this);
  socket_.reset();
  closed_ = true;
  after_counted_ = false;
}

// What was cut off is not written again: a program that logs does not know what has arrived.
void LogWriter::drop_connection() {
  socket_->remove_waiter(this);
  socket_.reset();
  closed_ = after_counted_ = false;
  frame_.clear();
  written_ = 0;
}

void LogWriter::act() {
  World& world = World::current();
  if (socket_ && socket_->peer_gone()) drop_connection();
  if (over()) return;
  if (!hurries_ && world.now() < pauses_until_) return act_later(pauses_until_);
  if (!socket_ && !connect()) return act_later(world.now() + kConnectRetry);
  if (frame_.empty()) next_line();
  write();
}

bool LogWriter::connect() {
  // Else an earlier life may still be there, or the lines of the connection before.
  if (ledger_.lives() == 0) return false;
  if (closed_ && life_ == ledger_.lives() && !ledger_.has_numbered_all(life_, plan_.source)) {
    return false;
  }
  const auto listener = network_.find(plan_.address);
  if (!listener || !listener->listening() || listener->backlog_full()) return false;
  socket_ = std::make_shared<Socket>(Family::kUnix);
  socket_->connect_to(listener, network_.path(plan_.address));
  socket_->add_waiter(this);
  life_ = ledger_.lives();
  closed_ = false;
  return true;
}

void LogWriter::next_line() {
  Random& random = ledger_.random();
  text_ = fmt::format("<13>{}.{} ", plan_.source, lines_++);
  const bool counted = random.chance(0.3);
  // An LF behind a counted line is no line.
  const bool empty = !counted && !after_counted_ && random.chance(0.02);
  uint64_t size = random.magnitude(1, plan_.longest);
  if (random.chance(0.005)) size = random.magnitude(plan_.longest, 64 << 10);
  const uint64_t seed = random.next();
  for (uint64_t i = 0; i < size; ++i) {
    const auto byte = static_cast<char>(mix(seed ^ i / 8) >> (i % 8 * 8));
    // What is counted may hold any byte.
    text_ += counted || (byte != '\n' && byte != '\0') ? byte : ' ';
  }
  if (empty) text_.clear();
  closes_behind_ = random.chance(0.01);
  frame_ = counted ? fmt::format("{} {}", text_.size(), text_) : text_;
  needed_ = frame_.size();
  const bool ends = random.chance(counted ? 0.3 : closes_behind_ && !empty ? 0.5 : 1);
  if (ends) frame_ += '\n';
  after_counted_ = counted && !ends;
  if (empty) needed_ = frame_.size();
  left_ -= std::min<uint64_t>(left_, text_.size() + 16);
}

void LogWriter::write() {
  const int64_t result = socket_->write(std::as_bytes(std::span(frame_)).subspan(written_));
  World& world = World::current();
  if (result == -EAGAIN) return;
  if (result < 0) {
    drop_connection();
    return act_later(world.now() + kConnectRetry);
  }
  const size_t before = written_;
  written_ += static_cast<size_t>(result);
  if (before == 0) ledger_.begin_line(life_, plan_.source, text_);
  if (before < needed_ && written_ >= needed_) ledger_.complete_line(life_, plan_.source);
  if (written_ < frame_.size()) return act_later(world.now() + microseconds(1));
  frame_.clear();
  written_ = 0;
  if (closes_behind_) leave();
  Random& random = ledger_.random();
  if (!hurries_ && random.chance(0.02)) {
    pauses_until_ =
        std::min(plan_.until,
                 world.now() + Duration(static_cast<Duration::rep>(random.magnitude(
                                   10'000, static_cast<uint64_t>(plan_.longest_pause.count())))));
  }
  act_later(world.now() + microseconds(10));
}

}  // namespace virtproxy::sim
