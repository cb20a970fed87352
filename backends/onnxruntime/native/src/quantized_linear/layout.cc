#include "layout.h"

#include <stdexcept>
#include <string>

namespace optcc::quantized_linear {

Layout make_layout(int64_t inputs, int64_t outputs, int64_t group, int bits, bool half, bool zeros) {
  if (bits != 4 && bits != 8) throw std::invalid_argument("bits must be 4 or 8, not " + std::to_string(bits));
  if (inputs <= 0 || outputs <= 0) throw std::invalid_argument("K and N must be positive");
  if (group <= 0 || group % 8 != 0 || inputs % group != 0)
    throw std::invalid_argument("group must be a multiple of 8 that divides K, not " + std::to_string(group));
  // Products of a group are added up in 32 bits: 255 * 127 each at most, and as much again for the offset.
  if (group > kLargestGroup) throw std::invalid_argument("group is too large: " + std::to_string(group));
  const auto whole_lines = [](int64_t bytes) { return static_cast<size_t>((bytes + 63) / 64 * 64); };
  Layout made{};
  made.inputs = inputs;
  made.outputs = outputs;
  made.group = group;
  made.bits = bits;
  made.half = half;
  made.zeros = zeros;
  made.groups = inputs / group;
  made.tiles = (outputs + kTile - 1) / kTile;
  made.lines = group * bits / 32;
  made.offset = 1 << (bits - 1);
  made.zeros_at = whole_lines(made.groups * kTile * (half ? 2 : 4));
  made.lines_at = made.zeros_at + (zeros ? whole_lines(made.groups * kTile) : 0);
  made.tile_bytes = made.lines_at + static_cast<size_t>(made.groups * made.lines) * 64;
  return made;
}

}  // namespace optcc::quantized_linear
