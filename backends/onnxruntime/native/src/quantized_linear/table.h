// What both operators over a packed table share: its description among a node's attributes, and its bytes.
#pragma once

#include <stdexcept>
#include <string>

#include "abi/ort_op.h"
#include "layout.h"

namespace optcc::quantized_linear {

inline Layout read_layout(const Attributes& attributes) {
  return make_layout(attributes.integer("K"), attributes.integer("N"), attributes.integer("group"),
                     static_cast<int>(attributes.integer("bits")), attributes.integer("half_scales") != 0,
                     attributes.integer("zero_points") != 0);
}

// The bytes of a table [tiles, tile bytes].
inline const uint8_t* read_table(const Tensor& tensor, const Layout& layout) {
  if (tensor.shape.size() != 2 || tensor.shape[0] != layout.tiles ||
      tensor.shape[1] != static_cast<int64_t>(layout.tile_bytes)) {
    throw std::invalid_argument("the table must be [" + std::to_string(layout.tiles) + ", " +
                                std::to_string(layout.tile_bytes) + "] bytes");
  }
  return tensor.as<uint8_t>();
}

}  // namespace optcc::quantized_linear
