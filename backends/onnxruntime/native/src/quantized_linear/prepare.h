// What a linear may do to each row of x before it multiplies: a norm, with the addition before it, or a gated activation.
// One table of functions per instruction set; rules for the files as in paged_attention/kernel.h. A row's result depends on
// that row alone, and sums run over sixteen lanes on every instruction set, so that those with fused multiply-adds agree.
#pragma once

#include <stdint.h>

namespace optcc::quantized_linear {

// Rows of gates and of what they let through.
struct Gates {
  const float *gates, *through;  // of the first row
  int64_t rows, width;
  int64_t apart;  // floats from one row to the next, in both
};

// y = activation(gates) * through, its rows `apart` floats from each other.
using Gate = void (*)(const Gates& from, float* y, int64_t apart);

struct Prepare {
  // y = total / sqrt(mean(total^2) + epsilon) * weight for total = x + residual; of [width] each. `residual` may be null,
  // then `total` is not written.
  void (*rms_norm)(const float* x, const float* residual, const float* weight, float epsilon, int64_t width, float* total,
                   float* y);
  Gate silu, gelu_tanh;
};

extern const Prepare kPreparePortable;
extern const Prepare kPrepareAvx2;
extern const Prepare kPrepareAvx512;

}  // namespace optcc::quantized_linear
