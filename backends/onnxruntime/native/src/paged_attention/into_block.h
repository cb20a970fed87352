// Rows of a few tokens become columns of keys, or rows of values, in the order of a block (kernel.h).

#pragma once

#include <stdint.h>
#include <string.h>

#include "paged_attention/kernel.h"

namespace optcc {

constexpr int kTile = 8;  // tokens that are written together

// Of a type that is multiplied two by two, as int8 is, two values are a unit.
template <class T>
constexpr int kEachOf = sizeof(T) == 1 ? 2 : 1;

// 8 rows of 8 units of 16 bits, to columns `stride` bytes apart.
inline void transpose_units(const char* const* rows, char* to, int64_t stride) {
  typedef uint16_t Units __attribute__((vector_size(16)));
  Units in[8], by_4[8], by_2[8];
  for (int i = 0; i < 8; ++i) memcpy(&in[i], rows[i], sizeof in[i]);
  for (int i = 0; i < 4; ++i) {
    by_4[2 * i] = __builtin_shufflevector(in[i], in[i + 4], 0, 8, 1, 9, 2, 10, 3, 11);
    by_4[2 * i + 1] = __builtin_shufflevector(in[i], in[i + 4], 4, 12, 5, 13, 6, 14, 7, 15);
  }
  for (int i = 0; i < 4; ++i) {
    by_2[2 * i] = __builtin_shufflevector(by_4[i], by_4[i + 4], 0, 8, 1, 9, 2, 10, 3, 11);
    by_2[2 * i + 1] = __builtin_shufflevector(by_4[i], by_4[i + 4], 4, 12, 5, 13, 6, 14, 7, 15);
  }
  for (int i = 0; i < 4; ++i) {
    const Units even = __builtin_shufflevector(by_2[i], by_2[i + 4], 0, 8, 1, 9, 2, 10, 3, 11);
    const Units odd = __builtin_shufflevector(by_2[i], by_2[i + 4], 4, 12, 5, 13, 6, 14, 7, 15);
    memcpy(to + 2 * i * stride, &even, sizeof even);
    memcpy(to + (2 * i + 1) * stride, &odd, sizeof odd);
  }
}

// Keys, or scales: `count` rows of `width`, at most kTile of them, to columns from `offset` on.
template <class T>
void put_columns(const T* const* rows, int count, T* block_of_head, int64_t offset, int64_t width, int64_t block) {
  constexpr int kEach = kEachOf<T>;
  int64_t c = 0;
  if constexpr (sizeof(T) * kEach == sizeof(uint16_t)) {
    for (; count == kTile && c + 8 * kEach <= width; c += 8 * kEach) {
      const char* from[kTile];
      for (int i = 0; i < kTile; ++i) from[i] = reinterpret_cast<const char*>(rows[i] + c);
      transpose_units(from, reinterpret_cast<char*>(block_of_head + place_in_block(c, offset, width, block, kEach)),
                      block * kEach * static_cast<int64_t>(sizeof(T)));
    }
  }
  for (int i = 0; i < count; ++i) {
    int64_t at = c;
    for (; kEach == 2 && at + 2 <= width; at += 2)
      memcpy(block_of_head + at * block + 2 * (offset + i), rows[i] + at, 2 * sizeof(T));
    for (; at < width; ++at) block_of_head[place_in_block(at, offset + i, width, block, kEach)] = rows[i][at];
  }
}

// Values: to rows from `offset` on.
template <class T>
void put_rows(const T* const* rows, int count, T* block_of_head, int64_t offset, int64_t width, int64_t block) {
  constexpr int kEach = kEachOf<T>;
  for (int i = 0; i < count; ++i) {
    const int64_t row = offset + i;
    T* to = block_of_head + place_in_block(row, 0, block, width, kEach);
    if (kEach == 1 || row >= block - block % 2) {
      memcpy(to, rows[i], static_cast<size_t>(width) * sizeof(T));
    } else if (row % 2 == 0 && i + 1 < count) {
      const T *even = rows[i], *odd = rows[++i];
      for (int64_t c = 0; c < width; ++c) {
        to[2 * c] = even[c];
        to[2 * c + 1] = odd[c];
      }
    } else {
      for (int64_t c = 0; c < width; ++c) to[2 * c] = rows[i][c];
    }
  }
}

}  // namespace optcc
