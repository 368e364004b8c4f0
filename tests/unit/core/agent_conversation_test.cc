// The call engine, one end at a time: its rules for requests, answers, syncs, events and time.
#include "tests/unit/core/agent_pair.h"

namespace virtproxy::agent::test {
namespace {

constexpr Instant kStart{std::chrono::seconds(1)};

class AgentConversation : public ::testing::Test {
 protected:
  // All that it writes, as if the transport took everything.
  std::string written(size_t most = SIZE_MAX) {
    std::string all;
    while (!end.conversation.pending().empty() && all.size() < most) {
      const std::string piece(end.conversation.pending().substr(0, most - all.size()));
      all += piece;
      end.conversation.sent(piece.size(), now);
      end.act();
    }
    return all;
  }
  std::string_view give(std::string_view text) { return end.receive(text, now); }
  std::string exchange(std::string_view text) {
    give(text);
    return written();
  }
  void pass(Duration time) {
    now += time;
    end.tick(now);
  }

  Instant now = kStart;
  End end{host_config(100), kStart};
};

TEST_F(AgentConversation, AnswersWithTheIdAsItWasWritten) {
  EXPECT_EQ(exchange("{\"execute\":\"echo\",\"arguments\":{\"n\":1},\"id\": {\"a\" :1.0} }\n"),
            "{\"return\":{\"n\":1},\"id\":{\"a\" :1.0}}\n");
  EXPECT_EQ(exchange("{\"execute\":\"echo\"}\r\n"), "{\"return\":{}}\n");
  EXPECT_EQ(exchange("\n \n"), "");
}

TEST_F(AgentConversation, SyncsBothWays) {
  EXPECT_EQ(exchange("{\"execute\":\"guest-sync\", \"arguments\":{\"id\":1690000000000}}\n"),
            "{\"return\":1690000000000}\n");
  EXPECT_EQ(
      exchange("garbage\xff{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":7}}\n"),
      "\xff{\"return\":7}\n");
  const std::string refused =
      exchange("{\"execute\":\"guest-sync\",\"arguments\":{\"id\":\"x\"}}\n");
  EXPECT_NE(refused.find("bad-argument"), std::string::npos) << refused;
}

TEST_F(AgentConversation, QueuesOneRequestAndRefusesTheThird) {
  end.hold = true;
  for (int i = 1; i <= 3; ++i) {
    give("{\"execute\":\"echo\",\"arguments\":{\"n\":" + std::to_string(i) +
         "},\"id\":" + std::to_string(i) + "}\n");
  }
  EXPECT_EQ(end.held.size(), 1u);
  const std::string busy = written();
  EXPECT_NE(busy.find("\"code\":\"busy\""), std::string::npos) << busy;
  EXPECT_NE(busy.find("\"id\":3"), std::string::npos) << busy;
  end.answer_held();
  EXPECT_EQ(written(), "{\"return\":{\"n\":1},\"id\":1}\n");
  ASSERT_EQ(end.held.size(), 1u);
  end.answer_held();
  EXPECT_EQ(written(), "{\"return\":{\"n\":2},\"id\":2}\n");
}

TEST_F(AgentConversation, ReadsNoFurtherFromAPeerThatGoesOnAndReadsNothing) {
  end.hold = true;
  std::string all;
  for (int i = 0; i < 1000; ++i) all += "{\"execute\":\"echo\",\"id\":" + std::to_string(i) + "}\n";
  const std::string_view rest = give(all);
  EXPECT_GT(rest.size(), all.size() * 99 / 100);
  EXPECT_LE(end.conversation.memory(), kMaxPortMemory);
  EXPECT_LT(end.conversation.pending().size(), 1000u);
}

TEST_F(AgentConversation, AnswersAPingWhileAnotherMethodRuns) {
  end.hold = true;
  give("{\"execute\":\"echo\",\"id\":1}\n");
  EXPECT_EQ(exchange("{\"execute\":\"guest-ping\",\"id\":2}\n"), "{\"return\":{},\"id\":2}\n");
  // Without an id only the order tells which request was answered.
  EXPECT_EQ(exchange("{\"execute\":\"guest-ping\"}\n"), "");
  end.answer_held();
  EXPECT_EQ(written(), "{\"return\":{},\"id\":1}\n{\"return\":{}}\n");
}

TEST_F(AgentConversation, ASyncTakesBackWhatWasAskedBefore) {
  end.hold = true;
  give("{\"execute\":\"echo\",\"id\":1}\n{\"execute\":\"echo\",\"id\":2}\n");
  EXPECT_EQ(exchange("{\"execute\":\"guest-sync\",\"arguments\":{\"id\":9}}\n"),
            "{\"return\":9}\n");
  end.answer_held();
  EXPECT_EQ(written(), "");
  EXPECT_EQ(end.conversation.stats().abandoned, 2u);
  EXPECT_EQ(end.conversation.stats().late, 1u);
  end.hold = false;
  EXPECT_EQ(exchange("{\"execute\":\"echo\",\"id\":3}\n"), "{\"return\":{},\"id\":3}\n");
}

TEST_F(AgentConversation, TheNextRequestWaitsUntilTheAnswerIsWritten) {
  const std::string big(100000, 'x');
  give("{\"execute\":\"echo\",\"arguments\":{\"a\":\"" + big + "\"},\"id\":1}\n");
  EXPECT_EQ(written(50).size(), 50u);
  give("{\"execute\":\"echo\",\"arguments\":{\"a\":\"" + big + "\"},\"id\":2}\n");
  EXPECT_EQ(end.served, 1u);
  EXPECT_LT(end.conversation.pending().size(), 101000u);
  EXPECT_LE(end.conversation.memory(), kMaxPortMemory);
  EXPECT_GT(written().size(), 200000u);
  EXPECT_EQ(end.served, 2u);
  EXPECT_LE(end.conversation.memory(), kMaxPortMemory);
}

TEST_F(AgentConversation, RefusesWhatIsTooLongAndGoesOn) {
  const std::string huge(kMaxMessage + 1, ' ');
  const std::string refused = exchange(huge + "\n{\"execute\":\"echo\",\"id\":1}\n");
  EXPECT_NE(refused.find("too-large"), std::string::npos);
  EXPECT_TRUE(refused.ends_with("{\"return\":{},\"id\":1}\n")) << refused;
  EXPECT_NE(exchange("{\"execute\":\"echo\",\"arguments\":{\"a\":" + std::string(20, '[') +
                     std::string(20, ']') + "}}\n")
                .find("too-large"),
            std::string::npos);
  EXPECT_NE(exchange("{\"execute\":\"echo\",\"execute\":\"echo\"}\n").find("bad-argument"),
            std::string::npos);
}

TEST_F(AgentConversation, AnAnswerThatIsTooLongIsAnError) {
  // The text of an answer is longer than that of its request where escapes are.
  const std::string_view rest = give("{\"execute\":\"echo\",\"arguments\":{\"a\":\"" +
                                     std::string(kMaxMessage - 100, 'a') + "\"},\"id\":1}\n");
  EXPECT_TRUE(rest.empty());
  EXPECT_TRUE(written().starts_with("{\"return\""));
  end.hold = true;
  give("{\"execute\":\"echo\",\"id\":2}\n");
  end.conversation.answer(end.held.front().first, Json(std::string(kMaxMessage, 'a')), now);
  EXPECT_NE(written().find("too-large"), std::string::npos);
}

TEST_F(AgentConversation, SyncsAndGreetsBeforeItsFirstCall) {
  end.call_echo(5);
  EXPECT_EQ(written(),
            "\xff{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":101},\"id\":101}\n");
  // What comes before the answer of the sync belongs to nothing of ours.
  EXPECT_EQ(exchange("{\"return\":100}\n{\"return\":{\"n\":5},\"id\":100}\n{\"error\":{}}\n"), "");
  EXPECT_EQ(end.conversation.stats().discarded, 3u);
  const std::string hello = exchange("\xff{\"return\":101}\n");
  EXPECT_TRUE(hello.starts_with("{\"execute\":\"va-hello\"")) << hello;
  // A guest agent of old does not know it.
  EXPECT_EQ(exchange("{\"error\":{\"class\":\"CommandNotFound\",\"desc\":\"\"},\"id\":102}\n"),
            "{\"execute\":\"echo\",\"arguments\":{\"n\":5},\"id\":100}\n");
  EXPECT_EQ(exchange("{\"return\":{\"n\":5},\"id\":100}\n"), "");
  EXPECT_EQ(end.answered, 1u);
}

TEST_F(AgentConversation, OneCallInFlightAndOneQueued) {
  end.call_echo(1);
  end.conversation.call("echo", Json::object(), kCallTimeout, now).value_or(0);
  const auto third = end.conversation.call("echo", Json::object(), kCallTimeout, now);
  ASSERT_FALSE(third);
  EXPECT_EQ(third.error().code, ErrorCode::kBusy);
}

TEST_F(AgentConversation, ACallThatIsTooLongIsRefusedHere) {
  const auto call =
      end.conversation.call("echo", {{"a", std::string(kMaxRequest, 'a')}}, kCallTimeout, now);
  ASSERT_FALSE(call);
  EXPECT_EQ(call.error().code, ErrorCode::kTooLarge);
  EXPECT_EQ(written(), "");
}

TEST_F(AgentConversation, ATimeoutIsFollowedByASync) {
  end.call_echo(1);
  written();
  exchange("{\"return\":101}\n");
  exchange("{\"return\":{},\"id\":102}\n");
  ASSERT_EQ(end.conversation.next_deadline(), kStart + kCallTimeout);
  pass(kCallTimeout);
  EXPECT_EQ(end.failed, 1u);
  EXPECT_EQ(end.last_error, "timeout");
  EXPECT_EQ(end.conversation.next_deadline(), std::nullopt);
  // The late answer is nobody's.
  EXPECT_EQ(exchange("{\"return\":{\"n\":1},\"id\":100}\n"), "");
  end.call_echo(2);
  EXPECT_TRUE(written().starts_with("\xff{\"execute\":\"guest-sync-delimited\""));
  pass(kCallTimeout);
  EXPECT_EQ(end.failed, 2u);
}

TEST_F(AgentConversation, AGuestAsksNothingBeforeItIsGreeted) {
  End guest(guest_config(500), kStart);
  guest.call_echo(1);
  EXPECT_EQ(guest.conversation.pending(), "");
  guest.receive("{\"execute\":\"va-hello\",\"arguments\":{},\"id\":1}\n", kStart);
  EXPECT_NE(guest.conversation.pending().find("guest-sync-delimited"), std::string_view::npos);
  // A sync may be that of another peer: libvirt sends one first and never greets.
  guest.conversation.sent(guest.conversation.pending().size(), kStart);
  guest.receive("{\"return\":501}\n", kStart);
  EXPECT_NE(guest.conversation.pending().find("va-hello"), std::string_view::npos);
  guest.conversation.sent(guest.conversation.pending().size(), kStart);
  guest.receive(
      "{\"execute\":\"guest-sync\",\"arguments\":{\"id\":3}}\n{\"return\":{},\"id\":502}\n",
      kStart);
  EXPECT_EQ(guest.conversation.pending(), "{\"return\":3}\n");
  guest.conversation.sent(guest.conversation.pending().size(), kStart);
  EXPECT_EQ(guest.conversation.pending(), "");
  // Events go out all the same.
  guest.conversation.post_event(encode_event("e", Json::object(), std::nullopt), kStart);
  EXPECT_EQ(guest.conversation.pending(), "{\"data\":{},\"event\":\"e\"}\n");
}

TEST_F(AgentConversation, OfEventsTheOldestMakeRoomAndAreCounted) {
  for (int i = 0; i < 100; ++i) {
    end.conversation.post_event(encode_event("e" + std::to_string(i), Json::object(), std::nullopt),
                                now);
  }
  End peer(host_config(1), kStart);
  peer.receive(written(), now);
  ASSERT_EQ(peer.events.size(), 1 + 1 + kEventRing);
  EXPECT_EQ(peer.events[0], "e0{}");
  EXPECT_EQ(peer.events[1], "va-lost{\"lost\":35}");
  EXPECT_EQ(peer.events[2], "e36{}");
  EXPECT_EQ(peer.events.back(), "e99{}");
}

TEST_F(AgentConversation, AStreamReadsTheNextRequestAfterTheAnswer) {
  ConversationConfig config;
  config.transport = ConversationConfig::Transport::kStream;
  End stream(config, kStart);
  stream.hold = true;
  const std::string two = "{\"execute\":\"echo\",\"id\":1}\nraw bytes";
  const std::string_view rest = stream.receive(two, now);
  EXPECT_EQ(rest, "raw bytes");
  stream.answer_held();
  EXPECT_EQ(stream.conversation.pending(), "{\"return\":{},\"id\":1}\n");
  EXPECT_EQ(stream.receive("{\"execute\":\"echo\",\"id\":2}\n", now).size(), 26u);
  stream.conversation.sent(stream.conversation.pending().size(), now);
  EXPECT_EQ(stream.receive("{\"execute\":\"echo\",\"id\":2}\n", now).size(), 0u);
}

TEST_F(AgentConversation, ANewTransportFailsTheCallInFlight) {
  end.call_echo(1);
  written();
  exchange("{\"return\":101}\n");
  exchange("{\"return\":{},\"id\":102}\n");
  give("half a li");
  end.conversation.restart(now);
  end.act();
  EXPECT_EQ(end.failed, 1u);
  EXPECT_EQ(end.last_error, "io:ECONNRESET");
  EXPECT_EQ(exchange("{\"execute\":\"echo\"}\n"), "{\"return\":{}}\n");
}

}  // namespace
}  // namespace virtproxy::agent::test
