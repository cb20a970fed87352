// What a part of a product will read and write, asked for before it does.
#pragma once

#include <algorithm>

#include "kernel.h"

namespace optcc::quantized_linear {

constexpr int64_t kSoon = 1 << 16;  // bytes of one array that are asked for before the first of them is used

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

// Asks for what is about to be read.
template <class T>
void ask(const T* from, int64_t count) {
  const char *at = reinterpret_cast<const char*>(from), *end = reinterpret_cast<const char*>(from + count);
  for (; at < end; at += 64) __builtin_prefetch(at, 0, 2);
}

// Asks for what is about to be written: another core may have used those lines last, and stores wait for one after
// the other.
template <class T>
void ask_to_write(const T* to, int64_t count) {
  const char *at = reinterpret_cast<const char*>(to), *end = reinterpret_cast<const char*>(to + count);
  for (; at < end; at += 64) {
#if defined(__x86_64__) || defined(__i386__)
    asm volatile("prefetchw %0" : : "m"(*at));  // the compiler has it for some instruction sets only
#else
    __builtin_prefetch(at, 1);
#endif
  }
}

}  // namespace optcc::quantized_linear
