// A session of version 1 whose peer is the test, packet by packet.
#pragma once

#include <gtest/gtest.h>

#include "tests/unit/core/v1_pair.h"

namespace virtproxy::test {

// One session, and a peer whose every packet the test writes.
class V1PuppetTest : public testing::Test {
 protected:
  void SetUp() override {
    end.transport_up(now);
    end.checks_content = false;
  }
  void say(const Bytes& bytes) { end.read(bytes, now); }
  std::vector<Bytes> hear() {
    while (end.write(1 << 20, now)) {
    }
    std::vector<Bytes> packets;
    for (size_t at = 0; at < end.out.size(); at += kV1PacketSize) {
      packets.emplace_back(end.out.begin() + static_cast<ptrdiff_t>(at),
                           end.out.begin() + static_cast<ptrdiff_t>(at + kV1PacketSize));
    }
    end.out.clear();
    return packets;
  }
  static Bytes control(V1Message message, int32_t client, int32_t server) {
    Bytes bytes(kV1PacketSize);
    encode_v1_control(message, client, server, bytes.data());
    return bytes;
  }
  static Bytes init(int32_t client, std::string_view service) {
    Bytes bytes(kV1PacketSize);
    encode_v1_init(client, service, bytes.data());
    return bytes;
  }
  static Bytes data(V1Type type, int32_t client, int32_t server, size_t size, int32_t bytes) {
    Bytes packet(kV1PacketSize);
    encode_v1_data_head(type, client, server, static_cast<uint32_t>(bytes), packet.data());
    encode_v1_tail({packet.data() + kV1DataHead + size, v1_tail_size(uint32_t(size))});
    return packet;
  }
  static Bytes data(V1Type type, int32_t client, int32_t server, size_t size = 100) {
    return data(type, client, server, size, static_cast<int32_t>(size));
  }
  // A client of ours, acknowledged with the peer's number `server`; our number is returned.
  int32_t open_client(uint64_t id, int32_t server) {
    end.open(id);
    const int32_t number = decode_v1_head(hear().at(0).data()).control_client();
    say(control(V1Message::kAck, number, server));
    return number;
  }
  // A service of ours for the peer's client; our number is returned.
  int32_t open_service(uint64_t id, int32_t client) {
    say(init(client, "s" + std::to_string(id)));
    const auto heard = hear();
    EXPECT_EQ(heard.size(), 1u) << "the ACK and nothing else";
    return decode_v1_head(heard.at(0).data()).control_server();
  }
  void expect_heard(std::vector<Bytes> expected) { EXPECT_EQ(hear(), expected); }

  ChoosingEnd end{config_with(7), ProtocolMode::kV1};
  Instant now = seconds(1);
};

}  // namespace virtproxy::test
