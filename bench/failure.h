#pragma once

#include <stdexcept>
#include <string>

namespace virtproxy::bench {

// What the exit status of the program says.
enum class Outcome {
  kOk = 0,
  kConnectFailed = 1,
  kWorse = 1,  // of `compare`
  kUsage = 2,
  kStalled = 3,
  kCorrupted = 4,
  kLost = 5,  // a connection that worked ended before its time
  kInterrupted = 130,
};

// A condition that ends the program; thrown during set-up only, never while load runs.
class Failure : public std::runtime_error {
 public:
  Failure(Outcome outcome, const std::string& text) : std::runtime_error(text), outcome_(outcome) {}
  Outcome outcome() const { return outcome_; }

 private:
  Outcome outcome_;
};

// "cannot read PATH: REASON" or "cannot write PATH: REASON", with the reason of errno.
Failure file_failure(const char* what, const std::string& path);

}  // namespace virtproxy::bench
