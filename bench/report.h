#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "plan.h"
#include "result.h"

namespace virtproxy::bench {

// The table for people.
std::string format_table(const Plan& plan, const RunResult& result);

// The same figures for machines; the layout is described in README.md.
nlohmann::ordered_json make_json(const Plan& plan, const RunResult& result);

}  // namespace virtproxy::bench
