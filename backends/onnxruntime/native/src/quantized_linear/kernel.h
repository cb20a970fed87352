// The arithmetic of a quantized linear: plain functions on plain pointers, one table of them per instruction set.
//
// Whatever the number of rows and however they are split, one output of one row is computed by the same operations in
// the same order, so that it is the same to the bit: whole numbers inside a group, then over groups
//   sum = fma(products of the group, weight scale * activation scale, sum)
// from the first group to the last, then the bias.
#pragma once

#include "cpu.h"
#include "layout.h"

namespace optcc::quantized_linear {

// Rows quantized to 8 bits, a scale to each group of inputs.
struct Activations {
  int8_t* levels;  // [rows][K], -127..127
  float* scales;   // [rows][groups]
  int32_t* sums;   // [rows][groups], of the levels
};

// Part of one product: rows `first_row`..`last_row` times `tiles` tiles from `first_tile` on, each `apart` behind the one
// before. The next part begins with the next tile that is not in this one.
struct Part {
  int64_t first_row, last_row;  // at most kRowsAtOnce of them
  int64_t first_tile, tiles;    // at most kTilesAtOnce of them
  int64_t apart;
  bool once;  // nobody reads the part's tiles again before much else: they needn't stay in caches

  int64_t tile(int64_t t) const { return first_tile + t * apart; }
  int64_t step() const { return apart == 1 ? tiles : 1; }
};

// Where a part's results go.
struct Output {
  float* y;           // of its first row and tile
  int64_t row, tile;  // floats from one row to the next, and from one tile to the next
};

constexpr int64_t kRowsAtOnce = 64;
constexpr int64_t kTilesAtOnce = 2;

struct Kernels {
  // One row x [K] -> levels, scales and sums; as `quantize_activation` to int8 in optcc/ir/ops/quantized.py.
  void (*quantize)(const float* x, int64_t inputs, int64_t group, int8_t* levels, float* scales, int32_t* sums);
  // bias [N] or null.
  void (*integer)(const Layout&, const uint8_t* table, const Activations&, const float* bias, const Output&,
                  const Part&);
  // The same with activations in float32: x [rows, K].
  void (*floating)(const Layout&, const uint8_t* table, const float* x, const float* bias, const Output&, const Part&);
};

// Those of an instruction set that is built in.
const Kernels& kernels_of(Isa isa);

extern const Kernels kPortable;
extern const Kernels kAvx2;
extern const Kernels kAvx2Vnni;
extern const Kernels kAvx512;

}  // namespace optcc::quantized_linear
