// The bytes of one end of a virtagent port, cut in every way, must mean the same: whole, one at a
// time, and in two parts at each of many places. What is read is bounded, and what is JSON stays
// what it was when it is written and read again.

#include <string>
#include <vector>

#include "core/agent/conversation.h"
#include "core/agent/line_reader.h"
#include "core/agent/message.h"
#include "core/assert.h"
#include "tests/fuzz/input.h"

using namespace virtproxy;
using namespace virtproxy::agent;

namespace {

constexpr Instant kNow{1};
constexpr size_t kLongest = 512;

Pace pace_of(std::string_view method) {
  return method == "guest-ping" ? Pace::kImmediate : Pace::kQueued;
}

// The messages of some bytes, and what a conversation made of them and wrote.
class Reader {
 public:
  Reader() : lines_(kLongest), conversation_(config(), pace_of) {
    // A call is in flight, so that answers find something.
    (void)conversation_.call("echo", Json::object(), kCallTimeout, kNow);
    flush();
  }

  void give(std::span<const std::byte> bytes) {
    auto rest = bytes;
    while (const auto item = lines_.next(rest)) {
      lines += std::to_string(static_cast<int>(item->kind)) + std::string(item->line) + "\n";
    }
    VP_ASSERT(lines_.held() <= kLongest);
    unread_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    for (;;) {
      const size_t taken =
          conversation_.receive(std::as_bytes(std::span(unread_.data(), unread_.size())), kNow);
      unread_.erase(0, taken);
      const bool more = act();
      flush();
      if (taken == 0 && !more) break;
    }
    // Everything is answered and written at once, so nothing can be left.
    VP_ASSERT(unread_.empty());
    VP_ASSERT(conversation_.memory() <= kMaxPortMemory);
  }

  std::string lines;
  std::string notices;
  std::string written;

 private:
  static ConversationConfig config() {
    ConversationConfig config;
    config.max_incoming = kLongest;
    config.hello = Json::object();
    return config;
  }

  void flush() {
    while (!conversation_.pending().empty()) {
      written += conversation_.pending();
      conversation_.sent(conversation_.pending().size(), kNow);
    }
  }

  bool act() {
    bool any = false;
    for (const Notice& notice : conversation_.take_notices()) {
      any = true;
      notices += std::to_string(static_cast<int>(notice.kind)) + notice.name +
                 to_text(notice.body) + notice.error.text + "\n";
      if (notice.kind == Notice::Kind::kRequest) {
        if (notice.name == "va-hello") conversation_.peer_greeted(kNow);
        conversation_.answer(notice.token, notice.body, kNow);
      }
    }
    return any;
  }

  LineReader lines_;
  Conversation conversation_;
  std::string unread_;
};

std::string read_in(std::span<const std::byte> bytes, const std::vector<size_t>& cuts) {
  Reader reader;
  size_t begin = 0;
  for (const size_t cut : cuts) {
    reader.give(bytes.subspan(begin, cut - begin));
    begin = cut;
  }
  reader.give(bytes.subspan(begin));
  return reader.lines + reader.notices + reader.written;
}

void check_json(std::string_view text) {
  const ParsedJson parsed = parse_json(text);
  if (parsed.fault != JsonFault::kNone) return;
  const std::string written = to_text(parsed.value);
  const ParsedJson again = parse_json(written);
  VP_ASSERT(again.fault == JsonFault::kNone);
  VP_ASSERT(to_text(again.value) == written);
  if (!parsed.value.is_object() || !parsed.value.contains("id")) return;
  const auto raw = raw_member(text, "id");
  VP_ASSERT(raw);
  VP_ASSERT(parse_json(*raw).value == parsed.value["id"]);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  check_json({reinterpret_cast<const char*>(data), size});
  fuzz::Input in(data, size);
  // A dozen cuts or so: each of them takes two sets of buffers.
  const size_t stride = 1 + in.number(1) + size / 12;
  const auto bytes = in.bytes(size);
  const std::string whole = read_in(bytes, {});
  std::vector<size_t> all;
  for (size_t at = 1; at < bytes.size(); ++at) {
    all.push_back(at);
    if (at % stride == 0) VP_ASSERT(read_in(bytes, {at}) == whole);
  }
  VP_ASSERT(read_in(bytes, all) == whole);
  return 0;
}
