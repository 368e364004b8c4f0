// A sender and a receiver of logs, each given anything: right batches and messages with drawn
// fields, spoilt ones, and raw bytes. Cut anywhere they mean the same; an account is balanced after
// every call; neither keeps more than one item.

#include <algorithm>

#include "core/assert.h"
#include "core/logs/receiver.h"
#include "core/logs/sender.h"
#include "tests/fuzz/input.h"

using namespace virtproxy;
using namespace virtproxy::fuzz;
using namespace virtproxy::logs;

namespace {

using Bytes = std::vector<std::byte>;

constexpr LogId kLogs[2] = {{1, 2}, {3, 4}};

Mark mark_of(Input& in) {
  const uint64_t form = in.number(1);
  if (form % 8 == 0) return {in.number(8), in.number(8)};
  return {form / 8, in.number(1)};
}

std::vector<Mark> marks_of(Input& in, uint64_t count) {
  std::vector<Mark> marks(count % 70);
  for (Mark& mark : marks) mark = mark_of(in);
  return marks;
}

Bytes batch_of(Input& in, Mark* marks) {
  const uint64_t form = in.number(1);
  const auto source = static_cast<uint16_t>(form % 2);
  const LogId& log = kLogs[(form >> 1) % 2];
  // Mostly where the source is.
  const Mark first = (form & 0x0c) == 0 ? mark_of(in) : marks[source];
  BatchBuilder builder(source, first);
  UnixTime time = in.number(2);
  for (uint64_t n = 1 + in.number(1) % 4; n > 0; --n) {
    const uint64_t kind = in.number(1);
    time += in.number(1) - 100;
    Line line{time, {}, in.bytes(in.number(1) % 64)};
    if (kind & 0x80) line.credentials = {static_cast<uint32_t>(in.number(4)), 0, 7};
    if (kind % 4 == 0) {
      builder.add_drop({static_cast<DropReason>(in.number(1) % 9), 0, in.number(1), in.number(2),
                        time, time + in.number(1)});
    } else if (kind % 4 == 1) {
      builder.add_head(line, line.bytes.size() + in.number(1));
    } else {
      builder.add_line(line);
    }
  }
  if ((form & 0x0c) != 0) marks[source] = builder.mark();
  Bytes batch = builder.finish(static_cast<uint16_t>((form >> 4) % 3));
  seal_batch(batch, log, check_key(log), in.number(2));
  return batch;
}

Bytes message_of(Input& in) {
  Bytes bytes;
  const uint64_t form = in.number(1);
  const LogId& log = kLogs[(form >> 3) % 2];
  const bool flag = (form & 0x10) != 0;
  const uint64_t count = (form & 0x60) != 0 ? 2 : in.number(1);
  switch (form % 8) {
    case 0:
    case 5: {
      Hello hello{static_cast<uint16_t>(flag ? in.number(2) : 1), log, {}, in.number(2), {}};
      for (uint64_t i = 0; i < count % 70; ++i) {
        const Mark acked = mark_of(in);
        hello.sources.push_back({"source", acked, {acked.seq + in.number(1), acked.bytes}});
      }
      encode(hello, bytes);
      break;
    }
    case 1:
      encode(State{log.low, flag, marks_of(in, count)}, bytes);
      break;
    case 2:
      encode(Want{log.low, flag, (form & 0x80) != 0, in.number(2), marks_of(in, count)}, bytes);
      break;
    case 3:
      encode(Ack{log.low, in.number(2), static_cast<AckLevel>(in.number(1) % 5), flag}, bytes);
      break;
    default:
      encode(Reject{log.low, static_cast<uint16_t>(in.number(1)), in.number(2), in.number(2),
                    in.number(2)},
             bytes);
  }
  return bytes;
}

Bytes compose(Input in) {
  Bytes all;
  Mark marks[2];
  encode(Hello{kVersion, kLogs[0], {}, 0, {{"a", {}, {}}, {"b", {}, {}}}}, all);
  while (!in.empty() && all.size() < 1u << 16) {
    const uint64_t what = in.number(1);
    Bytes piece = what % 4 == 0 ? message_of(in) : batch_of(in, marks);
    if (what % 64 == 63) {
      const auto raw = in.bytes(what);
      piece.assign(raw.begin(), raw.end());
    } else if (what % 64 == 62) {
      piece[in.number(2) % piece.size()] ^= static_cast<std::byte>(1 + what / 64);
    }
    all.insert(all.end(), piece.begin(), piece.end());
  }
  return all;
}

struct Seen {
  uint64_t lines = 0, bytes = 0, dropped = 0, unaccounted = 0;
  bool operator==(const Seen&) const = default;
};

class Reader {
 public:
  // False once the stream is over.
  bool give(std::span<const std::byte> bytes) {
    found_.clear();
    fault = receiver.feed(bytes, found_);
    for (const Received& one : found_) {
      if (one.kind == Received::Kind::kLine) {
        ++seen.lines;
        for (const std::byte b : one.record.line.bytes) seen.bytes += static_cast<uint8_t>(b);
      } else if (one.kind == Received::Kind::kUnaccounted) {
        seen.unaccounted += one.record.drop.count;
      } else if (one.kind == Received::Kind::kFinal) {
        receiver.acknowledge_final(AckLevel::kSink);
      } else {
        seen.dropped += one.record.drop.count;
      }
    }
    VP_ASSERT(receiver.accounts().size() <= 2);
    for (const LogAccount& log : receiver.accounts()) {
      for (const SourceAccount& source : log.sources) {
        VP_ASSERT(source.balanced());
        VP_ASSERT(source.next.seq < kMaxNumber && source.next.bytes < kMaxNumber);
      }
    }
    return fault == StreamFault::kNone;
  }

  Receiver receiver{2};
  StreamFault fault = StreamFault::kNone;
  Seen seen;

 private:
  std::vector<Received> found_;
};

void to_receiver(std::span<const std::byte> bytes, size_t stride) {
  // A final STATE is acknowledged at the end of a call, so what is behind it depends on the cut;
  // the cut is therefore at whole items in one reader, and anywhere in those that are compared.
  Reader single;
  size_t at = 0;
  while (at < bytes.size() && single.give(bytes.subspan(at, 1))) ++at;
  Reader parts;
  for (at = 0; at < bytes.size();) {
    const size_t size = std::min(stride, bytes.size() - at);
    if (!parts.give(bytes.subspan(at, size))) break;
    at += size;
  }
  if (stride > 24) return;  // at most one item in a call, unless one is smaller than that
  VP_ASSERT(single.seen == parts.seen && single.fault == parts.fault);
  VP_ASSERT(single.receiver.accounts() == parts.receiver.accounts());
}

void to_sender(std::span<const std::byte> bytes, size_t stride) {
  Sender sender(4096);
  LogDescription log;
  log.id = kLogs[0];
  log.position = 10;
  log.end = 1000;
  log.sources = {{"a", {1, 1}, {3, 5}}, {"b", {}, {}}};
  sender.begin(log);
  for (size_t at = 0; at < bytes.size();) {
    const size_t size = std::min(stride, bytes.size() - at);
    if (sender.feed(bytes.subspan(at, size)) != StreamFault::kNone) {
      VP_ASSERT(sender.phase() == Sender::Phase::kDown);
      return;
    }
    at += size;
    VP_ASSERT(sender.position() >= 10 && sender.position() <= 1000);
    VP_ASSERT(sender.acked_position() <= sender.position());
    if (sender.phase() == Sender::Phase::kFinished) sender.begin(log);
    VP_ASSERT(sender.out().size() < 4 * kMaxMessage);
    sender.out().clear();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input in(data, size);
  const size_t stride = 1 + in.number(1) % 200;
  const Bytes bytes = compose(in);
  to_receiver(bytes, stride);
  to_sender(bytes, stride);
  // What is no item at all, and the answers without the HELLO in front.
  to_sender({reinterpret_cast<const std::byte*>(data), size}, stride);
  if (bytes.size() > 216) to_sender(std::span(bytes).subspan(216), stride);
  return 0;
}
