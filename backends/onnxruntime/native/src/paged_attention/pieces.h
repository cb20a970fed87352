// How a step's work is shared out. A row's arithmetic is the same either way; only who computes it changes.

#pragma once

#include <stdint.h>

#include <algorithm>
#include <vector>

#include "paged_attention/estimate.h"
#include "paged_attention/kernel.h"
#include "paged_attention/step.h"

namespace optcc {

constexpr int64_t kInline = 1 << 16;  // products of one thread that cost less than waking another
constexpr size_t kPiecesEach = 4;     // of a thread keep all threads busy; with fewer, work is cut finer

// Pieces that are parts of one, whose results are put together.
struct Cut {
  size_t first;
  int parts;
};

// Floats of one part's results.
inline int64_t stride_of(const Attention& a, const Piece& u) { return partial_floats(u.rows(), a.width); }

// Tokens by tokens, and all KV heads together where a request has few: they lie side by side in each block, and memory
// is read at its full rate only in such lengths.
inline void find_pieces(const Attention& a, const Step& step, bool together, std::vector<Piece>& found) {
  found.clear();
  const int64_t shared = a.heads / a.kv_heads;
  const int64_t heads = std::min<int64_t>(shared, kMaxRows);
  const int64_t tokens = std::max<int64_t>(1, kMaxRows / heads);
  for (int64_t r = 0; r < step.requests; ++r)
    for (int64_t t = 0; t < step.count(r); t += tokens) {
      Piece u{};
      u.tokens = static_cast<int>(std::min(tokens, step.count(r) - t));
      const int64_t fit = kMaxRows / (u.tokens * heads);
      const int64_t groups = together && heads == shared && u.tokens * heads <= kFewRows ? fit : 1;
      for (int64_t h = 0; h < a.heads; h += u.heads * u.groups) {
        u.heads = static_cast<int>(std::min(heads, (h / shared + 1) * shared - h));
        u.groups = static_cast<int>(std::min(groups, (a.heads - h) / u.heads));
        u.table = step.pages(r);
        u.token = step.starts[r] + t;
        u.position = step.position(r) + t;
        u.head = h;
        u.kv_head = h / shared;
        u.end_key = u.position + u.tokens;
        if (a.window > 0 && u.position >= a.window)
          u.first_key = (u.position - a.window + 1) / u.cut() * u.cut();
        u.own_queries = u.own_keys = heads == shared && u.tokens == step.count(r);
        found.push_back(u);
      }
    }
}

// A step's pieces. A thread keeps its own from step to step, with the memory that they took.
struct Pieces {
  std::vector<Piece> all;
  std::vector<size_t> order;  // in which they are taken
  std::vector<Cut> cuts;
  bool one_by_one;  // on the thread that asks

  // Cuts nothing of many pieces; of few, what lets `threads` end first by an estimate.
  void plan(const Attention& a, const Step& step, size_t threads) {
    find_pieces(a, step, true, all);
    cuts.clear();
    int64_t work = 0;
    for (const Piece& u : all) work += work_of(u);
    one_by_one = work * a.width < kInline;
    if (!one_by_one && all.size() < kPiecesEach * threads) {
      estimate_.start(threads);
      estimate_.consider({true, false}, a, all);
      estimate_.consider({true, true}, a, all);
      find_pieces(a, step, false, apart_);
      estimate_.consider({false, false}, a, apart_);
      estimate_.consider({false, true}, a, apart_);
      if (!estimate_.best().together) all.swap(apart_);
      if (estimate_.best().cut) cut(a);
    }
    order.resize(all.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    // The longest first: what is left at the end is short.
    const auto longer = [this](size_t x, size_t y) {
      const int64_t of_x = work_of(all[x]), of_y = work_of(all[y]);
      return of_x != of_y ? of_x > of_y : x < y;
    };
    if (!one_by_one) std::sort(order.begin(), order.end(), longer);
  }

 private:
  // Cuts pieces into parts of their keys.
  void cut(const Attention& a) {
    size_t floats = 0;
    parts_.clear();
    for (const Piece& u : all) {
      const int parts = parts_of(u);
      if (parts > 1) {
        cuts.push_back({parts_.size(), parts});
        floats += static_cast<size_t>(parts * stride_of(a, u));
      }
      for (int i = 0; i < parts; ++i) {
        Piece part = u;
        if (parts > 1) {
          part.first_key = u.first_key + i * u.cut();
          part.end_key = std::min(u.end_key, part.first_key + u.cut());
          part.own_queries = false;
          // Only the last one sees it, if that sees all of it.
          part.own_keys = u.own_keys && u.first_key + (parts - 1) * u.cut() <= u.position;
        }
        parts_.push_back(part);
      }
    }
    if (floats > partials_.size() || partials_.size() > kMostKept) partials_ = std::vector<float>(floats);
    float* at = partials_.data();
    for (const Cut& c : cuts)
      for (int i = 0; i < c.parts; ++i, at += stride_of(a, parts_[c.first])) parts_[c.first + i].partial = at;
    all.swap(parts_);
  }

  static constexpr size_t kMostKept = 1 << 20;  // floats

  std::vector<Piece> apart_, parts_;
  std::vector<float> partials_;  // results of parts; each is written before it is read
  Estimate estimate_;
};

}  // namespace optcc
