// Rows that all threads make before any multiplies them, inside of one loop: handing a loop over takes longer than a
// few rows do.
#pragma once

#include <algorithm>
#include <atomic>

namespace optcc::quantized_linear {

class SharedRows {
 public:
  explicit SharedRows(int64_t rows) : rows_(rows), each_(std::clamp<int64_t>(rows / 4, 1, 16)) {}

  bool done() const { return made_.load(std::memory_order_acquire) == rows_; }

  // On return all rows are made: those that nobody has taken yet by make(first, end) here. While others make theirs
  // `meanwhile` is called. Only what a running thread took is waited for, so that any number of threads, one too,
  // comes to an end.
  template <class Make, class Meanwhile>
  void finish(const Make& make, const Meanwhile& meanwhile) {
    for (int64_t first; (first = taken_.fetch_add(each_, std::memory_order_relaxed)) < rows_;) {
      const int64_t end = std::min(rows_, first + each_);
      make(first, end);
      made_.fetch_add(end - first, std::memory_order_acq_rel);
    }
    while (!done()) meanwhile();
  }

 private:
  const int64_t rows_, each_;
  alignas(64) std::atomic<int64_t> taken_{0};
  alignas(64) std::atomic<int64_t> made_{0};
};

}  // namespace optcc::quantized_linear
