// `virtproxy-bench compare A.json B.json`: how B's figures relate to A's.
//
// A file holds the report of one run, or of several, one behind the other. Reports of several runs
// are taken in pairs, first with first, and the spread of a ratio is that over the pairs.
#pragma once

#include <string>
#include <vector>

#include "failure.h"

namespace virtproxy::bench {

struct CompareOptions {
  std::string before;
  std::string after;
  double threshold = 0.05;           // how much worse a figure may be, as a share
  std::vector<std::string> figures;  // those that judge; none given: all
  bool json = false;
};

// One figure of a load.
struct ComparedFigure {
  std::string name;
  bool lower_is_better = false;
  double before = 0;  // medians
  double after = 0;
  double ratio = 0;  // median of after / before, pair by pair
  double least = 0;
  double most = 0;
  size_t pairs = 0;
  bool worse = false;
};

// Throws Failure(kUsage) for what cannot be compared: other loads, other options, other versions,
// failed runs.
std::vector<ComparedFigure> compare_reports(const std::string& before, const std::string& after,
                                            const CompareOptions& options);

// Prints the table. kOk, or kWorse when a figure that judges is worse than the threshold.
Outcome compare(const CompareOptions& options);

}  // namespace virtproxy::bench
