// Messages that a sink has to see acknowledged, in order, and the parcels that they are from. A
// message is one record as text.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "core/assert.h"
#include "uring/service/logs/line_format.h"
#include "uring/service/logs/log_sink.h"

namespace virtproxy {

class SentParcels {
 public:
  // The records of a parcel that the sink wants, as `writer` has them.
  void add(const ParcelView& view, LineWriter& writer) {
    add(view, [&](std::string& out, const ParcelRecord& record) {
      writer.append(out, view.vm, view.parcel, record);
    });
  }
  // … as `append(std::string&, const ParcelRecord&)` has them.
  template <typename Append>
  void add(const ParcelView& view, const Append& append) {
    for (const ParcelRecord& record : view.parcel.records) {
      if (!view.wants(record)) continue;
      Message& message = messages_.emplace_back();
      message.vm = view.parcel.vm;
      append(message.text, record);
      bytes_ += message.text.size();
      if (record.kind != ParcelRecord::Kind::kLine) continue;
      message.line = RefusedLine{0, record.source, record.seq, record.bytes};
      message.is_line = true;
    }
    ends_.push_back(acknowledged_ + messages_.size());
    advance();
  }

  // Messages that are not acknowledged, from the oldest, and the VM of each.
  size_t count() const { return messages_.size(); }
  const std::string& text(size_t index) const { return messages_[index].text; }
  size_t vm(size_t index) const { return messages_[index].vm; }
  // Bytes of the messages that are not acknowledged.
  size_t bytes() const { return bytes_; }
  // The first message that was not sent on this connection.
  bool has_unsent() const { return sent_ < messages_.size(); }
  const std::string& unsent() const { return messages_[sent_].text; }
  void mark_sent() { ++sent_; }
  // Messages that were sent and not acknowledged.
  size_t sent() const { return sent_; }
  // The connection is lost: all that is not acknowledged is to be sent again.
  void rewind() { sent_ = 0; }

  // The oldest `count` messages, which were sent, are safe.
  void acknowledge(size_t count = 1) {
    VP_ASSERT(count <= sent_);
    for (; count > 0; --count) {
      bytes_ -= messages_.front().text.size();
      messages_.pop_front();
      --sent_;
      ++acknowledged_;
    }
    advance();
  }
  // A message is refused for good. It remains to be acknowledged. False if it was refused before,
  // on a connection that was lost.
  bool refuse(size_t index) {
    if (std::exchange(messages_[index].refused, true)) return false;
    if (!messages_[index].is_line) return true;
    RefusedLine line = messages_[index].line;
    const auto parcel = std::upper_bound(ends_.begin(), ends_.end(), acknowledged_ + index);
    line.parcel = safe_ + static_cast<uint64_t>(parcel - ends_.begin());
    refused_.push_back(line);
    return true;
  }
  std::vector<RefusedLine> take_refused() { return std::exchange(refused_, {}); }
  // Parcels whose messages are all acknowledged.
  uint64_t safe() const { return safe_; }

 private:
  struct Message {
    std::string text;
    size_t vm = 0;
    RefusedLine line;
    bool is_line = false;
    bool refused = false;
  };
  void advance() {
    while (!ends_.empty() && ends_.front() <= acknowledged_) {
      ends_.pop_front();
      ++safe_;
    }
  }

  std::deque<Message> messages_;
  std::deque<uint64_t> ends_;  // of parcels: messages up to there, counted from the start
  size_t bytes_ = 0;
  size_t sent_ = 0;
  uint64_t acknowledged_ = 0;
  uint64_t safe_ = 0;
  std::vector<RefusedLine> refused_;
};

}  // namespace virtproxy
