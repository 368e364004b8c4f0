// A stream's life in steps, for tests of what may happen at every stage of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>

#include "tests/unit/core/pair.h"

namespace virtproxy::test {

// A test lets some of these steps happen, and then resets the stream or breaks it off at one end or
// at both.
using Step = void (*)(Pair&, uint64_t);
inline constexpr Step kLife[] = {
    [](Pair& p, uint64_t) { p.a.write(1 << 20, p.now); },
    [](Pair& p, uint64_t) { p.carry(p.a, p.b, SIZE_MAX); },
    [](Pair& p, uint64_t id) { p.a.queue(id, 3000); },
    [](Pair& p, uint64_t) { p.a.write(1500, p.now); },
    [](Pair& p, uint64_t) { p.carry(p.a, p.b, 100); },
    [](Pair& p, uint64_t) { p.a.write(1 << 20, p.now); },
    [](Pair& p, uint64_t) { p.carry(p.a, p.b, 100); },
    [](Pair& p, uint64_t) { p.carry(p.a, p.b, SIZE_MAX); },
    [](Pair& p, uint64_t id) {
      if (p.b.open_here(id)) p.b.queue(id, 3000);
    },
    [](Pair& p, uint64_t id) { p.a.end(id); },
    [](Pair& p, uint64_t) { p.a.write(1 << 20, p.now); },
    [](Pair& p, uint64_t) { p.b.write(1 << 20, p.now); },
    [](Pair& p, uint64_t) { p.carry(p.a, p.b, SIZE_MAX); },
    [](Pair& p, uint64_t id) {
      if (p.b.open_here(id)) p.b.take(id, 1000);
    },
    [](Pair& p, uint64_t) { p.carry(p.b, p.a, SIZE_MAX); },
    [](Pair& p, uint64_t id) {
      if (p.b.open_here(id)) p.b.end(id);
    },
    [](Pair& p, uint64_t id) {
      if (p.b.open_here(id)) p.b.take(id, UINT64_MAX);
    },
    [](Pair& p, uint64_t) { p.b.write(1 << 20, p.now); },
    [](Pair& p, uint64_t) { p.carry(p.b, p.a, SIZE_MAX); },
    [](Pair& p, uint64_t) { p.a.write(1 << 20, p.now); },
    [](Pair& p, uint64_t) { p.carry(p.a, p.b, SIZE_MAX); },
};
inline constexpr size_t kSteps = std::size(kLife);

}  // namespace virtproxy::test
