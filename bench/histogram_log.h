// Histograms in the log format of HdrHistogram (hdrhistogram.org, "histogram log format
// version 1.3"), which its tools plot and add up: a line for each interval, the counts as zlib and
// base64 of the V2 encoding.
//
// The buckets of Histogram are those of an HdrHistogram for values from 1 with two significant
// digits: 256 of width 1, then 128 for each power of two, in the same order. So the counts are
// written as they are.
#pragma once

#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "histogram.h"

namespace virtproxy::bench {

// The V2 encoding, compressed, before base64. Throws Failure when memory is short.
std::vector<uint8_t> encode_histogram(const Histogram& histogram);

std::string base64(const std::vector<uint8_t>& bytes);

class HistogramLog {
 public:
  // Creates the file, or empties it. `start_seconds`: time of day of the run's beginning. Throws
  // Failure.
  HistogramLog(const std::string& path, double start_seconds);

  // Values are nanoseconds; the interval's largest is written in milliseconds, as the format's
  // tools expect.
  void add(double since_start, double seconds, const Histogram& histogram);
  // Throws Failure when something could not be written.
  void close();

 private:
  std::string path_;
  std::ofstream file_;
};

}  // namespace virtproxy::bench
