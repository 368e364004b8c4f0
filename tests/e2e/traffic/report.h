// Results: one JSON object per line on standard output, failures as lines on standard error.

#ifndef VIRTPROXY_TESTS_E2E_TRAFFIC_REPORT_H_
#define VIRTPROXY_TESTS_E2E_TRAFFIC_REPORT_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace virtproxy::traffic {

class Json {
 public:
  Json& Set(std::string_view key, std::string_view value);
  Json& Set(std::string_view key, const char* value) { return Set(key, std::string_view(value)); }
  Json& Set(std::string_view key, double value);
  Json& Set(std::string_view key, uint64_t value) { return Raw(key, std::to_string(value)); }
  Json& Set(std::string_view key, bool value) { return Raw(key, value ? "true" : "false"); }
  Json& Set(std::string_view key, const Json& value) { return Raw(key, value.Text()); }

  std::string Text() const { return "{" + body_ + "}"; }
  // Writes the line and flushes it: a harness waits for it.
  void Print() const;

 private:
  Json& Raw(std::string_view key, std::string_view value);
  std::string body_;
};

// One line on standard error, with the program's name in front.
void Complain(const std::string& text);

// Collected latencies, all kept: the largest one is what matters.
class Latencies {
 public:
  void Add(double ms) { values_.push_back(ms); }
  size_t Count() const { return values_.size(); }
  Json Summary() const;

 private:
  std::vector<double> values_;
};

}  // namespace virtproxy::traffic

#endif  // VIRTPROXY_TESTS_E2E_TRAFFIC_REPORT_H_
