// optcc::QuantizedLinear(x, table, bias, norm_weight, residual) -> (y, total)
//
//   x            float [..., K]; [..., 2K] before a gated activation
//   table        uint8 [tiles, tile bytes]: weights, scales and zero points as layout.h has them
//   bias         float [N], optional
//   norm_weight  float [K], with prepare = "rms_norm"
//   residual     float [..., K], optional, with prepare = "rms_norm"
//   y            float [..., N]; [..., N/2] after a gated activation
//   total        float [..., K]: x + residual, where there is a residual
//   K, N, group, bits (4 or 8), half_scales, zero_points   the table's layout
//   quantize_input   1: rows are quantized to int8, one scale per row and group; 0: they stay as they are
//   prepare          what is done to a row of x first: "" nothing; "rms_norm" of x + residual, with `epsilon`;
//                    "silu" or "gelu_tanh" of its first half, times its second half
//   flatten          1: y is [rows, N], whatever rows of x are grouped by
//   activation       what is done to a row of results: "" nothing; "silu" or "gelu_tanh" as above, N a multiple of 32

#include "job.h"

namespace optcc {
namespace quantized_linear {
namespace {

struct QuantizedLinear {
  static constexpr const char* kName = "QuantizedLinear";
  static constexpr Port kInputs[] = {
      {FLOAT}, {UINT8}, {FLOAT, kOptional}, {FLOAT, kOptional}, {FLOAT, kOptional}};
  static constexpr Port kOutputs[] = {{FLOAT}, {FLOAT, kOptional}};

  const Linear linear;
  const WeightInputs inputs;

  explicit QuantizedLinear(const Attributes& attributes) : linear(attributes), inputs(attributes) {}

  void compute(Context& context) const {
    const Tensor x = context.input(0), residual = context.input(4);
    const Weights weights = inputs.of(context, linear);
    const int64_t rows = rows_of(x, linear.width());
    if (residual.data != nullptr && (linear.before != Before::kRmsNorm || !(residual.shape == x.shape)))
      throw std::invalid_argument("residual comes with prepare = rms_norm, and is of x's shape");
    float* total = residual.data != nullptr ? context.output(1, x.shape.copy()).as<float>() : nullptr;
    float* y = context.output(0, results_shape(linear, x, rows)).as<float>();
    if (rows == 0) return;
    static thread_local Scratch scratch;
    const Source from{x.as<float>(), weights.norm_weight, residual.as<float>(), total, rows,
                      one_block(rows)};
    run(context, {linear, weights, from, linear.made_at(scratch.reserve(linear.made_bytes(rows)), from), y});
  }
};

}  // namespace
}  // namespace quantized_linear

const OrtCustomOp* quantized_linear_op() {
  static const Operator<quantized_linear::QuantizedLinear> op;
  return &op;
}

}  // namespace optcc
