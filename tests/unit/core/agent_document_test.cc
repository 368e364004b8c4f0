// The examples of core/agent/PROTOCOL.md, and that its tables name every method.
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "core/agent/conversation.h"
#include "core/agent/method_table.h"

namespace virtproxy::agent {
namespace {

std::string document() {
  std::ifstream file(VIRTPROXY_SOURCE_DIR "/core/agent/PROTOCOL.md");
  EXPECT_TRUE(file);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

void replace(std::string& text, const std::string& from, const std::string& to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
    text.replace(at, from.size(), to);
  }
}

// What a guest with the default methods answers.
std::string answer_of(const std::string& line) {
  Conversation conversation({}, guest_pace);
  const Guard guard;
  const std::string text = line + "\n";
  auto bytes = std::as_bytes(std::span(text.data(), text.size()));
  while (!bytes.empty()) {
    const size_t taken = conversation.receive(bytes, Instant{1});
    EXPECT_GT(taken, 0u);
    bytes = bytes.subspan(taken);
    for (const Notice& notice : conversation.take_notices()) {
      if (notice.kind != Notice::Kind::kRequest) continue;
      const auto row = guard.check(notice.name, notice.body, Source::kPort);
      conversation.answer(notice.token,
                          row ? Result(Json::object()) : Result(tl::unexpected(row.error())),
                          Instant{1});
    }
  }
  return std::string(conversation.pending());
}

// Without what is for people.
std::string without_text(std::string line) {
  const size_t at = line.find("\"desc\":\"");
  if (at == std::string::npos) return line;
  const size_t begin = at + 8;
  return line.substr(0, begin) + "…" + line.substr(line.find('"', begin));
}

TEST(AgentDocument, ItsExamplesAreWhatTheCodeAnswers) {
  std::istringstream lines(document());
  bool example = false;
  int checked = 0;
  std::string answer;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("```")) {
      example = line.starts_with("```lines");
      continue;
    }
    if (!example) continue;
    SCOPED_TRACE(line);
    ASSERT_GT(line.size(), 2u);
    std::string rest = line.substr(2);
    replace(rest, "\\xff", "\xff");
    if (line[0] == '>') {
      answer = answer_of(rest);
      continue;
    }
    EXPECT_EQ(without_text(answer), rest + "\n");
    ++checked;
  }
  EXPECT_EQ(checked, 10);
}

TEST(AgentDocument, EveryMethodHasItsRow) {
  std::string text = document();
  // Families are written with the first name in full.
  for (const auto& [family, names] : std::vector<std::pair<std::string, std::vector<std::string>>>{
           {"guest-get-host-name, -osinfo, -timezone, -users, -load, -vcpus",
            {"guest-get-osinfo", "guest-get-timezone", "guest-get-users", "guest-get-load",
             "guest-get-vcpus"}},
           {"guest-file-seek, -flush, -close", {"guest-file-flush", "guest-file-close"}},
           {"guest-fsfreeze-status, -freeze, -thaw",
            {"guest-fsfreeze-freeze", "guest-fsfreeze-thaw"}}}) {
    ASSERT_NE(text.find("| " + family + " |"), std::string::npos) << family;
    for (const std::string& name : names) text += "| " + name + " |";
  }
  for (const Role role : {Role::kGuest, Role::kHost}) {
    for (const MethodRow& row : methods_of(role)) {
      const std::string name(row.name);
      const bool found = text.find("| " + name + " |") != std::string::npos ||
                         text.find("| " + name + ",") != std::string::npos ||
                         text.find(", " + name + " |") != std::string::npos ||
                         text.find(", " + name + ",") != std::string::npos;
      EXPECT_TRUE(found) << name;
    }
  }
}

}  // namespace
}  // namespace virtproxy::agent
