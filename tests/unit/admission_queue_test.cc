#include "uring/mux/admission_queue.h"

#include <gtest/gtest.h>

namespace virtproxy {
namespace {

using std::chrono::seconds;

std::vector<int> take_all(AdmissionQueue& queue) {
  std::vector<int> taken;
  while (const auto client = queue.take()) taken.push_back(client->number);
  return taken;
}

TEST(AdmissionQueue, KeepsTheOrderInWhichClientsCame) {
  AdmissionQueue queue(10);
  for (int fd = 1; fd <= 3; ++fd) EXPECT_TRUE(queue.push({.number = fd}));
  EXPECT_EQ(take_all(queue), (std::vector{1, 2, 3}));
  EXPECT_TRUE(queue.empty());

  for (int fd = 1; fd <= 3; ++fd) EXPECT_TRUE(queue.push({.number = fd}));
  queue.hold_new(seconds(5));
  EXPECT_TRUE(queue.push({.number = 4}));
  EXPECT_EQ(take_all(queue), (std::vector{1, 2, 3, 4}));
}

TEST(AdmissionQueue, IsBounded) {
  AdmissionQueue queue(2);
  EXPECT_TRUE(queue.push({.number = 1}));
  queue.hold_new(seconds(5));
  EXPECT_TRUE(queue.push({.number = 2}));
  EXPECT_FALSE(queue.push({.number = 3}));
  queue.put_back({.number = 4}, seconds(5));
  EXPECT_EQ(queue.size(), 3u);
  EXPECT_TRUE(queue.take());
  EXPECT_FALSE(queue.push({.number = 3}));
  EXPECT_TRUE(queue.take());
  EXPECT_TRUE(queue.push({.number = 3}));
}

TEST(AdmissionQueue, ClientsThatWereNeverHeldAreNotOverdue) {
  AdmissionQueue queue(10);
  queue.push({.number = 1});
  EXPECT_FALSE(queue.deadline());
  EXPECT_FALSE(queue.take_overdue(seconds(1000)));
  const auto client = queue.take();
  ASSERT_TRUE(client);
  EXPECT_FALSE(client->held_until);
}

TEST(AdmissionQueue, ALimitHoldsAcrossPuttingBack) {
  AdmissionQueue queue(10);
  queue.push({.number = 1});
  queue.hold_new(seconds(5));
  const auto patient = queue.take();
  ASSERT_TRUE(patient);
  EXPECT_EQ(patient->held_until, seconds(5));

  // Another came meanwhile; the one that was put back is still the first to go.
  queue.push({.number = 2});
  queue.hold_new(seconds(8));
  queue.put_back(*patient, seconds(9));
  EXPECT_EQ(queue.deadline(), seconds(5));
  EXPECT_FALSE(queue.take_overdue(seconds(4)));
  const auto overdue = queue.take_overdue(seconds(5));
  ASSERT_TRUE(overdue);
  EXPECT_EQ(overdue->number, 1);
  EXPECT_FALSE(queue.take_overdue(seconds(5)));
  EXPECT_EQ(queue.deadline(), seconds(8));
}

}  // namespace
}  // namespace virtproxy
