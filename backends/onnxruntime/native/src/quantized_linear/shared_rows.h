// Rows that threads make together before any multiplies them, inside of one loop: handing a loop over takes longer than
// a few rows do.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>

namespace optcc::quantized_linear {

// Rows in blocks: who multiplies a block waits for its rows alone.
class SharedRows {
 public:
  SharedRows(int64_t rows, int64_t block)
      : rows_(rows), block_(block), others_(rows > block ? new Block[static_cast<size_t>((rows - 1) / block)] : nullptr) {}

  // Whether all rows of the block that begins with a row are made.
  bool done(int64_t begin) { return made(begin, of(begin)); }

  // On return they are: those that nobody has taken yet by make(first, end) here. While others make theirs `meanwhile`
  // is called. Only what a running thread took is waited for, so that any number of threads, one too, comes to an end.
  template <class Make, class Meanwhile>
  void finish(int64_t begin, const Make& make, const Meanwhile& meanwhile) {
    Block& block = of(begin);
    const int64_t count = count_of(begin), each = std::clamp<int64_t>(count / 4, 1, 16);
    for (int64_t first; (first = block.taken.fetch_add(each, std::memory_order_relaxed)) < count;) {
      const int64_t end = std::min(count, first + each);
      make(begin + first, begin + end);
      block.made.fetch_add(end - first, std::memory_order_acq_rel);
    }
    while (!made(begin, block)) meanwhile();
  }

 private:
  struct Block {
    alignas(64) std::atomic<int64_t> taken{0};
    alignas(64) std::atomic<int64_t> made{0};
  };

  Block& of(int64_t begin) { return begin == 0 ? first_ : others_[static_cast<size_t>(begin / block_ - 1)]; }
  int64_t count_of(int64_t begin) const { return std::min(block_, rows_ - begin); }
  bool made(int64_t begin, const Block& block) const {
    return block.made.load(std::memory_order_acquire) == count_of(begin);
  }

  const int64_t rows_, block_;
  Block first_;
  std::unique_ptr<Block[]> others_;
};

}  // namespace optcc::quantized_linear
