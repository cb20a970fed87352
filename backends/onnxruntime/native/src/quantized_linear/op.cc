// optcc::QuantizedLinear(x, table, bias) -> y
//
//   x      float [..., K]
//   table  uint8 [tiles, tile bytes]: weights, scales and zero points as layout.h has them
//   bias   float [N], optional
//   y      float [..., N]
//   K, N, group, bits (4 or 8), half_scales, zero_points   the table's layout
//   quantize_input   1: x is quantized to int8, one scale per row and group; 0: it stays as it is

#include <algorithm>
#include <memory>

#include "abi/ort_op.h"
#include "cpu.h"
#include "kernel.h"
#include "table.h"

namespace optcc {
namespace quantized_linear {
namespace {

const Kernels& kernels_of(Isa isa) {
#ifdef OPTCC_HAVE_AVX512
  if (isa == Isa::kAvx512) return kAvx512;
#endif
#ifdef OPTCC_HAVE_AVX2_VNNI
  if (isa == Isa::kAvx2Vnni) return kAvx2Vnni;
#endif
#ifdef OPTCC_HAVE_AVX2
  if (isa == Isa::kAvx2) return kAvx2;
#endif
  (void)isa;
  return kPortable;
}

// Memory for the quantized rows of one call. Each thread that calls keeps its own, so that a step allocates nothing.
class Scratch {
 public:
  uint8_t* reserve(size_t bytes) {
    if (bytes > size_) {
      data_.reset(new uint8_t[bytes]);
      size_ = bytes;
    }
    return data_.get();
  }

 private:
  std::unique_ptr<uint8_t[]> data_;
  size_t size_ = 0;
};

constexpr int64_t kFewRows = 4;
constexpr int64_t kInline = 1 << 15;  // numbers that one thread quantizes faster than it wakes another

struct QuantizedLinear {
  static constexpr const char* kName = "QuantizedLinear";
  static constexpr Port kInputs[] = {{FLOAT}, {UINT8}, {FLOAT, kOptional}};
  static constexpr Port kOutputs[] = {{FLOAT}};

  Layout layout;
  bool quantize_input;
  const Kernels& kernels;

  explicit QuantizedLinear(const Attributes& attributes)
      : layout(read_layout(attributes)),
        quantize_input(attributes.integer("quantize_input") != 0),
        kernels(kernels_of(isa())) {}

  void compute(Context& context) const {
    Tensor x = context.input(0);
    const Tensor bias = context.input(2);
    const uint8_t* table = read_table(context.input(1), layout);
    if (x.shape.empty() || x.shape.back() != layout.inputs)
      throw std::invalid_argument("x must be [..., " + std::to_string(layout.inputs) + "]");
    if (bias.data != nullptr && (bias.shape.size() != 1 || bias.shape[0] != layout.outputs))
      throw std::invalid_argument("bias must be [" + std::to_string(layout.outputs) + "]");
    x.shape.back() = layout.outputs;
    int64_t rows = 1;
    for (size_t i = 0; i + 1 < x.shape.size(); i++) rows *= x.shape[i];
    float* y = context.output(0, x.shape).as<float>();
    if (rows == 0) return;
    const float* from = x.as<float>();
    const float* add = bias.as<float>();

    if (!quantize_input) {
      each_part(context, rows, [&](const Part& part) { kernels.floating(layout, table, from, add, y, part); });
      return;
    }
    const Activations acts = quantized(context, from, rows);
    each_part(context, rows, [&](const Part& part) { kernels.integer(layout, table, acts, add, y, part); });
  }

 private:
  Activations quantized(Context& context, const float* x, int64_t rows) const {
    static thread_local Scratch scratch;
    const int64_t scales = rows * layout.groups;
    uint8_t* at = scratch.reserve(static_cast<size_t>(scales * 8 + rows * layout.inputs));
    Activations acts;
    acts.scales = reinterpret_cast<float*>(at);
    acts.sums = reinterpret_cast<int32_t*>(at + scales * 4);
    acts.levels = reinterpret_cast<int8_t*>(at + scales * 8);
    const auto one = [&](size_t row) {
      kernels.quantize(x + row * layout.inputs, layout.inputs, layout.group, acts.levels + row * layout.inputs,
                       acts.scales + row * layout.groups, acts.sums + row * layout.groups);
    };
    if (rows * layout.inputs <= kInline) {
      for (int64_t row = 0; row < rows; row++) one(static_cast<size_t>(row));
    } else {
      context.parallel_for(static_cast<size_t>(rows), one);
    }
    return acts;
  }

  // ONNX Runtime gives each thread an equal run of neighbouring parts. All rows of a tile come one after the other:
  // each thread reads its share of the table once, in order.
  template <class Body>
  void each_part(Context& context, int64_t rows, const Body& body) const {
    const int64_t at_once = rows <= kFewRows ? 1 : kTilesAtOnce;
    const int64_t blocks = (rows + kRowsAtOnce - 1) / kRowsAtOnce;
    const int64_t block = std::min(kRowsAtOnce, ((rows + blocks - 1) / blocks + 7) / 8 * 8);
    const int64_t columns = (layout.tiles + at_once - 1) / at_once;
    context.parallel_for(static_cast<size_t>(columns * blocks), [&](size_t index) {
      const int64_t row = static_cast<int64_t>(index) % blocks * block;
      const int64_t tile = static_cast<int64_t>(index) / blocks * at_once;
      if (row >= rows) return;
      body({row, std::min(rows, row + block), tile, std::min(at_once, layout.tiles - tile)});
    });
  }
};

}  // namespace
}  // namespace quantized_linear

const OrtCustomOp* quantized_linear_op() {
  static const Operator<quantized_linear::QuantizedLinear> op;
  return &op;
}

}  // namespace optcc
