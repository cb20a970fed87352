// optcc::QuantizedEmbedding(ids, table) -> rows
//
//   ids    int64 [...], 0..N-1
//   table  uint8 [tiles, tile bytes], as QuantizedLinear's: a vocabulary tied to its head is stored once
//   rows   float [..., K]
//   K, N, group, bits, half_scales, zero_points   the table's layout

#include "abi/ort_op.h"
#include "simd/half.h"
#include "table.h"

namespace optcc {
namespace quantized_linear {
namespace {

struct QuantizedEmbedding {
  static constexpr const char* kName = "QuantizedEmbedding";
  static constexpr Port kInputs[] = {{INT64}, {UINT8}};
  static constexpr Port kOutputs[] = {{FLOAT}};

  Layout layout;

  explicit QuantizedEmbedding(const Attributes& attributes) : layout(read_layout(attributes)) {}

  void compute(Context& context) const {
    const Tensor ids = context.input(0);
    const uint8_t* table = read_table(context.input(1), layout);
    int64_t count = 1;
    for (const int64_t extent : ids.shape) count *= extent;
    std::vector<int64_t> shape = ids.shape.copy();
    shape.push_back(layout.inputs);
    float* y = context.output(0, shape).as<float>();
    for (int64_t i = 0; i < count; i++) {
      const int64_t id = ids.as<int64_t>()[i];
      if (id < 0 || id >= layout.outputs)
        throw std::invalid_argument("there is no row " + std::to_string(id) + " in a table of " +
                                    std::to_string(layout.outputs));
    }
    const auto one = [&](size_t i) {
      look_up(table, ids.as<int64_t>()[i], y + static_cast<int64_t>(i) * layout.inputs);
    };
    if (count <= 16) {
      for (int64_t i = 0; i < count; i++) one(static_cast<size_t>(i));
    } else {
      context.parallel_for(static_cast<size_t>(count), one);
    }
  }

 private:
  // (level - zero) * scale, as the reference computes it.
  void look_up(const uint8_t* table, int64_t row, float* y) const {
    const uint8_t* tile = table + static_cast<size_t>(row / kTile) * layout.tile_bytes;
    const int64_t lane = row % kTile, half = layout.group / 2;
    const uint8_t* line = tile + layout.lines_at + lane * 4;
    for (int64_t group = 0; group < layout.groups; group++, y += layout.group) {
      const int64_t place = group * kTile + lane;
      const float scale = layout.half ? from_half(reinterpret_cast<const uint16_t*>(tile)[place])
                                      : reinterpret_cast<const float*>(tile)[place];
      const int32_t zero = layout.zeros ? reinterpret_cast<const int8_t*>(tile + layout.zeros_at)[place] : 0;
      const int32_t shift = layout.offset + zero;
      for (int64_t l = 0; l < layout.lines; l++, line += 64) {
        for (int i = 0; i < 4; i++) {
          if (layout.bits == 8) {
            y[l * 4 + i] = static_cast<float>(line[i] - shift) * scale;
          } else {
            y[l * 4 + i] = static_cast<float>((line[i] & 15) - shift) * scale;
            y[l * 4 + i + half] = static_cast<float>((line[i] >> 4) - shift) * scale;
          }
        }
      }
    }
  }
};

}  // namespace
}  // namespace quantized_linear

const OrtCustomOp* quantized_embedding_op() {
  static const Operator<quantized_linear::QuantizedEmbedding> op;
  return &op;
}

}  // namespace optcc
