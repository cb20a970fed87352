// A step's keys and values go to their pages, and its queries to where they are read.

#pragma once

#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <array>
#include <type_traits>

#include "abi/ort_op.h"
#include "paged_attention/into_block.h"
#include "paged_attention/kernel.h"
#include "paged_attention/rotary.h"
#include "paged_attention/step.h"
#include "quantized_linear/kernel.h"

namespace optcc {

// Of a value of a pool.
inline int64_t bytes_of(ONNXTensorElementDataType type) { return type == INT8 ? 1 : type == HALF ? 2 : 4; }

// Rows of a step: one per token, `stride` values apart.
struct Rows {
  void* first;
  int64_t stride;
};

// Heads, or KV heads, of a token.
struct Range {
  int64_t first, end;
};

inline void fetch_lines(const char* at, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(at + i);
}

// Asks for some heads of a token, of `each` bytes a value.
inline void fetch_heads(const Rows& rows, int64_t token, Range heads, int64_t width, int64_t each) {
  const char* first = static_cast<const char*>(rows.first) + (token * rows.stride + heads.first * width) * each;
  fetch_lines(first, (heads.end - heads.first) * width * each);
}

// What this step adds to a pool, and the order of a block there: keys and scales lie channel by channel, values
// token by token (kernel.h).
struct Write {
  Rows from;
  const Tensor* pool;
  int64_t kv_heads, width, block;
  bool by_channel;
  const Rotary* rotary;  // null: as it is
  const AttentionKernel* kernel;
  const quantized_linear::Kernels* linear;  // quantizes rows as for a linear, with one scale for all of a row
  float* scales;  // the pool of what floats are divided by to be int8; null: they aren't

  // Asks for a token's row, half of which another core may have made, and for the memory that it goes to: stores to
  // what isn't there yet hold up what follows them.
  void fetch(int64_t token, int64_t page, int64_t offset, Range heads) const {
    const bool packed = pool->type == INT8 && scales == nullptr;
    fetch_heads(from, token, heads, width, packed ? 1 : sizeof(float));
    const int64_t row = width * bytes_of(pool->type);
    const int64_t first = by_channel ? 0 : offset / 2 * 2 * row, end = by_channel ? block * row : first + 2 * row;
    for (int64_t head = heads.first; head < heads.end; ++head) {
      const char* at = pool->as<char>() + (page * kv_heads + head) * block * row;
      fetch_lines(at + first, end - first);
      if (scales != nullptr) __builtin_prefetch(scales + (page * kv_heads + head) * block + offset);
    }
  }

  // Some tokens in a row, at most kTile of them, to one page from `offset` on.
  void tokens(int64_t token, int count, int64_t page, int64_t offset, Range heads) const {
    switch (pool->type) {
      case HALF:
        return copy<float>(token, count, page, offset, heads, pool->as<uint16_t>());
      case INT8:
        return scales != nullptr ? copy<float>(token, count, page, offset, heads, pool->as<int8_t>())
                                 : copy<int8_t>(token, count, page, offset, heads, pool->as<int8_t>());
      default:
        return copy<float>(token, count, page, offset, heads, pool->as<float>());
    }
  }

 private:
  template <class From, class To>
  void copy(int64_t token, int count, int64_t page, int64_t offset, Range heads, To* blocks) const {
    // What is written could be these for all that the compiler knows, if they weren't its own.
    const int64_t width = this->width, block = this->block;
    To made[kTile * kMaxWidth];
    const To* rows[kTile];
    for (int64_t head = heads.first; head < heads.end; ++head) {
      const From* next = static_cast<const From*>(from.first) + token * from.stride + head * width;
      for (int i = 0; i < count; ++i, next += from.stride)
        rows[i] = stored(next, token + i, (page * kv_heads + head) * block + offset + i, made + i * width);
      To* to = blocks + (page * kv_heads + head) * width * block;
      if (by_channel)
        put_columns(rows, count, to, offset, width, block);
      else
        put_rows(rows, count, to, offset, width, block);
    }
  }

  // A head of a token as its pool stores it: where it is, or in `to`. `place` is its scale's.
  template <class From, class To>
  const To* stored(const From* row, int64_t token, int64_t place, To* to) const {
    if constexpr (std::is_same_v<From, int8_t>) {
      return row;
    } else {
      float turned[kMaxWidth];
      if constexpr (std::is_same_v<To, float>) {
        if (rotary == nullptr) return row;
        rotary->turn(token, row, to);
      } else {
        if (rotary != nullptr) rotary->turn(token, row, turned), row = turned;
        if constexpr (std::is_same_v<To, uint16_t>) {
          kernel->narrow(row, to, width);
        } else {
          int32_t sum;  // of the levels; of no use here
          linear->quantize(row, width, width, to, scales + place, &sum);
        }
      }
      return to;
    }
  }
};

// The step's queries, keys and values as they came, and where queries go that can't be used so.
struct Given {
  Rows q, k, v;
  Rotary rotary;   // of half 0: none
  float* queries;  // [T, H, C], or null: they can be used as they came

  void query(const Attention& a, int64_t token, Range heads) const {
    const float* row = static_cast<const float*>(q.first) + token * q.stride;
    float* to = queries + token * a.heads * a.width;
    if (rotary.half == 0) {
      std::copy(row + heads.first * a.width, row + heads.end * a.width, to + heads.first * a.width);
      return;
    }
    for (int64_t head = heads.first; head < heads.end; ++head)
      rotary.turn(token, row + head * a.width, to + head * a.width);
  }
};

// What a step adds to the pools: keys, values, and the scales of those that came in int8.
struct Writer {
  static constexpr size_t kMost = 4;

  const Attention& attention;
  const Given& given;
  std::array<Write, kMost> writes;
  size_t count;

  // Asks for what is read and written for a piece's last token.
  void fetch(const Piece& u) const {
    const int64_t position = u.position + u.tokens - 1, block = attention.block, token = u.token + u.tokens - 1;
    if (u.own_queries && given.queries != nullptr)
      fetch_heads(given.q, token, {u.head, u.head + u.groups * u.heads}, attention.width, sizeof(float));
    if (u.writes_keys())
      for (size_t i = 0; i < count; ++i)
        writes[i].fetch(token, u.table[position / block], position % block, {u.kv_head, u.kv_head + u.groups});
  }

  // Puts some tokens' queries where they are read.
  void queries(int64_t token, int64_t tokens, Range heads) const {
    if (given.queries == nullptr) return;
    for (const int64_t end = token + tokens; token < end; ++token) given.query(attention, token, heads);
  }

  // Writes some tokens of a request in some KV heads.
  void keys(const int32_t* table, int64_t token, int64_t position, int64_t tokens, Range kv_heads) const {
    const int64_t block = attention.block;
    for (const int64_t end = token + tokens; token < end;) {
      const int64_t offset = position % block, room = std::min<int64_t>(kTile, block - offset);
      const int here = static_cast<int>(std::min(room, end - token));
      for (size_t i = 0; i < count; ++i)
        writes[i].tokens(token, here, table[position / block], offset, kv_heads);
      token += here;
      position += here;
    }
  }
};

}  // namespace optcc
