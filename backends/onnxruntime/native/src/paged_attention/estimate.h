// When threads will be done with pieces, and which way of cutting them ends first.

#pragma once

#include <stdint.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "paged_attention/kernel.h"

namespace optcc {

// Products that cost as much as each piece does beside its own: it is handed out, and what it found is merged.
constexpr int64_t kPart = 20000;

inline int64_t work_of(const Piece& u) { return u.rows() * (u.end_key - u.first_key); }

// Into how many parts its keys can be cut.
inline int parts_of(const Piece& u) { return static_cast<int>((u.end_key - u.first_key + u.cut() - 1) / u.cut()); }

struct Way {
  bool together;  // KV heads of a request with few rows
  bool cut;       // by keys
};

// Pieces go to the thread that is free first, the longest first (Graham, "Bounds on Multiprocessing Timing Anomalies",
// 1969).
class Estimate {
 public:
  void start(size_t threads) {
    busy_.resize(threads);
    least_ = INT64_MAX;
  }

  void consider(Way way, const Attention& a, const std::vector<Piece>& pieces) {
    const int64_t end = ends_at(way, a, pieces);
    if (end >= least_) return;
    least_ = end;
    best_ = way;
  }

  // The first of those that end first.
  Way best() const { return best_; }

 private:
  int64_t ends_at(Way way, const Attention& a, const std::vector<Piece>& pieces) {
    times_.clear();
    for (const Piece& u : pieces) {
      const int64_t each = way.cut ? u.cut() : u.end_key - u.first_key;
      for (int64_t key = u.first_key; key < u.end_key; key += each) {
        const int64_t products = u.rows() * std::min(each, u.end_key - key) * a.width;
        // KV heads of a block that are read together are read faster.
        times_.push_back(kPart + (way.together ? products : products * 5 / 4));
      }
    }
    std::sort(times_.begin(), times_.end(), std::greater<>());
    std::fill(busy_.begin(), busy_.end(), 0);
    for (const int64_t time : times_) {
      std::pop_heap(busy_.begin(), busy_.end(), std::greater<>());
      busy_.back() += time;
      std::push_heap(busy_.begin(), busy_.end(), std::greater<>());
    }
    return *std::max_element(busy_.begin(), busy_.end());
  }

  std::vector<int64_t> times_;
  std::vector<int64_t> busy_;  // until when each thread is, a heap
  int64_t least_ = 0;
  Way best_{};
};

}  // namespace optcc
