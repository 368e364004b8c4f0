// What a peer can tell of the secrets of this end: nothing that helps it to the next epoch.
#include <gtest/gtest.h>

#include <set>

#include "core/siphash.h"
#include "core/v2/handshake.h"
#include "core/wire/v1_packet.h"
#include "tests/unit/core/v1_pair.h"

namespace virtproxy::test {
namespace {

Hello first_greeting(const SessionConfig& config) {
  ChoosingEnd end(config, ProtocolMode::kAuto);
  end.transport_up(seconds(1));
  end.write(1 << 20, seconds(1));
  return *decode_hello(end.out.data());
}

// Each half of the key matters, and what a peer of protocol 1 can tell of the other secret is of no
// use to it.
TEST(Epochs, DependOnTheirKeyAndOnNothingElse) {
  SessionConfig config = config_with(1);
  config.epoch_key = {3, 5};
  const uint64_t epoch = first_greeting(config).epoch;
  EXPECT_EQ(epoch, (siphash<2, 4>(config.epoch_key, 1)));

  config.number_seed = 2;
  config.number_key = {9, 9};
  EXPECT_EQ(first_greeting(config).epoch, epoch);
  config.epoch_key = {3, 6};
  EXPECT_NE(first_greeting(config).epoch, epoch);
  config.epoch_key = {4, 5};
  EXPECT_NE(first_greeting(config).epoch, epoch);
}

TEST(V1Numbers, DependOnTheirSeedAndNotOnTheKeyOfTheEpochs) {
  const auto first_number = [](const SessionConfig& config) {
    ChoosingEnd end(config, ProtocolMode::kV1);
    end.transport_up(seconds(1));
    end.open(1);
    end.write(1 << 20, seconds(1));
    return decode_v1_head(end.out.data()).control_client();
  };
  SessionConfig config = config_with(7);
  const int32_t number = first_number(config);
  config.epoch_key = {123, 456};
  config.number_key = {9, 9};
  EXPECT_EQ(first_number(config), number);
  config.number_seed = 0x123456789abcdef;
  EXPECT_NE(first_number(config), number);
}

TEST(Epochs, AreDrawnAnewForEverySession) {
  Handshake greeting(Hello{}, {1, 2});
  std::set<uint64_t> seen;
  for (int i = 0; i < 10'000; ++i) {
    greeting.start(seconds(i), {});
    EXPECT_NE(greeting.epoch(), 0u);
    EXPECT_TRUE(seen.insert(greeting.epoch()).second);
    greeting.stop();
  }
}

}  // namespace
}  // namespace virtproxy::test
