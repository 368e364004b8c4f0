// How --collect names a sink, and how records become lines.
#include <gtest/gtest.h>

#include <string>

#include "uring/service/logs/line_format.h"
#include "uring/service/logs/sink_spec.h"

namespace virtproxy {
namespace {

TEST(SinkSpec, OptionsOfAFile) {
  const auto sink =
      parse_sink("file:/var/log/vm.log,rotate=64M,rotate=24h,keep=3,format=json,sync=on");
  ASSERT_TRUE(sink) << sink.error().what;
  EXPECT_EQ(sink->kind, SinkKind::kFile);
  EXPECT_EQ(sink->target, "/var/log/vm.log");
  EXPECT_EQ(sink->state, "/var/log/vm.log.state");
  EXPECT_EQ(sink->rotate_size, uint64_t{64} << 20);
  EXPECT_EQ(sink->rotate_after, std::chrono::hours(24));
  EXPECT_EQ(sink->keep, 3u);
  EXPECT_EQ(sink->format, LineFormat::kJson);
  EXPECT_TRUE(sink->sync);
  EXPECT_EQ(sink->label(), "file:/var/log/vm.log");
  EXPECT_EQ(parse_sink("stdout")->format, LineFormat::kJson);
  EXPECT_EQ(parse_sink("file:x")->format, LineFormat::kRfc5424);
}

TEST(SinkSpec, WhatIsWrongIsNamed) {
  const auto complaint = [](const char* text) {
    const auto sink = parse_sink(text);
    return sink ? std::string("none") : sink.error().what + "; " + sink.error().right;
  };
  EXPECT_NE(complaint("fil:/x").find("there is no sink 'fil'; there are file"), std::string::npos);
  EXPECT_NE(complaint("").find("there is no sink ''"), std::string::npos);
  EXPECT_NE(complaint("file:").find("file has no target"), std::string::npos);
  EXPECT_NE(complaint("stdout:x").find("stdout takes none"), std::string::npos);
  EXPECT_EQ(complaint("relp:127.0.0.1").find("no port; write relp:HOST:PORT"), 0u);
  EXPECT_NE(complaint("file:x,keep=0").find("from 1 to 1000"), std::string::npos);
  EXPECT_NE(complaint("file:x,rotate=4").find("a size from 64K on"), std::string::npos);
  EXPECT_NE(complaint("file:x,rotate=0s").find("a size from 64K on"), std::string::npos);
  EXPECT_NE(complaint("file:x,format=xml").find("use rfc5424, json or text"), std::string::npos);
  EXPECT_EQ(complaint("relp:h:1,format=text"), "format 'text'; use rfc5424 or json");
  EXPECT_NE(complaint("file:x,").find("'' is no option"), std::string::npos);
  EXPECT_NE(complaint("stdout,rotate=1M").find("'rotate' is no option"), std::string::npos);
}

Parcel parcel_with(std::string text, std::string source = "dev-log") {
  Parcel parcel;
  parcel.account.id = {0x1122334455667788, 0x99aabbccddeeff00};
  parcel.account.sources.emplace_back().name = std::move(source);
  parcel.received = 1'700'000'000'000'000'001;
  ParcelRecord& record = parcel.records.emplace_back();
  record.size = static_cast<uint32_t>(text.size());
  record.bytes = text.size();
  record.seq = 5;
  record.time = record.last_time = 1'700'000'000'123'456'789;
  parcel.text = std::move(text);
  return parcel;
}

std::string line_of(LineFormat format, const Parcel& parcel, std::string_view vm = "vm1") {
  std::string line;
  LineWriter(format).append(line, vm, parcel, parcel.records.front());
  return line;
}

TEST(LineWriter, ALineOfRfc5424) {
  Parcel parcel = parcel_with("<30>sshd[7]: \"hello\\there\"");
  parcel.records[0].has_credentials = true;
  parcel.records[0].credentials = {7, 0, 4};
  EXPECT_EQ(line_of(LineFormat::kRfc5424, parcel),
            "<30>1 2023-11-14T22:13:20.123456Z vm1 dev-log 7 - [virtproxy@32473 vm=\"vm1\" "
            "source=\"dev-log\" log=\"99aabbccddeeff001122334455667788\" seq=\"5\" uid=\"0\" "
            "gid=\"4\"] sshd[7]: \"hello\\there\"");
}

TEST(LineWriter, ALineOfJson) {
  EXPECT_EQ(line_of(LineFormat::kJson, parcel_with("<30>a\"\\\n\x7f\xc3\xa9")),
            "{\"vm\":\"vm1\",\"source\":\"dev-log\",\"log\":\"99aabbccddeeff001122334455667788\","
            "\"seq\":5,\"time\":\"2023-11-14T22:13:20.123456789Z\","
            "\"received\":\"2023-11-14T22:13:20.000000001Z\","
            "\"message\":\"<30>a\\\"\\\\\\n\\u007f\xc3\xa9\"}");
  EXPECT_NE(line_of(LineFormat::kJson, parcel_with("a\xff")).find("\"message_base64\":\"Yf8=\""),
            std::string::npos);
}

TEST(LineWriter, ALineOfText) {
  Parcel parcel = parcel_with("<30>sshd[7]: a\nb");
  EXPECT_EQ(line_of(LineFormat::kText, parcel),
            "2023-11-14T22:13:20.123456Z vm1 dev-log: sshd[7]: a\\x0ab");
  parcel.records[0].has_credentials = true;
  parcel.records[0].credentials = {7, 0, 4};
  EXPECT_EQ(line_of(LineFormat::kText, parcel),
            "2023-11-14T22:13:20.123456Z vm1 dev-log[7]: sshd[7]: a\\x0ab");
  parcel.records[0].kind = ParcelRecord::Kind::kHead;
  parcel.records[0].bytes = 2'000'000;
  EXPECT_EQ(line_of(LineFormat::kText, parcel),
            "2023-11-14T22:13:20.123456Z vm1 dev-log[7]~2000000: sshd[7]: a\\x0ab");
}

// Whatever the names and numbers are, what stands in front of the message has room.
TEST(LineWriter, NamesAndNumbersMayBeLong) {
  constexpr std::string_view kMost = "18446744073709551615";
  Parcel parcel = parcel_with("x", std::string(logs::kMaxName, '"'));
  ParcelRecord& record = parcel.records[0];
  record.kind = ParcelRecord::Kind::kDrop;
  record.reason = logs::DropReason::kKernelOverflow;
  record.has_credentials = true;
  record.credentials = {UINT32_MAX, UINT32_MAX, UINT32_MAX};
  record.seq = record.count = record.bytes = record.time = record.last_time = UINT64_MAX;
  const std::string vm(1000, ']');
  const std::string line = line_of(LineFormat::kRfc5424, parcel, vm);
  for (const std::string name : {"seq", "count", "bytes"}) {
    EXPECT_NE(line.find(" " + name + "=\"" + std::string(kMost) + "\""), std::string::npos) << line;
  }
  EXPECT_NE(line.find(" uid=\"4294967295\" gid=\"4294967295\" "), std::string::npos) << line;
  EXPECT_NE(line.find(" reason=\"kernel-overflow\"] "), std::string::npos) << line;
  std::string escaped;
  for (size_t i = 0; i < vm.size(); ++i) escaped += "\\]";
  EXPECT_NE(line.find("vm=\"" + escaped + "\""), std::string::npos);
  EXPECT_NE(line_of(LineFormat::kText, parcel, vm).find("[4294967295]! "), std::string::npos);
}

// Takes back what the writer escaped.
std::string unescaped(std::string_view text) {
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text.substr(i, 2) != "\\x") {
      result += text[i];
      continue;
    }
    result += static_cast<char>(std::stoi(std::string(text.substr(i + 2, 2)), nullptr, 16));
    i += 3;
  }
  return result;
}

TEST(LineWriter, NoByteOfALineEndsIt) {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  all += "\\x41 \\\\x \\n";
  for (const auto format : {LineFormat::kRfc5424, LineFormat::kJson, LineFormat::kText}) {
    const std::string line = line_of(format, parcel_with(all, "a\n]\" b"));
    for (const char c : line) {
      EXPECT_TRUE(static_cast<unsigned char>(c) >= 0x20 || c == '\t') << static_cast<int>(c);
      EXPECT_NE(c, 0x7f);
    }
  }
  const std::string line = line_of(LineFormat::kRfc5424, parcel_with(all, "a\n]\" b"));
  EXPECT_NE(line.find("vm1 a_]\"_b - - [virtproxy@32473 vm=\"vm1\" source=\"a_\\]\\\" b\" log="),
            std::string::npos)
      << line;
  EXPECT_EQ(unescaped(line.substr(line.find("] ") + 2)), all);
}

// The writer looks at many bytes at once: each byte is found at each place of such a piece.
TEST(LineWriter, AByteIsEscapedWhereverItIs) {
  const std::string plain(48, 'a');
  for (int byte = 0; byte < 256; ++byte) {
    for (size_t at = 0; at < plain.size(); ++at) {
      std::string text = plain;
      text[at] = static_cast<char>(byte);
      const bool control = (byte < 0x20 && byte != '\t') || byte == 0x7f;
      const std::string line = line_of(LineFormat::kRfc5424, parcel_with(text));
      const std::string message = line.substr(line.find("] ") + 2);
      ASSERT_EQ(message.size(), plain.size() + (control ? 3 : 0)) << byte << " at " << at;
      ASSERT_EQ(unescaped(message), text);
    }
  }
}

TEST(LineWriter, RecordsThatAreNoLines) {
  Parcel parcel = parcel_with("");
  ParcelRecord& record = parcel.records[0];
  record.kind = ParcelRecord::Kind::kDrop;
  record.reason = logs::DropReason::kKernelOverflow;
  record.count = 3;
  record.bytes = 600;
  EXPECT_EQ(
      line_of(LineFormat::kRfc5424, parcel),
      "<44>1 2023-11-14T22:13:20.123456Z vm1 dev-log - drop [virtproxy@32473 vm=\"vm1\" "
      "source=\"dev-log\" log=\"99aabbccddeeff001122334455667788\" seq=\"5\" count=\"3\" "
      "bytes=\"600\" reason=\"kernel-overflow\"] 3 lines dropped (kernel-overflow), 600 bytes");
  EXPECT_EQ(
      line_of(LineFormat::kText, parcel),
      "2023-11-14T22:13:20.123456Z vm1 dev-log! 3 lines dropped (kernel-overflow), 600 bytes");
  const std::string json = line_of(LineFormat::kJson, parcel);
  EXPECT_NE(
      json.find("\"drop\":{\"count\":3,\"bytes\":600,\"reason\":\"kernel-overflow\",\"until\":"),
      std::string::npos)
      << json;
  record.kind = ParcelRecord::Kind::kUnaccounted;
  record.time = record.last_time = 0;
  EXPECT_NE(line_of(LineFormat::kRfc5424, parcel).find("] 3 lines unaccounted, 600 bytes"),
            std::string::npos);
  record.kind = ParcelRecord::Kind::kForgotten;
  EXPECT_NE(line_of(LineFormat::kJson, parcel).find("\"forgotten\":{\"count\":3,\"bytes\":600}}"),
            std::string::npos);
  parcel = parcel_with("abc");
  parcel.records[0].kind = ParcelRecord::Kind::kHead;
  parcel.records[0].bytes = 2'000'000;
  EXPECT_NE(line_of(LineFormat::kJson, parcel).find("\"full_length\":2000000,\"message\":\"abc\""),
            std::string::npos);
}

TEST(LineWriter, PrioritiesAreThoseOfTheStandard) {
  EXPECT_EQ(split_priority("<0>x").value, 0u);
  EXPECT_EQ(split_priority("<191>x").value, 191u);
  EXPECT_EQ(split_priority("<191>x").rest, "x");
  for (const char* const none : {"<192>x", "<01>x", "<>x", "<1", "<12345>x", "<1x>", "x", ""}) {
    EXPECT_EQ(split_priority(none).value, 13u) << none;
    EXPECT_EQ(split_priority(none).rest, none);
  }
}

TEST(LineWriter, Utf8IsThatOfRfc3629) {
  for (const char* const good : {"", "a", "\xc2\x80", "\xe0\xa0\x80", "\xed\x9f\xbf",
                                 "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"}) {
    EXPECT_TRUE(is_utf8(good));
  }
  for (const char* const bad :
       {"\x80", "\xc1\xbf", "\xc2", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf",
        "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xe2\x82", "\xc3\xc3"}) {
    EXPECT_FALSE(is_utf8(bad)) << bad;
  }
}

}  // namespace
}  // namespace virtproxy
