// What operators over a packed table share: its description among a node's attributes, its bytes, and their count.
#pragma once

#include <atomic>
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

constexpr size_t kStays = 16 << 20;  // bytes of tables that may still be in a cache in the next step

// Counts the bytes of a table, as long as it lives, among those of all linears in this process.
class CountedTable {
 public:
  explicit CountedTable(const Layout& layout) : own_(static_cast<size_t>(layout.tiles) * layout.tile_bytes) {
    all_ += own_;
  }
  ~CountedTable() { all_ -= own_; }
  CountedTable(const CountedTable&) = delete;
  static size_t all_bytes() { return all_.load(std::memory_order_relaxed); }

 private:
  const size_t own_;
  static inline std::atomic<size_t> all_{0};
};

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
