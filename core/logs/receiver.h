// The receiving end of a log stream, and the account of its logs.
//
// The receiver passes on lines and drop records in order and each once, and checks that every
// number of a source is covered. What is neither delivered nor explained is reported as
// unaccounted, with its exact count. It acknowledges what its caller tells it is safe, and not
// before.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/logs/account.h"
#include "core/logs/batch.h"
#include "core/logs/message.h"
#include "core/logs/stream_fault.h"

namespace virtproxy::logs {

struct SourceAccount {
  std::string name;  // as the sender claims
  Mark base;         // what comes before is of no concern to this account
  Mark next;         // everything up to here is delivered, dropped or unaccounted
  Mark known;        // the highest mark that the sender has told of
  Tally delivered;
  std::array<Tally, kDropReasons> dropped{};
  Tally unaccounted;
  uint64_t duplicates = 0;  // numbers that came again and were left out

  // next − base = delivered + dropped + unaccounted, in lines and in bytes.
  bool balanced() const;
  // Lines that were delivered are refused for good: they count as dropped. Returns false and
  // changes nothing if fewer lines or bytes were delivered.
  bool reject(const Tally& lines);
  const Tally& rejected() const { return dropped[static_cast<size_t>(DropReason::kRejected)]; }
  bool operator==(const SourceAccount&) const = default;
};

// What is kept of a log: the caller makes it durable together with the sink's data and gives it
// back after a restart.
struct LogAccount {
  LogId id;
  LogId boot;
  uint64_t position = 0;  // what the receiver needs next
  bool finished = false;
  std::vector<SourceAccount> sources;
  uint64_t skipped = 0;  // records of kinds that this version does not know

  bool operator==(const LogAccount&) const = default;
};

// The place in `logs`, whose elements have an `id`, of the log with that one; else their end.
template <typename Logs>
auto find_log(Logs& logs, const LogId& id) {
  return std::find_if(logs.begin(), logs.end(), [&](const auto& log) { return log.id == id; });
}

// What feed() found, in order.
struct Received {
  enum class Kind : uint8_t {
    kLine,         // record.line
    kHead,         // record.line, the head of a line of record.full_length bytes
    kDrop,         // record.drop
    kUnaccounted,  // record.drop without a reason: numbers that nothing explains
    kForgotten,  // the account used least recently made room: numbers its sender told of and never
                 // sent
    kBegun,      // a log began, or goes on
    kFinal       // the log is complete; acknowledge it as final when all before is safe
  };
  Kind kind = Kind::kLine;
  uint16_t source = 0;
  Record record;  // bytes are valid until the next call of feed()
};

class Receiver {
 public:
  // Accounts of at most `max_logs` logs are kept, the ones used last.
  explicit Receiver(size_t max_logs) : max_logs_(max_logs) {}

  // Accounts as they were saved, the oldest first.
  void restore(std::vector<LogAccount> accounts) { accounts_ = std::move(accounts); }
  const std::vector<LogAccount>& accounts() const { return accounts_; }
  // The log that the stream is in; nullptr before the first HELLO.
  const LogAccount* log() const { return begun_ ? &accounts_.back() : nullptr; }

  // The stream is gone, and another one may begin.
  void lost();

  // Bytes of the sender; appends to `found`. After a fault the stream is to be reset; what was
  // found before the fault counts.
  StreamFault feed(std::span<const std::byte> bytes, std::vector<Received>& found);

  // Everything before `position` of the current log is safe.
  void acknowledge(uint64_t position, AckLevel level);
  // The log whose kFinal was found is safe as a whole.
  void acknowledge_final(AckLevel level);
  // The sink refuses a line that was found as kLine in that log. The sender is told while it is in
  // that log. Returns false where no account has the line as delivered.
  bool reject(const LogId& log, uint16_t source, uint64_t seq, uint64_t bytes);

  // Bytes for the sender; the caller takes them away.
  std::vector<std::byte>& out() { return out_; }

 private:
  StreamFault take_batch(std::span<const std::byte> bytes, const BatchHeader& header,
                         std::vector<Received>& found);
  StreamFault take_message(std::span<const std::byte> bytes, const MessageHeader& header,
                           std::vector<Received>& found);
  StreamFault on_hello(const Hello& hello, std::vector<Received>& found);
  StreamFault on_state(const State& state, std::vector<Received>& found);
  StreamFault on_record(SourceAccount& source, uint16_t index, const Mark& before,
                        const Mark& after, Record& record, std::vector<Received>& found);
  void forget_oldest(std::vector<Received>& found);
  void leave_out(SourceAccount& source, uint16_t index, const Mark& until,
                 std::vector<Received>& found);
  // Takes the whole item at the front of `rest`.
  StreamFault take(std::span<const std::byte>& rest, std::vector<Received>& found);

  size_t max_logs_;
  std::vector<LogAccount> accounts_;  // the current one is the last
  bool begun_ = false;
  bool final_ = false;
  uint64_t key_ = 0;
  std::vector<std::byte> in_;     // the beginning of a batch or message
  std::vector<std::byte> whole_;  // the one completed last
  std::vector<std::byte> out_;
};

}  // namespace virtproxy::logs
