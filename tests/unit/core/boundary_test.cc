// The events of one call are about one session: what a driver asks while it handles them is true of
// the session that they are about (rule 1 of core/session.h).
#include <gtest/gtest.h>

#include "core/siphash.h"
#include "core/wire/v1_packet.h"
#include "tests/unit/core/puppet.h"
#include "tests/unit/core/v1_pair.h"

namespace virtproxy::test {
namespace {

using Kinds = std::vector<Event::Kind>;
using Calls = std::vector<Kinds>;
using Kind = Event::Kind;

Kinds kinds(const Events& events) {
  Kinds found;
  for (const Event& event : events) found.push_back(event.kind);
  return found;
}

Bytes init(int32_t client, std::string_view service) {
  Bytes packet(kV1PacketSize);
  encode_v1_init(client, service, packet.data());
  return packet;
}

void append(Bytes& to, const Bytes& bytes) { to.insert(to.end(), bytes.begin(), bytes.end()); }

// Two lives of a stream under one number, the second for nobody: its slot is free again.
Bytes short_life() {
  Bytes bytes = init(5, "echo");
  append(bytes, init(5, ""));
  return bytes;
}
const Kinds kShortLife{Kind::kOpened, Kind::kGlitch, Kind::kReset, Kind::kGlitch};

// Calls input() for as long as it finds something; the events of each call.
template <typename Reader>
Calls read(Reader& reader, std::span<const std::byte> bytes, Instant now) {
  Calls calls;
  for (Events events;; events.clear()) {
    bytes = bytes.subspan(reader.input(bytes, now, events));
    if (events.empty()) return calls;
    calls.push_back(kinds(events));
  }
}

Bytes first_greeting(ProtocolSelector& selector, Instant now) {
  Events events;
  const auto head = selector.plan(1 << 20, now, events).heads;
  return {head.begin(), head.begin() + kHelloSize};
}

class Selector : public testing::Test {
 protected:
  void begin(ProtocolMode mode) {
    selector.emplace(config_with(1), mode);
    selector->transport_up(now, kGrace, 0, events);
  }

  std::optional<ProtocolSelector> selector;
  Instant now = seconds(1);
  Events events;
};

TEST_F(Selector, OfProtocol1ByTheClockEndsTheTick) {
  begin(ProtocolMode::kAuto);
  EXPECT_TRUE(read(*selector, short_life(), now).empty()) << "it is kept";
  now += kGrace;
  EXPECT_TRUE(selector->tick(now, events));
  EXPECT_EQ(kinds(events), Kinds{Kind::kUp});
  EXPECT_EQ(selector->protocol(), 1u);
  EXPECT_EQ(read(*selector, short_life(), now), Calls{kShortLife});
}

TEST_F(Selector, OfProtocol1InTheMiddleOfAReadEndsTheCall) {
  begin(ProtocolMode::kAuto);
  now += kGrace;  // and no tick yet
  const auto calls = read(*selector, short_life(), now);
  EXPECT_EQ(calls, (Calls{Kinds{Kind::kUp}, kShortLife}));
}

TEST_F(Selector, OfProtocol1BeforehandEndsTheLinksBeginning) {
  begin(ProtocolMode::kV1);
  EXPECT_EQ(kinds(events), Kinds{Kind::kUp});
  EXPECT_EQ(read(*selector, short_life(), now), Calls{kShortLife});
}

TEST_F(Selector, UpgradesEndTheCall) {
  begin(ProtocolMode::kAuto);
  const Hello ours = *decode_hello(first_greeting(*selector, now).data());
  now += kGrace;
  selector->tick(now, events);
  ASSERT_EQ(selector->protocol(), 1u);

  Hello theirs;
  theirs.epoch = 99;
  theirs.echo = ours.epoch;
  theirs.max_streams = 16;
  theirs.initial_window = theirs.max_frame = 4096;
  Bytes bytes = init(5, "echo");
  append(bytes, hello_bytes(theirs));
  const size_t upgraded = bytes.size();
  append(bytes, Bytes(kHeaderSize, std::byte{0x7f}));  // a fault
  append(bytes, short_life());
  const auto calls = read(*selector, bytes, now);
  ASSERT_EQ(calls.size(), 2u);
  EXPECT_EQ(calls[0], (Kinds{Kind::kOpened, Kind::kDown, Kind::kUp}));
  EXPECT_EQ(calls[1], Kinds{Kind::kDown});
  EXPECT_TRUE(selector->choosing());
  EXPECT_GT(upgraded, kHelloSize);
}

// A peer that knew the next epoch could put the end of one session and all of the next into one
// read.
TEST(SessionBoundary, AFaultAndItsSuccessorsAreCallsOfTheirOwn) {
  Puppet puppet;
  puppet.establish();
  const uint64_t next = siphash<2, 4>(config_with(7).epoch_key, 2);

  Bytes bytes = puppet.open(stream_number(0, 1));
  append(bytes, puppet.frame({FrameType::kPong, false, 1, 0, 0}));  // a fault
  puppet.mine.echo = next;
  append(bytes, hello_bytes(puppet.mine));
  puppet.send_key = direction_key(puppet.mine.epoch, next);
  append(bytes, puppet.open(stream_number(0, 1)));
  append(bytes, puppet.frame({FrameType::kPong, false, 1, 0, 0}));

  const auto calls = read(puppet.session, bytes, puppet.now);
  const Kinds opened{Kind::kOpened, Kind::kDown};
  EXPECT_EQ(calls, (Calls{opened, Kinds{Kind::kUp}, opened}));
}

TEST(SessionBoundary, FeedReadsOnBehindABoundary) {
  Puppet puppet;
  puppet.session.transport_up(puppet.now);
  puppet.hear();
  ASSERT_EQ(puppet.hellos.size(), 1u);
  const uint64_t epoch = puppet.hellos[0].epoch;
  puppet.mine.echo = epoch;
  puppet.send_key = direction_key(puppet.mine.epoch, epoch);
  Bytes bytes = hello_bytes(puppet.mine);
  append(bytes, puppet.open(stream_number(0, 1)));

  Events events;
  Calls calls;
  const size_t used = feed(puppet.session, bytes, puppet.now, events, [&] {
    calls.push_back(kinds(events));
    events.clear();
    return true;
  });
  EXPECT_EQ(used, bytes.size());
  EXPECT_EQ(calls, (Calls{Kinds{Kind::kUp}, Kinds{Kind::kOpened}}));

  // A driver that has dropped the link is not called again.
  Bytes fault = puppet.frame({FrameType::kPong, false, 1, 0, 0});
  append(fault, hello_bytes(puppet.mine));
  unsigned handled = 0;
  feed(puppet.session, fault, puppet.now, events, [&] {
    ++handled;
    return false;
  });
  EXPECT_EQ(handled, 1u);
}

}  // namespace
}  // namespace virtproxy::test
