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
//   activation       what is done to a row of results: "" nothing; "silu" or "gelu_tanh" as above, N a multiple of 32

#include <algorithm>
#include <memory>

#include "abi/ort_op.h"
#include "ahead.h"
#include "cpu.h"
#include "kernel.h"
#include "prepare.h"
#include "shared_rows.h"
#include "table.h"

namespace optcc {
namespace quantized_linear {

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

namespace {

const Prepare& prepare_of(Isa isa) {
#ifdef OPTCC_HAVE_AVX512
  if (isa == Isa::kAvx512) return kPrepareAvx512;
#endif
#ifdef OPTCC_HAVE_AVX2
  if (isa == Isa::kAvx2 || isa == Isa::kAvx2Vnni) return kPrepareAvx2;
#endif
  (void)isa;
  return kPreparePortable;
}

enum class Before { kNothing, kRmsNorm, kSilu, kGeluTanh };

Before before_of(const std::string& name) {
  if (name.empty()) return Before::kNothing;
  if (name == "rms_norm") return Before::kRmsNorm;
  if (name == "silu") return Before::kSilu;
  if (name == "gelu_tanh") return Before::kGeluTanh;
  throw std::invalid_argument("prepare can't be " + name);
}

// What is done to gates and what they let through; null: nothing.
using Gate = void (*)(const float* x, int64_t width, float* y);

Gate gate_of(const std::string& name, const Prepare& prepare) {
  if (name.empty()) return nullptr;
  if (name == "silu") return prepare.silu;
  if (name == "gelu_tanh") return prepare.gelu_tanh;
  throw std::invalid_argument("activation can't be " + name);
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

// Where the rows that are multiplied come from; null pointers where there is no such thing.
struct Source {
  const float* x;
  const float* norm_weight;
  const float* residual;
  float* total;
  int64_t rows;
};

struct QuantizedLinear {
  static constexpr const char* kName = "QuantizedLinear";
  static constexpr Port kInputs[] = {
      {FLOAT}, {UINT8}, {FLOAT, kOptional}, {FLOAT, kOptional}, {FLOAT, kOptional}};
  static constexpr Port kOutputs[] = {{FLOAT}, {FLOAT, kOptional}};

  Layout layout;
  CountedTable counted;
  bool quantize_input;
  Before before;
  float epsilon;
  const Kernels& kernels;
  const Prepare& prepare;
  Gate gate;
  const Tensor table, bias, norm_weight;  // where they are constant: asking for them takes time in each run

  explicit QuantizedLinear(const Attributes& attributes)
      : layout(read_layout(attributes)),
        counted(layout),
        quantize_input(attributes.integer("quantize_input") != 0),
        before(before_of(attributes.text("prepare", ""))),
        epsilon(attributes.number("epsilon", 0.0f)),
        kernels(kernels_of(isa())),
        prepare(prepare_of(isa())),
        gate(gate_of(attributes.text("activation", ""), prepare)),
        table(attributes.constant(1)),
        bias(attributes.constant(2)),
        norm_weight(attributes.constant(3)) {
    if (gate != nullptr && layout.outputs % (2 * kTile) != 0)
      throw std::invalid_argument("before an activation N must be a multiple of 32");
  }

  void compute(Context& context) const {
    std::vector<int64_t> shape;
    const Source from = source(context, shape);
    const Tensor bias = input(context, 2, this->bias);
    const uint8_t* table = read_table(input(context, 1, this->table), layout);
    if (bias.data != nullptr && (bias.shape.size() != 1 || bias.shape[0] != layout.outputs))
      throw std::invalid_argument("bias must be [" + std::to_string(layout.outputs) + "]");
    shape.back() = results();
    float* y = context.output(0, shape).as<float>();
    if (from.rows == 0) return;
    const float* add = bias.as<float>();
    if (quantize_input) {
      const Activations acts = activations(from.rows);
      multiply(
          context, from.rows, y, table, [&](int64_t first, int64_t end) { quantize(from, first, end, acts); },
          [&](const Output& out, const Part& part) { kernels.integer(layout, table, acts, add, out, part); });
    } else if (before == Before::kNothing) {
      multiply(
          context, from.rows, y, table, nullptr,
          [&](const Output& out, const Part& part) { kernels.floating(layout, table, from.x, add, out, part); });
    } else {
      float* rows = floats(from.rows);
      multiply(
          context, from.rows, y, table, [&](int64_t first, int64_t end) {
            for (int64_t row = first; row < end; row++) prepared(from, row, rows + row * layout.inputs);
          },
          [&](const Output& out, const Part& part) { kernels.floating(layout, table, rows, add, out, part); });
    }
  }

 private:
  // Of a row.
  int64_t results() const { return gate == nullptr ? layout.outputs : layout.outputs / 2; }

  static Tensor input(const Context& context, size_t index, const Tensor& constant) {
    return constant.data != nullptr ? constant : context.input(index);
  }

  // Checks what rows are made from; `shape` becomes x's.
  Source source(Context& context, std::vector<int64_t>& shape) const {
    const Tensor x = context.input(0), residual = context.input(4);
    const Tensor weight = input(context, 3, norm_weight);
    const bool norm = before == Before::kRmsNorm, gated = before == Before::kSilu || before == Before::kGeluTanh;
    const int64_t width = layout.inputs * (gated ? 2 : 1);
    if (x.shape.empty() || x.shape.back() != width)
      throw std::invalid_argument("x must be [..., " + std::to_string(width) + "]");
    if (norm != (weight.data != nullptr) || (!norm && residual.data != nullptr))
      throw std::invalid_argument("norm_weight comes with prepare = rms_norm, and residual only with both");
    if (norm && (weight.shape.size() != 1 || weight.shape[0] != layout.inputs))
      throw std::invalid_argument("norm_weight must be [" + std::to_string(layout.inputs) + "]");
    if (residual.data != nullptr && !(residual.shape == x.shape))
      throw std::invalid_argument("residual must be of x's shape");
    shape = x.shape.copy();
    Source from{x.as<float>(), weight.as<float>(), residual.as<float>(), nullptr, 1};
    for (size_t i = 0; i + 1 < shape.size(); i++) from.rows *= shape[i];
    if (residual.data != nullptr) from.total = context.output(1, shape).as<float>();
    return from;
  }

  // One row [K] as it is multiplied: in x itself, or made in `made`.
  const float* prepared(const Source& from, int64_t row, float* made) const {
    const int64_t width = layout.inputs, at = row * width;
    const bool adds = from.residual != nullptr;
    switch (before) {
      case Before::kNothing:
        return from.x + at;
      case Before::kRmsNorm:
        prepare.rms_norm(from.x + at, adds ? from.residual + at : nullptr, from.norm_weight, epsilon, width,
                         adds ? from.total + at : nullptr, made);
        return made;
      case Before::kSilu:
        prepare.silu(from.x + 2 * at, width, made);
        return made;
      case Before::kGeluTanh:
        prepare.gelu_tanh(from.x + 2 * at, width, made);
        return made;
    }
    return nullptr;
  }

  // Asks for what rows are made of, a part of which other threads have written; not for more than stays until it's
  // used.
  void ask_for(const Source& from, int64_t first, int64_t end) const {
    const bool gated = before == Before::kSilu || before == Before::kGeluTanh;
    const int64_t wide = layout.inputs * (gated ? 2 : 1), most = kSoon / static_cast<int64_t>(sizeof(float));
    const int64_t count = std::min((end - first) * wide, most);
    ask(from.x + first * wide, count);
    if (from.residual == nullptr) return;
    ask(from.residual + first * wide, count);
    ask_to_write(from.total + first * wide, count);
  }

  // Where rows are made.
  Activations activations(int64_t rows) const {
    static thread_local Scratch scratch;
    const int64_t scales = rows * layout.groups;
    uint8_t* at = scratch.reserve(static_cast<size_t>(scales * 8 + rows * layout.inputs));
    return {reinterpret_cast<int8_t*>(at + scales * 8), reinterpret_cast<float*>(at),
            reinterpret_cast<int32_t*>(at + scales * 4)};
  }

  float* floats(int64_t rows) const {
    static thread_local Scratch scratch;
    return reinterpret_cast<float*>(scratch.reserve(static_cast<size_t>(rows * layout.inputs) * 4));
  }

  void quantize(const Source& from, int64_t first, int64_t end, const Activations& to) const {
    static thread_local Scratch scratch;
    const int64_t width = layout.inputs, groups = layout.groups;
    float* made = reinterpret_cast<float*>(scratch.reserve(static_cast<size_t>(width) * 4));
    if (one_block(from.rows)) {
      ask_to_write(to.levels + first * width, (end - first) * width);
      ask_to_write(to.scales + first * groups, (end - first) * groups);
      ask_to_write(to.sums + first * groups, (end - first) * groups);
      ask_for(from, first, end);
    }
    for (int64_t row = first; row < end; row++)
      kernels.quantize(prepared(from, row, made), width, layout.group, to.levels + row * width,
                       to.scales + row * groups, to.sums + row * groups);
  }

  // Calls make(first, end) for all rows, unless `make` is null, and then product(output, part) for all parts of y.
  template <class Make, class Product>
  void multiply(Context& context, int64_t rows, float* y, const uint8_t* table, const Make& make,
                const Product& product) const {
    SharedRows shared(rows, block_of(rows));
    const auto ready = [&](const Part& part) {
      if constexpr (!std::is_null_pointer_v<Make>) {
        if (shared.done(part.first_row)) return;
        Soon soon(layout, table, part);
        shared.finish(part.first_row, make, [&] { soon.ask(); });
      }
    };
    const int64_t wide = results();
    // Of the part's own tiles, which come before those that they let through.
    const auto to = [=](const Part& part) { return y + part.first_row * wide + part.first_tile * kTile; };
    const auto claim = [&](const Part& part, int64_t tiles) {
      if (!one_block(rows)) return;
      for (int64_t r = 0; r < part.last_row - part.first_row; r++)
        ask_to_write(to(part) + r * wide, tiles * kTile);
    };
    if (gate == nullptr) {
      each_part(context, rows, [&](const Part& part) {
        claim(part, part.tiles);
        ready(part);
        product(Output{to(part), wide, kTile}, part);
      });
    } else {
      each_pair(context, rows, [&](const Part& part) {
        claim(part, 1);
        ready(part);
        alignas(64) float both[2 * kRowsAtOnce * kTile], gated[kRowsAtOnce * kTile];
        const int64_t count = part.last_row - part.first_row;
        product(Output{both, kTile, count * kTile}, part);
        gate(both, count * kTile, gated);
        for (int64_t r = 0; r < count; r++) std::copy_n(gated + r * kTile, kTile, to(part) + r * wide);
      });
    }
  }

  template <class Body>
  void each_part(Context& context, int64_t rows, const Body& body) const {
    const int64_t at_once = rows <= kFewRows ? 1 : kTilesAtOnce;
    each_column(context, rows, (layout.tiles + at_once - 1) / at_once, [&](int64_t row, int64_t end, int64_t column) {
      const int64_t tile = column * at_once;
      body({row, end, tile, std::min(at_once, layout.tiles - tile), 1, once(rows)});
    });
  }

  // Parts of a tile of gates and the tile of what they let through.
  template <class Body>
  void each_pair(Context& context, int64_t rows, const Body& body) const {
    const int64_t half = layout.tiles / 2;
    each_column(context, rows, half, [&](int64_t row, int64_t end, int64_t tile) {
      body({row, end, tile, 2, half, once(rows)});
    });
  }

  // All threads share the rows then; of several blocks a thread has most of what it reads and writes in its cache.
  static bool one_block(int64_t rows) { return rows <= kRowsAtOnce; }

  static bool once(int64_t rows) {
    return one_block(rows) && CountedTable::all_bytes() > kStays && fetches_past_caches();
  }

  // Rows of one part: about as many in each, and whole steps of the kernels.
  static int64_t block_of(int64_t rows) {
    const int64_t blocks = (rows + kRowsAtOnce - 1) / kRowsAtOnce;
    return std::min(kRowsAtOnce, ((rows + blocks - 1) / blocks + 7) / 8 * 8);
  }

  // ONNX Runtime gives each thread an equal run of neighbouring parts. All columns of a block of rows come one after the
  // other: a thread has made most of the rows that it multiplies, and its results don't move to another core's cache
  // until that reads them. Of one block each thread reads its share of the table once, in order.
  template <class Body>
  static void each_column(Context& context, int64_t rows, int64_t columns, const Body& body) {
    const int64_t block = block_of(rows), blocks = (rows + block - 1) / block;
    context.parallel_for(static_cast<size_t>(columns * blocks), [&](size_t index) {
      const int64_t row = static_cast<int64_t>(index) / columns * block;
      body(row, std::min(rows, row + block), static_cast<int64_t>(index) % columns);
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
