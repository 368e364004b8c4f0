#include "compare.h"

#include <gtest/gtest.h>

#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "failure.h"
#include "options.h"
#include "report_parts.h"

namespace virtproxy::bench {
namespace {

using Json = nlohmann::ordered_json;

Json report(double rate, double cpu) {
  Json json = report_head("lines");
  json["options"] = {{"connect", "unix:/a"}, {"size", 200}};
  json["exit_code"] = 0;
  json["failure"] = nullptr;
  json["measured"] = true;
  json["lines_per_second"] = rate;
  json["processes_total"] = {{"cpu_us_per_line", cpu}};
  return json;
}

std::vector<ComparedFigure> compared(const std::string& before, const std::string& after,
                                     std::vector<std::string> figures = {}) {
  CompareOptions options;
  options.before = "A";
  options.after = "B";
  options.figures = std::move(figures);
  return compare_reports(before, after, options);
}

std::string refusal(const Json& before, const Json& after) {
  try {
    compared(before.dump(), after.dump());
  } catch (const Failure& failure) {
    return failure.what();
  }
  return "accepted";
}

TEST(Reports, AFileThatCannotBeWrittenIsFoundBeforeTheRun) {
  EXPECT_NO_THROW(check_writable("-"));
  EXPECT_NO_THROW(check_writable("no-such-report.json"));
  try {
    check_writable("/nowhere/report.json");
    FAIL() << "accepted";
  } catch (const Failure& failure) {
    EXPECT_STREQ(failure.what(), "cannot write /nowhere/report.json: No such file or directory");
  }
  try {
    check_writable(".");
    FAIL() << "accepted";
  } catch (const Failure& failure) {
    EXPECT_STREQ(failure.what(), "cannot write .: Is a directory");
  }
}

TEST(Options, WhatMeansNothingToTheModeIsRefused) {
  const auto refused = [](const char* mode, const char* option, const char* value) -> std::string {
    const char* arguments[] = {"virtproxy-bench", "run", mode,  "--connect", "tcp:127.0.0.1:1",
                               "--no-sink",       option, value};
    try {
      parse_options(std::size(arguments), const_cast<char**>(arguments));
    } catch (const Failure& failure) {
      return failure.what();
    }
    return "accepted";
  };
  EXPECT_EQ(refused("bulk", "--size", "4K"),
            "--size means nothing to bulk: give the size of its writes by --chunk");
  EXPECT_EQ(refused("idle", "--size", "4K"), "--size means nothing to idle");
  EXPECT_EQ(refused("ping-pong", "--chunk", "4K"), "--chunk means nothing to ping-pong");
  EXPECT_EQ(refused("churn", "--direction", "up"), "--direction means nothing to churn");
  EXPECT_EQ(refused("bulk", "--ping-connections", "2"), "--ping-connections means nothing to bulk");
  EXPECT_EQ(refused("mixed", "--size", "4K"), "accepted");
  EXPECT_EQ(refused("mixed", "--chunk", "4K"), "accepted");
}

TEST(Options, SayWhatIsWrongBeforeWhatIsMissing) {
  const auto refused = [](std::vector<const char*> arguments) -> std::string {
    arguments.insert(arguments.begin(), "virtproxy-bench");
    try {
      parse_options(static_cast<int>(arguments.size()), const_cast<char**>(arguments.data()));
    } catch (const Failure& failure) {
      return failure.what();
    }
    return "accepted";
  };
  EXPECT_EQ(refused({"run"}), "give a mode: bulk, churn, idle, mixed, one-way, ping-pong");
  EXPECT_EQ(refused({"run", "bulkk"}),
            "unknown mode 'bulkk' (one of bulk, churn, idle, mixed, one-way, ping-pong)");
  EXPECT_EQ(refused({"run", "bulk"}), "give --connect ADDRESS: where client ends connect to");
  EXPECT_EQ(refused({"run", "bulk", "--rat", "5"}),
            "unknown option: --rat: the nearest is --rate (--help tells more)");
  EXPECT_EQ(refused({"run", "bulk", "--duration", "1x"}),
            "--duration: '1x' is not a time such as 10, 0.5 or 500ms (--help tells more)");
  EXPECT_EQ(refused({"run", "bulk", "--connect", "tcp:127.0.0.1:1", "--no-sink", "--duration",
                     "500ms", "--warmup", "1s"}),
            "accepted");
  EXPECT_EQ(refused({"lines", "--connect", "unix-dgram:"}),
            "bad address 'unix-dgram:': the name is empty (use unix-dgram:/path or "
            "unix-dgram:@name)");
  EXPECT_EQ(refused({"lines", "--connect", "udp:127.0.0.1:1", "--framing", "octet"}),
            "--framing is for streams: a datagram is a line");
  EXPECT_EQ(refused({"lines", "--connect", "pipe:-", "--json", "-"}),
            "--connect pipe:- takes standard output for the lines: write --json to a file and "
            "leave out --interval");
}

TEST(Compare, RatiosAreTakenPairByPair) {
  const std::string before =
      report(100, 2).dump(2) + "\n" + report(200, 2).dump() + report(400, 2).dump();
  const std::string after = report(110, 2).dump() + "{\"interval\":0}\n" + report(240, 2).dump() +
                            "\n" + report(400, 3).dump(1);
  const auto figures = compared(before, after);
  ASSERT_EQ(figures.size(), 2u);
  EXPECT_EQ(figures[0].name, "lines_per_second");
  EXPECT_DOUBLE_EQ(figures[0].ratio, 1.1);
  EXPECT_DOUBLE_EQ(figures[0].least, 1.0);
  EXPECT_DOUBLE_EQ(figures[0].most, 1.2);
  EXPECT_EQ(figures[0].pairs, 3u);
  EXPECT_DOUBLE_EQ(figures[0].before, 200);
}

TEST(Compare, WorseIsMoreThanTheThresholdInTheWorseDirection) {
  const auto worse = [](double rate, double cpu) {
    const auto figures = compared(report(100, 2).dump(), report(rate, cpu).dump());
    return std::pair(figures[0].worse, figures[1].worse);
  };
  EXPECT_EQ(worse(96, 2.09), std::pair(false, false));
  EXPECT_EQ(worse(200, 1), std::pair(false, false));
  EXPECT_EQ(worse(94, 2.2), std::pair(true, true));
  const auto one = compared(report(100, 2).dump(), report(50, 2).dump(), {"cpu_us_per_line"});
  EXPECT_FALSE(one[0].worse);
}

TEST(Compare, OtherLoadsVersionsAndFailedRunsAreRefused) {
  const Json good = report(1, 1);
  EXPECT_EQ(refusal(good, good), "accepted");
  Json other = good;
  other["options"]["connect"] = "unix:/b";
  EXPECT_EQ(refusal(good, other), "accepted");
  other["options"]["size"] = 100;
  EXPECT_EQ(refusal(good, other), "these are different loads: --size is 200 in A, 100 in B");
  other = good;
  other["mode"] = "bulk";
  EXPECT_EQ(refusal(good, other), "these are different loads: A has lines, B has bulk");
  other = good;
  other["version"] = "0.1";
  EXPECT_NE(refusal(good, other).find("measure both with one"), std::string::npos);
  other = good;
  other["format"] = 2;
  EXPECT_EQ(refusal(good, other), "B: its format is 2, this program compares format 1");
  other = good;
  other["exit_code"] = 5;
  other["failure"] = "lost";
  EXPECT_EQ(refusal(other, good), "A: this run failed: lost");
  EXPECT_NE(refusal(Json::object(), good).find("no report of virtproxy-bench"), std::string::npos);
  EXPECT_THROW(compared("", good.dump()), Failure);
  EXPECT_THROW(compared("{\"tool\":", good.dump()), Failure);
  EXPECT_THROW(compared("{tool}", good.dump()), Failure);
  EXPECT_THROW(compared(good.dump(), good.dump() + good.dump()), Failure);
  EXPECT_THROW(compared(good.dump(), good.dump(), {"latency_p50"}), Failure);
}

}  // namespace
}  // namespace virtproxy::bench
