#pragma once

#include <cstddef>
#include <cstdint>

namespace virtproxy {

// Interactive goes before normal, normal before bulk; none of them can starve another.
enum class Priority : uint8_t { kInteractive, kNormal, kBulk };
inline constexpr size_t kPriorities = 3;

}  // namespace virtproxy
