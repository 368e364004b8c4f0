// The example of core/logs/PROTOCOL.md, made by the code that it describes.
#include <gtest/gtest.h>

#include <fstream>
#include <map>

#include "core/logs/receiver.h"
#include "core/logs/sender.h"

namespace virtproxy::logs::test {

using Bytes = std::vector<std::byte>;

namespace {

constexpr LogId kLog{0x1122334455667788, 0x99aabbccddeeff00};
constexpr LogId kBoot{0x0102030405060708, 0x090a0b0c0d0e0f10};
constexpr UnixTime kTime = 1'700'000'000'000'000'000;

std::string hex(std::span<const std::byte> bytes) {
  std::string text;
  for (const std::byte b : bytes) {
    constexpr char kDigits[] = "0123456789abcdef";
    text += kDigits[static_cast<int>(b) >> 4];
    text += kDigits[static_cast<int>(b) & 15];
  }
  return text;
}

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

Bytes take(Bytes& out) {
  Bytes bytes;
  bytes.swap(out);
  return bytes;
}

// The conversation of the document: each message as its end writes it, and taken by the other end.
std::map<std::string, std::string> conversation() {
  std::map<std::string, std::string> blocks;
  Sender sender(65536);
  Receiver receiver(4);
  std::vector<Received> found;
  const auto to_receiver = [&](const std::string& name) {
    const Bytes bytes = take(sender.out());
    blocks[name] = hex(bytes);
    EXPECT_EQ(receiver.feed(bytes, found), StreamFault::kNone) << name;
  };
  const auto to_sender = [&](const std::string& name) {
    const Bytes bytes = take(receiver.out());
    blocks[name] = hex(bytes);
    EXPECT_EQ(sender.feed(bytes), StreamFault::kNone) << name;
  };

  LogDescription log;
  log.id = kLog;
  log.boot = kBoot;
  log.sources = {{"dev-log", {}, {}}};
  log.time = kTime;
  sender.begin(log);
  to_receiver("hello");
  to_sender("want");

  BatchBuilder builder(0, {});
  builder.add_line({kTime, Credentials{4242, 1000, 1000}, bytes_of("<13>one")});
  builder.add_drop({DropReason::kNewest, 0, 3, 600, kTime + 1000, kTime + 5000});
  builder.add_head({kTime + 6000, {}, bytes_of("<13>lon")}, 2'000'000);
  builder.add_line({kTime + 5900, {}, bytes_of("<13>two")});
  const Mark end = builder.mark();
  Bytes batch = builder.finish();
  seal_batch(batch, kLog, check_key(kLog), 0);
  BatchHeader header;
  EXPECT_EQ(decode_batch_header(batch, header), BatchFault::kNone);
  sender.send(batch, header, end);
  to_receiver("batch");
  EXPECT_EQ(found.size(), 5u);
  receiver.acknowledge(receiver.log()->position, AckLevel::kSink);
  to_sender("ack");
  receiver.reject(receiver.log()->id, 0, 5, 7);
  to_sender("reject");

  const Mark last{10, 2'001'000};
  sender.explain(std::span(&last, 1), DropReason::kCorrupt, kTime + 9000);
  to_receiver("floating");
  sender.finish(std::span(&last, 1), kTime + 9000);
  to_receiver("state");
  EXPECT_EQ(found.back().kind, Received::Kind::kFinal);
  receiver.acknowledge_final(AckLevel::kSink);
  to_sender("ack-final");
  EXPECT_EQ(sender.phase(), Sender::Phase::kFinished);
  const SourceAccount& account = receiver.accounts().back().sources.at(0);
  EXPECT_TRUE(account.balanced());
  EXPECT_EQ(account.next, last);
  EXPECT_EQ(account.unaccounted, Tally{});
  return blocks;
}

std::map<std::string, std::string> written() {
  std::ifstream document(VIRTPROXY_SOURCE_DIR "/core/logs/PROTOCOL.md");
  EXPECT_TRUE(document);
  std::map<std::string, std::string> blocks;
  std::string name;
  for (std::string line; std::getline(document, line);) {
    if (line.starts_with("```hex ")) {
      name = line.substr(7);
    } else if (line.starts_with("```")) {
      name.clear();
    } else if (!name.empty()) {
      line.resize(std::min(line.find('#'), line.size()));
      std::copy_if(line.begin(), line.end(), std::back_inserter(blocks[name]),
                   [](char c) { return std::isxdigit(static_cast<unsigned char>(c)) != 0; });
    }
  }
  return blocks;
}

TEST(LogDocument, ItsExampleIsWhatTheCodeWrites) {
  const auto blocks = written();
  const auto expected = conversation();
  for (const auto& [name, bytes] : expected) {
    const auto found = blocks.find(name);
    if (found == blocks.end()) {
      ADD_FAILURE() << name << " should be " << bytes;
      continue;
    }
    EXPECT_EQ(found->second, bytes) << name;
  }
  EXPECT_EQ(blocks.size(), expected.size());
}

}  // namespace
}  // namespace virtproxy::logs::test
