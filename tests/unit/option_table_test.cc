// The option table, and what the documents say that is made from it.
#include "uring/daemon/option_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>
#include <string>

#include "uring/daemon/options.h"

namespace virtproxy {
namespace {

using namespace option_scope;

std::string read_file(const std::string& name) {
  std::ifstream file(std::string(VIRTPROXY_SOURCE_DIR) + "/" + name);
  std::stringstream text;
  text << file.rdbuf();
  EXPECT_TRUE(file) << name;
  return text.str();
}

std::string between(const std::string& text, const std::string& begin, const std::string& end) {
  const size_t from = text.find(begin);
  if (from == std::string::npos) return "no " + begin;
  const size_t to = text.find(end, from + begin.size());
  return text.substr(from + begin.size(), to - from - begin.size());
}

TEST(OptionTableTest, NamesAreUniqueOnTheCommandLineAndInEachTable) {
  for (const unsigned scope : {kCommandLine, kProcess, kChannel, kListen, kOffer, kShip, kDefaults}) {
    std::set<std::string_view> names;
    for (const OptionRow& row : option_table()) {
      if (!row.in(scope)) continue;
      EXPECT_TRUE(names.insert(scope == kCommandLine ? row.name : row.file_key()).second)
          << row.name;
    }
  }
}

TEST(OptionTableTest, EveryRowIsComplete) {
  for (const OptionRow& row : option_table()) {
    EXPECT_FALSE(row.help.empty()) << row.name;
    EXPECT_NE(row.scopes, 0U) << row.name;
    EXPECT_EQ(row.read == nullptr, row.show == nullptr) << row.name;
    const bool has_member = row.kind != OptionKind::kArgument && row.kind != OptionKind::kAction;
    EXPECT_EQ(row.read != nullptr, has_member) << row.name;
    const bool ranged = row.kind <= OptionKind::kSeconds;
    EXPECT_EQ(row.most > 0, ranged) << row.name;
    EXPECT_LT(row.least, row.most + (ranged ? 0 : 1)) << row.name;
  }
}

// Each default is a value that the option takes, and shows as it was read.
TEST(OptionTableTest, DefaultsCanBeGiven) {
  for (const OptionRow& row : option_table()) {
    if (row.show == nullptr) continue;
    const auto shown = row.show(row, {}, {});
    if (shown.empty()) continue;
    ProcessSettings process;
    ChannelSettings channel;
    const auto fault = row.read(row, row.name, shown, process, channel);
    EXPECT_FALSE(fault) << row.name << ": " << (fault ? fault->what : "");
    EXPECT_EQ(row.show(row, process, channel), shown) << row.name;
  }
}

TEST(OptionTableTest, HelpHasEveryOptionAndFits) {
  const std::string help = help_text("virtproxy");
  for (const OptionRow& row : option_table()) {
    const bool there = help.find("  " + row.spelling() + " ") != std::string::npos ||
                       help.find("  " + row.spelling() + "\n") != std::string::npos;
    EXPECT_EQ(there, row.in(kCommandLine) || row.name == "memory") << row.name;
  }
  std::istringstream lines(help);
  for (std::string line; std::getline(lines, line);) {
    EXPECT_LE(line.size(), 100U) << line;
    EXPECT_FALSE(line.ends_with(' ')) << line;
  }
}

// The table of keys in OPERATING.md.
std::string key_list() {
  std::string text = "\n| key | in | value | default | command line |\n|---|---|---|---|---|\n";
  for (const OptionRow& row : option_table()) {
    if (row.read == nullptr) continue;
    std::string where;
    const auto add = [&](std::string_view name) {
      where += (where.empty() ? "" : ", ") + std::string(name);
    };
    if (row.in(kProcess)) add("process");
    if (row.in(kChannel | kListen | kOffer)) add("channel");
    if (row.in(kListen)) add("listen");
    if (row.in(kOffer)) add("offer");
    if (row.in(kShip)) add("ship");
    if (row.in(option_scope::kCollect)) add("collect");
    std::string value = row.is_flag() ? "true or false" : std::string(row.unit);
    if (row.kind == OptionKind::kSwitch) value = "true or false";
    if (row.is_list()) value = "list of " + value.substr(0, value.find(','));
    for (size_t at = 0; (at = value.find('|', at)) != std::string::npos; at += 2) {
      value.replace(at, 1, "\\|");
    }
    std::string fallback = row.shown_default();
    if (row.kind == OptionKind::kSwitch) {
      fallback = row.show(row, {}, {}).front() == "on" ? "true" : "false";
    }
    text += "| `" + std::string(row.file_key()) + "` | " + where + " | " + value + " | " +
            fallback + " | " +
            (row.in(kCommandLine) ? "`--" + std::string(row.name) + "`" : std::string()) + " |\n";
  }
  return text + "\n";
}

TEST(OptionTableTest, TheManualListsEveryKey) {
  const std::string manual = read_file("uring/daemon/OPERATING.md");
  const std::string list =
      between(manual, "<!-- keys: made from the option table -->\n", "<!-- end of keys -->");
  EXPECT_EQ(list, key_list()) << "replace the list in OPERATING.md by this one:\n" << key_list();
}

TEST(OptionTableTest, TheExamplesOfTheManualAreGood) {
  const std::string manual = read_file("uring/daemon/OPERATING.md");
  std::vector<std::string> examples;
  for (size_t at = 0; (at = manual.find("```toml\n", at)) != std::string::npos;) {
    at += 8;
    const size_t end = manual.find("```", at);
    examples.push_back(manual.substr(at, end - at));
  }
  ASSERT_EQ(examples.size(), 2U);
  for (const std::string& example : examples) {
    const char* const argv[] = {"virtproxy", "--config", "virtproxy.toml"};
    const auto options = parse_options(3, argv, [&](const std::string& path) {
      return std::vector<ConfigText>{{path, example}};
    });
    EXPECT_TRUE(options) << options.error().text;
  }
}

}  // namespace
}  // namespace virtproxy
