// One quantized linear: what is fixed when a session opens, and the two halves of its work: making the rows that are
// multiplied, and multiplying them by a part of the table.
#pragma once

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>

#include "abi/ort_op.h"
#include "ahead.h"
#include "cpu.h"
#include "kernel.h"
#include "prepare.h"
#include "table.h"

namespace optcc::quantized_linear {

// The functions of an instruction set that is built in.
const Prepare& prepare_of(Isa isa);

enum class Before { kNothing, kRmsNorm, kSilu, kGeluTanh };

// Memory that a thread keeps from call to call, so that a step allocates nothing.
class Scratch {
 public:
  uint8_t* reserve(size_t bytes) {
    if (bytes > size_) {
      data_.reset(new uint8_t[bytes + kLine]);
      size_ = bytes;
    }
    const size_t over = reinterpret_cast<uintptr_t>(data_.get()) % kLine;
    return data_.get() + (kLine - over) % kLine;
  }

 private:
  static constexpr size_t kLine = 64;
  std::unique_ptr<uint8_t[]> data_;
  size_t size_ = 0;
};

// Where the rows that are multiplied come from; null pointers where there is no such thing.
struct Source {
  const float* x;
  const float* norm_weight;
  const float* residual;
  float* total;
  int64_t rows;
  bool shared;  // by all threads: what these read or write, others wrote last
};

// Rows as they are multiplied: quantized, or as floats [rows][K].
struct Made {
  Activations quantized;
  float* floats;
};

class Linear {
 public:
  const Layout layout;
  const bool quantize_input;
  const bool flatten;  // results lose what rows are grouped by
  const Before before;

  explicit Linear(const Attributes& attributes);

  // Floats of a row of x, and of a row of results.
  int64_t width() const { return layout.inputs * (gated() ? 2 : 1); }
  int64_t results() const { return gate_ == nullptr ? layout.outputs : layout.outputs / 2; }

  // Whether rows differ from x.
  bool makes() const { return quantize_input || before != Before::kNothing; }

  // Where rows are made: in so many bytes, which begin with a cache line.
  size_t made_bytes(int64_t rows) const;
  Made made_at(uint8_t* at, const Source& from) const;

  // Makes rows first..end.
  void make(const Source& from, const Made& to, int64_t first, int64_t end) const;

  // Parts of the product, all columns of a block of rows before the next block: a thread that takes neighbours has made
  // most of the rows that it multiplies, and its results don't move to another core's cache until that reads them. Of
  // one block each thread reads its share of the table once, in order.
  int64_t parts(int64_t rows) const;
  Part part(const Source& from, int64_t index) const;

  // Asks for the lines of y [rows][results] that a part will be written to.
  void claim(const Part& part, float* y) const;
  // Writes a part of y.
  void multiply(const Made& made, const uint8_t* table, const float* bias, const Part& part, float* y) const;

 private:
  const float epsilon_;
  const Kernels& kernels_;
  const Prepare& prepare_;
  const Gate gate_;  // of results; null: none
  const CountedTable counted_;

  bool gated() const { return before == Before::kSilu || before == Before::kGeluTanh; }
  int64_t columns(int64_t rows) const;
  const float* prepared(const Source& from, int64_t row, float* made) const;
  void ask_for(const Source& from, int64_t first, int64_t end) const;
};

// Rows that all threads share; of several blocks a thread has most of what it reads and writes in its cache.
inline bool one_block(int64_t rows) { return rows <= kRowsAtOnce; }

// Rows of one part: about as many in each, and whole steps of the kernels.
inline int64_t block_of(int64_t rows) {
  const int64_t blocks = (rows + kRowsAtOnce - 1) / kRowsAtOnce;
  return std::min(kRowsAtOnce, ((rows + blocks - 1) / blocks + 7) / 8 * 8);
}

}  // namespace optcc::quantized_linear
