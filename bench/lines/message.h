// What a log daemon writes at the far end: a stream cut into messages, and a message taken apart.
// No system call.
//
// Known are plain lines, RFC 5424 and JSON with one object a line; which one a message is shows in
// its first bytes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace virtproxy::bench::lines {

enum class Framing {
  kAuto,  // of each message: octet-counted when it begins with a count and a blank, else up to LF
  kLf,
  kOctet,  // RFC 6587: length, blank, message
};

// Cuts a stream. A message that is longer than kLargest is skipped and counted.
class MessageSplitter {
 public:
  static constexpr size_t kLargest = size_t{8} << 20;  // a line of 1 MiB with every byte escaped

  explicit MessageSplitter(Framing framing) : framing_(framing) {}

  // Calls on_message(std::string_view) for each whole message; the text is valid during the call.
  template <typename OnMessage>
  void feed(std::string_view bytes, OnMessage on_message) {
    if (!rest_.empty()) {
      rest_.append(bytes);
      const size_t used = cut(rest_, on_message);
      rest_.erase(0, used);
    } else {
      rest_.assign(bytes.substr(cut(bytes, on_message)));
    }
    if (rest_.size() > kLargest) {
      rest_.clear();
      skipping_ = true;
      ++oversized_;
    }
  }

  // Bytes of a message that is not whole.
  size_t pending() const { return rest_.size(); }
  uint64_t oversized() const { return oversized_; }

 private:
  enum class Cut { kMessage, kIncomplete };

  // The next message of `text`, and how many bytes it takes with its frame.
  Cut next(std::string_view text, std::string_view& message, size_t& used) const;

  template <typename OnMessage>
  size_t cut(std::string_view text, OnMessage& on_message) {
    size_t at = 0;
    if (skipping_) {
      const size_t end = text.find('\n');
      if (end == std::string_view::npos) return text.size();
      skipping_ = false;
      at = end + 1;
    }
    while (at < text.size()) {
      std::string_view message;
      size_t used = 0;
      if (next(text.substr(at), message, used) == Cut::kIncomplete) break;
      at += used;
      on_message(message);
    }
    return at;
  }

  Framing framing_;
  std::string rest_;
  bool skipping_ = false;
  uint64_t oversized_ = 0;
};

enum class MessageFormat { kPlain, kRfc5424, kJson };

MessageFormat format_of(std::string_view message);

// The inside of a message. `text` is what the application wrote, with escapes undone.
struct Unpacked {
  bool valid = false;  // it is what it begins like
  std::string text;
  // Of a drop record: how many lines were dropped, and why. 0: it is none. The beginning of a line
  // that was too long is the record of one line.
  uint64_t dropped = 0;
  std::string reason;
  bool at_most = false;  // it may have been fewer
};

Unpacked unpack(std::string_view message);

}  // namespace virtproxy::bench::lines
