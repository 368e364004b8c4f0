// Reads configuration files from the file system.
#pragma once

#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "uring/daemon/config_tree.h"

namespace virtproxy {

// FILE, and then the files *.toml of the directory conf.d beside it in the order of their names. A
// directory that is not there holds none. Every file that cannot be read is one problem.
tl::expected<std::vector<ConfigText>, std::vector<Problem>> read_config_files(
    const std::string& path);

}  // namespace virtproxy
