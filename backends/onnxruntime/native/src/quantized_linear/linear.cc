#include "linear.h"

namespace optcc::quantized_linear {

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

namespace {

constexpr int64_t kFewRows = 4;

Before before_of(const std::string& name) {
  if (name.empty()) return Before::kNothing;
  if (name == "rms_norm") return Before::kRmsNorm;
  if (name == "silu") return Before::kSilu;
  if (name == "gelu_tanh") return Before::kGeluTanh;
  throw std::invalid_argument("prepare can't be " + name);
}

Gate gate_of(const std::string& name, const Prepare& prepare) {
  if (name.empty()) return nullptr;
  if (name == "silu") return prepare.silu;
  if (name == "gelu_tanh") return prepare.gelu_tanh;
  throw std::invalid_argument("activation can't be " + name);
}

bool once(const Source& from) { return from.shared && CountedTable::all_bytes() > kStays && fetches_past_caches(); }

}  // namespace

Linear::Linear(const Attributes& attributes)
    : layout(read_layout(attributes)),
      quantize_input(attributes.integer("quantize_input") != 0),
      flatten(attributes.integer("flatten", 0) != 0),
      before(before_of(attributes.text("prepare", ""))),
      epsilon_(attributes.number("epsilon", 0.0f)),
      kernels_(kernels_of(isa())),
      prepare_(prepare_of(isa())),
      gate_(gate_of(attributes.text("activation", ""), prepare_)),
      counted_(layout) {
  if (gate_ != nullptr && layout.outputs % (2 * kTile) != 0)
    throw std::invalid_argument("before an activation N must be a multiple of 32");
}

size_t Linear::made_bytes(int64_t rows) const {
  if (quantize_input) return static_cast<size_t>(rows * (layout.groups * 8 + layout.inputs));
  return before == Before::kNothing ? 0 : static_cast<size_t>(rows * layout.inputs) * sizeof(float);
}

Made Linear::made_at(uint8_t* at, const Source& from) const {
  if (!quantize_input)
    return {{}, before == Before::kNothing ? const_cast<float*>(from.x) : reinterpret_cast<float*>(at)};
  const int64_t scales = from.rows * layout.groups;
  return {{reinterpret_cast<int8_t*>(at + scales * 8), reinterpret_cast<float*>(at),
           reinterpret_cast<int32_t*>(at + scales * 4)},
          nullptr};
}

void Linear::make(const Source& from, const Made& to, int64_t first, int64_t end) const {
  const int64_t width = layout.inputs, groups = layout.groups;
  if (!quantize_input) {
    for (int64_t row = first; row < end; row++) prepared(from, row, to.floats + row * width);
    return;
  }
  static thread_local Scratch scratch;
  float* made = reinterpret_cast<float*>(scratch.reserve(static_cast<size_t>(width) * sizeof(float)));
  const Activations& rows = to.quantized;
  if (from.shared) {
    ask_to_write(rows.levels + first * width, (end - first) * width);
    ask_to_write(rows.scales + first * groups, (end - first) * groups);
    ask_to_write(rows.sums + first * groups, (end - first) * groups);
    ask_for(from, first, end);
  }
  for (int64_t row = first; row < end; row++)
    kernels_.quantize(prepared(from, row, made), width, layout.group, rows.levels + row * width,
                      rows.scales + row * groups, rows.sums + row * groups);
}

// One row [K] as it is multiplied: in x itself, or made in `made`.
const float* Linear::prepared(const Source& from, int64_t row, float* made) const {
  const int64_t width = layout.inputs, at = row * width;
  const bool adds = from.residual != nullptr;
  switch (before) {
    case Before::kNothing:
      return from.x + at;
    case Before::kRmsNorm:
      prepare_.rms_norm(from.x + at, adds ? from.residual + at : nullptr, from.norm_weight, epsilon_, width,
                        adds ? from.total + at : nullptr, made);
      return made;
    case Before::kSilu:
    case Before::kGeluTanh: {
      const float* gates = from.x + 2 * at;
      const Gate gate = before == Before::kSilu ? prepare_.silu : prepare_.gelu_tanh;
      gate({gates, gates + width, 1, width, 0}, made, 0);
      return made;
    }
  }
  return nullptr;
}

// Asks for what rows are made of, a part of which other threads have written; not for more than stays until it's used.
void Linear::ask_for(const Source& from, int64_t first, int64_t end) const {
  const int64_t wide = width(), most = kSoon / static_cast<int64_t>(sizeof(float));
  const int64_t count = std::min((end - first) * wide, most);
  ask(from.x + first * wide, count);
  if (from.residual == nullptr) return;
  ask(from.residual + first * wide, count);
  ask_to_write(from.total + first * wide, count);
}

// Of one block of rows: runs of tiles, or tiles of gates, each with the tile of what they let through.
int64_t Linear::columns(int64_t rows) const {
  if (gate_ != nullptr) return layout.tiles / 2;
  return rows <= kFewRows ? layout.tiles : (layout.tiles + kTilesAtOnce - 1) / kTilesAtOnce;
}

int64_t Linear::parts(int64_t rows) const {
  const int64_t block = block_of(rows);
  return columns(rows) * ((rows + block - 1) / block);
}

Part Linear::part(const Source& from, int64_t index) const {
  const int64_t rows = from.rows, wide = columns(rows), row = index / wide * block_of(rows), column = index % wide;
  const int64_t end = std::min(rows, row + block_of(rows));
  if (gate_ != nullptr) return {row, end, column, 2, wide, once(from)};
  const int64_t at_once = rows <= kFewRows ? 1 : kTilesAtOnce, tile = column * at_once;
  return {row, end, tile, std::min(at_once, layout.tiles - tile), 1, once(from)};
}

void Linear::claim(const Part& part, float* y) const {
  const int64_t wide = results(), tiles = gate_ == nullptr ? part.tiles : 1;
  for (int64_t r = part.first_row; r < part.last_row; r++)
    ask_to_write(y + r * wide + part.first_tile * kTile, tiles * kTile);
}

void Linear::multiply(const Made& made, const uint8_t* table, const float* bias, const Part& part, float* y) const {
  const int64_t wide = results(), count = part.last_row - part.first_row;
  // Of the part's own tiles, which come before those that they let through.
  float* to = y + part.first_row * wide + part.first_tile * kTile;
  const auto product = [&](const Output& out) {
    if (quantize_input)
      kernels_.integer(layout, table, made.quantized, bias, out, part);
    else
      kernels_.floating(layout, table, made.floats, bias, out, part);
  };
  if (gate_ == nullptr) return product({to, wide, kTile});
  alignas(64) float both[2 * kRowsAtOnce * kTile];
  product({both, kTile, count * kTile});
  gate_({both, both + count * kTile, count, kTile, kTile}, to, wide);
}

}  // namespace optcc::quantized_linear
