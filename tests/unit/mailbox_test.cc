#include "uring/base/mailbox.h"

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <thread>
#include <vector>

namespace virtproxy {
namespace {

TEST(MailboxTest, RunsTasksInTheirOrder) {
  Mailbox mailbox;
  std::vector<int> run;
  mailbox.post([&] {
    run.push_back(1);
    mailbox.post([&] { run.push_back(3); });
  });
  mailbox.post([&] { run.push_back(2); });
  mailbox.run();
  EXPECT_EQ(run, (std::vector<int>{1, 2}));
  mailbox.run();
  EXPECT_EQ(run, (std::vector<int>{1, 2, 3}));
}

TEST(MailboxTest, DestroysWhatItsOwnerDoesNotRun) {
  Mailbox mailbox;
  const auto held = std::make_shared<int>(0);
  mailbox.post([held] { ++*held; });
  mailbox.close();
  EXPECT_EQ(held.use_count(), 1);
  mailbox.post([held] { ++*held; });
  EXPECT_EQ(held.use_count(), 1);
  mailbox.run();
  EXPECT_EQ(*held, 0);
}

// What is destroyed may post to the mailbox that destroys it.
TEST(MailboxTest, ATaskMayAskAgainWhenItIsDestroyed) {
  const auto mailbox = std::make_shared<Mailbox>();
  mailbox->post([answer = std::make_shared<Answer<int>>(mailbox, [](std::optional<int>) {})] {});
  mailbox->close();
  mailbox->post([answer = std::make_shared<Answer<int>>(mailbox, [](std::optional<int>) {})] {});
}

TEST(AnswerTest, ComesOnceWithWhatWasGiven) {
  const auto mailbox = std::make_shared<Mailbox>();
  Mailbox worker;
  std::vector<std::optional<int>> heard;
  const auto ask = [&](bool answers) {
    const auto answer = std::make_shared<Answer<int>>(
        mailbox, [&](std::optional<int> part) { heard.push_back(part); });
    worker.post([answer, answers] {
      if (answers) answer->give(7);
    });
  };
  ask(true);
  ask(false);
  std::thread([&] { worker.run(); }).join();
  EXPECT_TRUE(heard.empty());
  mailbox->run();
  EXPECT_EQ(heard, (std::vector<std::optional<int>>{7, std::nullopt}));
}

TEST(GatherTest, EndsThoughAnOwnerHasEnded) {
  const auto mailbox = std::make_shared<Mailbox>();
  std::vector<std::unique_ptr<Mailbox>> workers(3);
  for (auto& worker : workers) worker = std::make_unique<Mailbox>();
  workers[1]->close();
  std::vector<std::vector<int>> heard;
  gather<int>(
      mailbox, workers.size(),
      [&](size_t i, std::shared_ptr<Answer<int>> answer) {
        workers[i]->post(
            [i, answer = std::move(answer)] { answer->give(static_cast<int>(10 + i)); });
      },
      [&](std::vector<int> parts) { heard.push_back(std::move(parts)); });
  workers[0]->run();
  mailbox->run();
  EXPECT_TRUE(heard.empty());
  // It ends while the question waits.
  workers[2]->close();
  mailbox->run();
  EXPECT_EQ(heard, (std::vector<std::vector<int>>{{10, 0, 0}}));
}

TEST(GatherTest, OfNobodyEndsAtOnce) {
  size_t calls = 0;
  gather<int>(
      std::make_shared<Mailbox>(), 0, [](size_t, const std::shared_ptr<Answer<int>>&) {},
      [&](const std::vector<int>& parts) { calls += 1 + parts.size(); });
  EXPECT_EQ(calls, 1u);
}

}  // namespace
}  // namespace virtproxy
