// Streams without a socket at either end: endpoints of this process, over two channels that one
// loop runs.
#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

#include "tests/unit/channel_pair.h"
#include "uring/transport/transport_kind.h"

namespace virtproxy {
namespace {

// More than the promised window and than one frame.
constexpr size_t kBytes = 300'000;

class EndpointTest : public ChannelPairTest {
 protected:
  void SetUp() override {
    ChannelSpec spec;
    spec.address = {Address::Kind::kUnix, "@virtproxy-endpoint-test-" + std::to_string(getpid()),
                    0};
    auto listening = listen_on(spec.address, {});
    ASSERT_TRUE(listening) << listening.error();
    ChannelSpec other = spec;
    spec.transport = find_transport("unix-connect");
    other.transport = find_transport("unix-listen");
    connect(spec, other, *std::move(listening));
  }
};

TEST_F(EndpointTest, BytesPassBothWaysAtOnce) {
  service_.script.to_send = text_of(kBytes, 1);
  opener_.scripts.push_back({.to_send = text_of(kBytes + 17, 2)});
  here_->admit(opener_, 0);
  ASSERT_TRUE(run([&] { return !service_.script.over.empty() && all_over(); }));
  EXPECT_TRUE(service_.script.received == opener_.scripts[0].to_send);
  EXPECT_TRUE(opener_.scripts[0].received == service_.script.to_send);
  EXPECT_EQ(service_.script.over, std::vector{Fault::kNone});
  EXPECT_EQ(opener_.scripts[0].over, std::vector{Fault::kNone});
  EXPECT_EQ(service_.client, "0") << "what the opener says of its client";
  EXPECT_TRUE(opener_.refused.empty());
}

// Bytes that their endpoint lends are sent where they lie, and given back once they are written.
TEST_F(EndpointTest, WhatIsLentIsGivenBack) {
  opener_.scripts.push_back({.to_send = text_of(kBytes, 5), .lends = true});
  here_->admit(opener_, 0);
  ASSERT_TRUE(run([&] { return !service_.script.over.empty() && all_over(); }));
  EXPECT_TRUE(service_.script.received == opener_.scripts[0].to_send);
  EXPECT_GE(opener_.scripts[0].lent.size(), kBytes / 5000);
  for (const auto& part : opener_.scripts[0].lent) EXPECT_TRUE(part.expired());
}

// The service answers only after the end of what it is sent.
TEST_F(EndpointTest, AnEndLeavesTheOtherDirectionOpen) {
  opener_.scripts.push_back({.to_send = text_of(kBytes, 3)});
  service_.script.to_send = text_of(kBytes, 4);
  service_.script.then = Script::Then::kAnswerTheEnd;
  here_->admit(opener_, 0);
  ASSERT_TRUE(run([&] { return service_.script.received_at_end == kBytes; }));
  EXPECT_TRUE(opener_.scripts[0].received.empty());
  EXPECT_TRUE(opener_.scripts[0].over.empty());
  ASSERT_TRUE(run([&] { return !opener_.scripts[0].over.empty() && all_over(); }));
  EXPECT_TRUE(opener_.scripts[0].received == service_.script.to_send);
  EXPECT_EQ(opener_.scripts[0].received_at_end, kBytes);
  EXPECT_EQ(opener_.scripts[0].over, std::vector{Fault::kNone});
  EXPECT_EQ(service_.script.over, std::vector{Fault::kNone});
}

TEST_F(EndpointTest, AResetComesAfterTheBytesBeforeIt) {
  opener_.scripts.push_back({.to_send = text_of(kBytes, 4), .then = Script::Then::kReset});
  service_.script.then = Script::Then::kStayOpen;
  here_->admit(opener_, 0);
  ASSERT_TRUE(run([&] { return !service_.script.over.empty() && all_over(); }));
  EXPECT_TRUE(service_.script.received == opener_.scripts[0].to_send);
  EXPECT_TRUE(service_.script.broken_off);
  EXPECT_EQ(service_.script.received_at_end, SIZE_MAX) << "a reset is no end";
  EXPECT_EQ(service_.script.over, std::vector{Fault::kAborted});
  EXPECT_EQ(opener_.scripts[0].over, std::vector{Fault::kAborted});
}

// Several streams, and one that is refused among them: the others do not notice.
TEST_F(EndpointTest, ARefusalHasItsReasonAndConcernsOneStream) {
  service_.script.then = Script::Then::kStayOpen;
  opener_.scripts.resize(3, {.to_send = "x", .then = Script::Then::kStayOpen});
  here_->admit(opener_, 0);
  ASSERT_TRUE(run([&] { return service_.script.received == "x"; }));

  service_.refusal = Fault::kNoResources;  // at once
  here_->admit(opener_, 1);
  ASSERT_TRUE(run([&] { return !opener_.scripts[1].over.empty(); }));
  EXPECT_EQ(opener_.scripts[1].over, std::vector{Fault::kNoResources});

  service_.refusal = Fault::kNone;
  const Script kept = std::exchange(service_.script, {.refusal = Fault::kUnreachable});
  here_->admit(opener_, 2);  // by the endpoint, once it is started
  ASSERT_TRUE(run([&] { return !opener_.scripts[2].over.empty(); }));
  EXPECT_EQ(opener_.scripts[2].over, std::vector{Fault::kUnreachable});
  EXPECT_EQ(service_.script.over, std::vector{Fault::kUnreachable});
  service_.script = kept;

  EXPECT_TRUE(opener_.scripts[0].over.empty());
  EXPECT_EQ(here_->stats().connections, 1u);
  EXPECT_EQ(there_->stats().connections, 1u);
}

// A list of thousands is made in pieces, so that no turn stops for longer than one of them takes.
TEST_F(EndpointTest, StreamsAreListedInPieces) {
  constexpr size_t kStreams = 16;
  constexpr size_t kSlots = 5;
  opener_.scripts.resize(kStreams, {.then = Script::Then::kStayOpen});
  service_.script.then = Script::Then::kStayOpen;
  for (size_t i = 0; i < kStreams; ++i) here_->admit(opener_, static_cast<int>(i));
  ASSERT_TRUE(run([&] { return here_->stats().connections == kStreams; }));
  size_t seen = 0;
  size_t pieces = 0;
  for (std::optional<size_t> from = 0; from; ++pieces) {
    size_t in_piece = 0;
    from = here_->streams().visit(*from, kSlots, [&](const StreamView&) { ++in_piece; });
    EXPECT_LE(in_piece, kSlots);
    seen += in_piece;
  }
  EXPECT_EQ(seen, kStreams);
  EXPECT_EQ(pieces, (kStreams + kSlots - 1) / kSlots);
}

// What waits for the channel does not wait for credit.
TEST_F(EndpointTest, WaitsAreAccountedForTheirReason) {
  service_.script.then = Script::Then::kStayOpen;
  opener_.scripts.push_back({.to_send = text_of(kBytes, 5), .then = Script::Then::kStayOpen});
  here_->admit(opener_, 0);
  ASSERT_TRUE(run([&] { return service_.script.received == opener_.scripts[0].to_send; }));
  StallTimes waited{};
  std::optional<StallReason> waits_for;
  here_->streams().visit(0, 16, [&](const StreamView& view) {
    waited = view.waited;
    waits_for = view.waits_for;
  });
  EXPECT_FALSE(waits_for) << "all was taken";
  const auto of = [&](StallReason reason) { return waited[static_cast<size_t>(reason)]; };
  EXPECT_GT(of(StallReason::kCredit) + of(StallReason::kChannel), Duration::zero())
      << "it was more than the window";
  EXPECT_EQ(of(StallReason::kConnecting) + of(StallReason::kMemory) +
                of(StallReason::kApplication) + of(StallReason::kDescriptors),
            Duration::zero());
}

TEST_F(EndpointTest, AServiceThatIsNotThereIsNamedAsSuch) {
  opener_.name = "virtproxy.tes";
  opener_.scripts.resize(1);
  here_->admit(opener_, 0);
  ASSERT_TRUE(run([&] { return all_over() && !opener_.scripts[0].over.empty(); }));
  EXPECT_EQ(opener_.scripts[0].over, std::vector{Fault::kUnknownService});
  EXPECT_TRUE(service_.client.empty());
}

TEST_F(EndpointTest, AChannelThatEndsResetsWhatIsOpenAndRefusesTheRest) {
  service_.script.then = Script::Then::kStayOpen;
  opener_.scripts.resize(2, {.to_send = "x", .then = Script::Then::kStayOpen});
  here_->admit(opener_, 0);
  ASSERT_TRUE(run([&] { return service_.script.received == "x"; }));
  here_->drain();
  here_->admit(opener_, 1);
  EXPECT_EQ(opener_.refused, std::vector{1});
  EXPECT_TRUE(opener_.scripts[0].over.empty()) << "open streams may finish";
  here_->stop();
  ASSERT_TRUE(run([&] { return all_over(); }));
  EXPECT_EQ(opener_.scripts[0].over, std::vector{Fault::kGoingAway});
  EXPECT_EQ(service_.script.over, std::vector{Fault::kGoingAway});
}

}  // namespace
}  // namespace virtproxy
