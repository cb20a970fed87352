// What one call adds to which requests.

#pragma once

#include <stdint.h>

#include <vector>

namespace optcc {

// Where each request's tokens, keys and pages are.
struct Step {
  const int32_t *starts, *lengths, *table;
  int64_t requests, columns;
  int64_t blocks;  // of the pool

  int64_t count(int64_t r) const { return starts[r + 1] - starts[r]; }
  int64_t position(int64_t r) const { return lengths[r] - count(r); }
  const int32_t* pages(int64_t r) const { return table + r * columns; }
  // How many pages a request uses, and the first one that the step writes to.
  int64_t page_count(int64_t r, int64_t block) const { return count(r) == 0 ? 0 : (lengths[r] + block - 1) / block; }
  int64_t first_written(int64_t r, int64_t block) const { return count(r) == 0 ? 0 : position(r) / block; }
};

// Whether a request sees a page that the step writes to for another one. `blocks` is the pool's size.
inline bool shares_new_pages(const Step& step, int64_t block, int64_t blocks) {
  // Of each block, the request that writes to it, from 1 on; all 0 between calls.
  thread_local std::vector<int64_t> writers;
  if (writers.size() < static_cast<size_t>(blocks)) writers.resize(static_cast<size_t>(blocks));
  const auto writer = [&](int64_t r, int64_t page) -> int64_t& {
    return writers[static_cast<size_t>(step.pages(r)[page])];
  };
  bool found = false;
  for (int64_t r = 0; r < step.requests; ++r)
    for (int64_t i = step.first_written(r, block); i < step.page_count(r, block); ++i) {
      found |= writer(r, i) != 0;
      writer(r, i) = r + 1;
    }
  for (int64_t r = 0; r < step.requests; ++r)
    for (int64_t i = 0; i < step.first_written(r, block); ++i) found |= writer(r, i) != 0;
  for (int64_t r = 0; r < step.requests; ++r)
    for (int64_t i = step.first_written(r, block); i < step.page_count(r, block); ++i) writer(r, i) = 0;
  return found;
}

}  // namespace optcc
