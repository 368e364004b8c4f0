// Two ends of a virtagent port on virtual time, each serving `echo` and calling it at the other.
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "core/agent/conversation.h"

namespace virtproxy::agent::test {

inline std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

inline Pace echo_pace(std::string_view method) {
  return method == "guest-ping" ? Pace::kImmediate : Pace::kQueued;
}

// What an end of the port does: answers requests, makes calls, and checks what it gets.
class End {
 public:
  End(ConversationConfig config, Instant now)
      : conversation(std::move(config), echo_pace), now_(now) {}

  // Offers bytes and returns those that were not taken.
  std::string_view receive(std::string_view bytes, Instant now) {
    now_ = now;
    for (;;) {
      const size_t taken = conversation.receive(bytes_of(bytes), now);
      bytes.remove_prefix(taken);
      const bool more = act();
      if (taken == 0 && !more) return bytes;
    }
  }

  void call_echo(uint64_t number) {
    const auto id = conversation.call("echo", {{"n", number}}, kCallTimeout, now_);
    ASSERT_TRUE(id) << id.error().text;
    asked_[*id] = number;
    act();
  }

  void tick(Instant now) {
    now_ = now;
    conversation.tick(now);
    act();
  }

  // Answers what was held back longest.
  void answer_held() {
    const auto [token, body] = held.front();
    held.pop_front();
    conversation.answer(token, body, now_);
    act();
  }

  // Deals with all notices. True if there were any.
  bool act() {
    bool any = false;
    for (auto notices = conversation.take_notices(); !notices.empty();
         notices = conversation.take_notices()) {
      any = true;
      for (Notice& notice : notices) on_notice(notice);
    }
    return any;
  }

  Conversation conversation;
  bool hold = false;  // requests are kept in `held` instead of answered
  std::deque<std::pair<uint64_t, Json>> held;
  uint64_t answered = 0;  // calls of this end that were answered
  uint64_t failed = 0;
  uint64_t served = 0;
  uint64_t greeted = 0;
  uint64_t ungreeted = 0;
  std::vector<std::string> events;
  std::string last_error;

 private:
  void on_notice(Notice& notice) {
    switch (notice.kind) {
      case Notice::Kind::kRequest:
        ++served;
        if (notice.name == "va-hello") conversation.peer_greeted(now_);
        if (hold && notice.name == "echo") {
          held.emplace_back(notice.token, std::move(notice.body));
        } else {
          conversation.answer(notice.token,
                              notice.name == "guest-ping" ? Json::object() : notice.body, now_);
        }
        break;
      case Notice::Kind::kAbandoned:
        // It is answered all the same: the conversation has to drop that.
        break;
      case Notice::Kind::kAnswered: {
        const auto asked = asked_.find(notice.token);
        ASSERT_NE(asked, asked_.end()) << "an answer to no call";
        ASSERT_EQ(notice.body, Json({{"n", asked->second}})) << "an answer to another call";
        asked_.erase(asked);
        ++answered;
        break;
      }
      case Notice::Kind::kFailed:
        ASSERT_EQ(asked_.erase(notice.token), 1u) << "a failure of no call";
        last_error = error_code_text(notice.error);
        ++failed;
        break;
      case Notice::Kind::kEvent:
        events.push_back(notice.name + to_text(notice.body));
        break;
      case Notice::Kind::kGreeted:
        ++greeted;
        break;
      case Notice::Kind::kUngreeted:
        ++ungreeted;
        break;
      case Notice::Kind::kBadLine:
        break;
    }
  }

  Instant now_;
  std::map<uint64_t, uint64_t> asked_;
};

inline ConversationConfig host_config(uint64_t first_id) {
  ConversationConfig config;
  config.hello = {{"version", "1"}, {"methods", Json::array({"echo"})}};
  config.first_id = first_id;
  return config;
}

inline ConversationConfig guest_config(uint64_t first_id) {
  ConversationConfig config = host_config(first_id);
  config.needs_hello = true;
  return config;
}

}  // namespace virtproxy::agent::test
