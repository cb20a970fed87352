// How many threads come to loops, which an operator isn't told.

#pragma once

#include <stddef.h>
#include <stdint.h>

#include <algorithm>
#include <atomic>
#include <thread>

namespace optcc {

// As far as any loop of this process has seen.
class Crowd {
 public:
  static size_t seen() { return most_.load(std::memory_order_relaxed); }
  // What a loop is offered to: twice as many, so that more are seen where there are more.
  static size_t offered() {
    static const size_t processors = std::max(1u, std::thread::hardware_concurrency());
    return std::min(processors, 2 * seen());
  }
  static void saw(size_t count) {
    if (count > seen()) most_.store(count, std::memory_order_relaxed);
  }

 private:
  static inline std::atomic<size_t> most_{1};
};

// Those that come to one loop.
class Roll {
 public:
  // Of a thread that is in the loop, as often as it likes.
  void call() {
    if (answered_ == number_) return;
    answered_ = number_;
    Crowd::saw(1 + present_.fetch_add(1, std::memory_order_relaxed));
  }

 private:
  static inline std::atomic<uint64_t> loops_{0};
  static inline thread_local uint64_t answered_ = 0;
  const uint64_t number_ = 1 + loops_.fetch_add(1, std::memory_order_relaxed);
  std::atomic<size_t> present_{0};
};

}  // namespace optcc
