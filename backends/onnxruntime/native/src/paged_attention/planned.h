// What a call does, kept for the next one: the layers of a model ask for the same, one after the other.

#pragma once

#include <stdint.h>
#include <string.h>

#include <vector>

#include "paged_attention/kernel.h"
#include "paged_attention/pieces.h"
#include "paged_attention/step.h"

namespace optcc {

class Planned {
 public:
  // Whether the last plan is of this step: of the same numbers at the same place, over pools and heads of the same kind.
  bool is_for(const Attention& a, const Step& step, size_t threads) const {
    if (!(key_of(a, step, threads) == key_)) return false;
    const int32_t* kept = numbers_.data();
    const auto same = [&kept](const int32_t* numbers, int64_t count) {
      const bool equal = count == 0 || memcmp(kept, numbers, static_cast<size_t>(count) * sizeof(int32_t)) == 0;
      kept += count;
      return equal;
    };
    return same(step.starts, step.requests + 1) && same(step.lengths, step.requests) &&
           same(step.table, step.requests * step.columns);
  }

  // Of a step whose pages all lie in the pool.
  void plan(const Attention& a, const Step& step, size_t threads) {
    key_ = {};  // of no step, should there be no memory
    pieces_.plan(a, step, threads);
    // Where a request sees what the step writes for another one, all is written before anything is attended to.
    if (shares_new_pages(step, a.block, step.blocks))
      for (Piece& u : pieces_.all) u.own_keys = false;
    numbers_.assign(step.starts, step.starts + step.requests + 1);
    numbers_.insert(numbers_.end(), step.lengths, step.lengths + step.requests);
    numbers_.insert(numbers_.end(), step.table, step.table + step.requests * step.columns);
    key_ = key_of(a, step, threads);
  }

  const Pieces& pieces() const { return pieces_; }

 private:
  struct Key {
    const int32_t* table = nullptr;
    int64_t requests, columns, blocks, heads, kv_heads, width, block, window;
    size_t threads;

    bool operator==(const Key& other) const {
      return table == other.table && requests == other.requests && columns == other.columns &&
             blocks == other.blocks && heads == other.heads && kv_heads == other.kv_heads && width == other.width &&
             block == other.block && window == other.window && threads == other.threads;
    }
  };

  static Key key_of(const Attention& a, const Step& step, size_t threads) {
    return {step.table, step.requests, step.columns, step.blocks, a.heads,
            a.kv_heads, a.width,       a.block,      a.window,    threads};
  }

  Key key_{};
  std::vector<int32_t> numbers_;
  Pieces pieces_;
};

}  // namespace optcc
