// What a part of a product will read and write, asked for before it does.
#pragma once

#include <algorithm>

#include "kernel.h"

namespace optcc::quantized_linear {

constexpr int64_t kSoon = 1 << 16;  // bytes of its first tiles that a thread asks for while it waits

// Tells the processor that this thread waits.
inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// What a part and those behind it read from the table, line by line.
class Soon {
 public:
  Soon(const Layout& layout, const uint8_t* table, const Part& part)
      : streams_(part.apart == 1 ? 1 : part.tiles),
        apart_(part.apart * static_cast<int64_t>(layout.tile_bytes)),
        at_(table + part.first_tile * static_cast<int64_t>(layout.tile_bytes)),
        end_(std::min(at_ + kSoon / streams_,
                      table + (layout.tiles - (streams_ - 1) * part.apart) * static_cast<int64_t>(layout.tile_bytes))) {
  }

  void ask() {
    if (at_ >= end_) return relax();
    for (int64_t i = 0; i < streams_; i++) __builtin_prefetch(at_ + i * apart_, 0, 2);
    at_ += 64;
  }

 private:
  int64_t streams_, apart_;
  const uint8_t *at_, *end_;
};

// Asks for where the first `tiles` tiles of a part's results go, `row` floats from one row to the next: another core may
// have written those lines last, and stores wait for one line after the other.
inline void ask_to_write(const float* y, const Part& part, int64_t row, int64_t tiles) {
  for (int64_t r = part.first_row; r < part.last_row; r++, y += row)
    for (int64_t t = 0; t < tiles; t++) {
#if defined(__x86_64__) || defined(__i386__)
      asm volatile("prefetchw %0" : : "m"(y[t * kTile]));  // the compiler has it for some instruction sets only
#else
      __builtin_prefetch(y + t * kTile, 1);
#endif
    }
}

}  // namespace optcc::quantized_linear
