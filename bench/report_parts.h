// The parts of a report that every load has.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "failure.h"
#include "histogram.h"
#include "result.h"

namespace virtproxy::bench {

// Of the layout of reports; `compare` takes no other.
inline constexpr int kReportFormat = 1;

// "  label         text", a row of the table.
void add_row(std::string& out, std::string_view label, std::string_view text);
std::string bytes_text(double bytes);
std::string time_text(uint64_t ns);
// "p50 … p90 … p99 … max …".
std::string percentiles_text(const Histogram& histogram);
void add_noise(const NoiseResult& noise, std::string& out);

// {"tool", "format", "version", "date", "machine", "mode"}.
nlohmann::ordered_json report_head(std::string_view mode);
nlohmann::ordered_json histogram_json(const Histogram& histogram);
nlohmann::ordered_json process_json(const ProcessResult& process);
nlohmann::ordered_json noise_json(const NoiseResult& noise);

// Throws Failure if a report could not be written to `path`: before a run, so that none is lost.
void check_writable(const std::string& path);
// One line if `compact`. "-" is standard output. Throws Failure.
void write_report(const nlohmann::ordered_json& report, const std::string& path, bool compact);

}  // namespace virtproxy::bench
