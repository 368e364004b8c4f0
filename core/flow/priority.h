#pragma once

#include <cstddef>
#include <cstdint>

namespace virtproxy {

// Interactive is sent before normal, normal before bulk. None can starve another (scheduler.h).
enum class Priority : uint8_t { kInteractive, kNormal, kBulk };
inline constexpr size_t kPriorities = 3;

}  // namespace virtproxy
