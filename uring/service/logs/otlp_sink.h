// Lines to an OpenTelemetry collector, or whatever takes OTLP over HTTP: protobuf to /v1/logs
// (github.com/open-telemetry/opentelemetry-proto, docs/specification.md). Safe is what was answered
// with 200.
//
// One request is under way at a time. What is refused with 400, 413 or 422 is sent again in smaller
// parts, and at last a record alone: that one is refused for good. Any other status leads to the
// same request again, after Retry-After where that is given.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "uring/service/logs/linked_sink.h"
#include "uring/service/logs/sent_parcels.h"

namespace virtproxy {

class OtlpSink final : public LinkedSink {
 public:
  explicit OtlpSink(const SinkSpec& spec) : LinkedSink(spec) {}

  bool has_room() const override { return parcels_.bytes() < kWindow; }
  void take(const ParcelView& view) override;
  void flush() override;
  uint64_t safe() const override { return parcels_.safe(); }
  std::vector<RefusedLine> take_refused() override { return parcels_.take_refused(); }

 private:
  static constexpr size_t kWindow = 4u << 20;
  // Of a request, before the record that exceeds them.
  static constexpr size_t kMostRecords = 8192;
  static constexpr size_t kMostBytes = 1u << 20;

  void link_up() override;
  void link_received(std::string_view bytes) override;
  void link_sent() override {}
  void lost() override;
  // The answer is overdue, or the pause before the next request is over.
  void expired(Timer& timer) override;
  std::string request_body();
  void on_response(unsigned status, std::string_view retry_after, std::string_view body);
  void pause(Duration time);

  SentParcels parcels_;
  std::map<size_t, std::string> vms_;  // their names, by their numbers
  enum class State : uint8_t { kDown, kReady, kAsked, kPaused } state_ = State::kDown;
  size_t limit_ = kMostRecords;
  Duration backoff_{};
  unsigned reported_ = 0;  // the status that the log has
  std::string input_;
};

}  // namespace virtproxy
