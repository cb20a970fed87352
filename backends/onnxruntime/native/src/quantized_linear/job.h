// A linear's work in one call: its operands, checked, and the loop over its parts.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "linear.h"
#include "shared_rows.h"

namespace optcc::quantized_linear {

// What a linear reads beside its rows.
struct Weights {
  const uint8_t* table;
  const float* bias;
  const float* norm_weight;
};

// Inputs 1, 2 and 3 from a first one on. Those that are constant are seen when the session opens: asking for them takes
// time in each call.
class WeightInputs {
 public:
  explicit WeightInputs(const Attributes& attributes, size_t first = 0)
      : first_(first),
        table_(attributes.constant(1)),
        bias_(attributes.constant(2)),
        norm_weight_(attributes.constant(3)) {}

  Weights of(const Context& context, const Linear& linear) const {
    const Tensor bias = seen(context, 2, bias_), norm = seen(context, 3, norm_weight_);
    const Layout& layout = linear.layout;
    check_width(bias, "bias", layout.outputs);
    check_width(norm, "norm_weight", layout.inputs);
    if ((linear.before == Before::kRmsNorm) != (norm.data != nullptr))
      throw std::invalid_argument("norm_weight comes with prepare = rms_norm");
    return {read_table(seen(context, 1, table_), layout), bias.as<float>(), norm.as<float>()};
  }

 private:
  Tensor seen(const Context& context, size_t index, const Tensor& constant) const {
    return constant.data != nullptr ? constant : context.input(first_ + index);
  }

  static void check_width(const Tensor& tensor, const char* name, int64_t width) {
    if (tensor.data != nullptr && (tensor.shape.size() != 1 || tensor.shape[0] != width))
      throw std::invalid_argument(std::string(name) + " must be [" + std::to_string(width) + "]");
  }

  const size_t first_;
  const Tensor table_, bias_, norm_weight_;
};

// Of x [..., width].
inline int64_t rows_of(const Tensor& x, int64_t width) {
  if (x.shape.empty() || x.shape.back() != width)
    throw std::invalid_argument("x must be [..., " + std::to_string(width) + "]");
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < x.shape.size(); i++) rows *= x.shape[i];
  return rows;
}

// Of y, for rows of x.
inline std::vector<int64_t> results_shape(const Linear& linear, const Tensor& x, int64_t rows) {
  if (linear.flatten) return {rows, linear.results()};
  std::vector<int64_t> shape = x.shape.copy();
  shape.back() = linear.results();
  return shape;
}

struct Job {
  const Linear& linear;
  Weights weights;
  Source from;
  Made made;
  float* y;

  int64_t parts() const { return linear.parts(from.rows); }
  Part part(int64_t index) const { return linear.part(from, index); }
  Soon soon(const Part& part) const { return Soon(linear.layout, weights.table, part); }
  void claim(const Part& part) const {
    if (from.shared) linear.claim(part, y);
  }
  void multiply(const Part& part) const { linear.multiply(made, weights.table, weights.bias, part, y); }

  // On return the rows of a block are made; `soon` is asked meanwhile.
  void finish(SharedRows& rows, int64_t begin, Soon& soon) const {
    rows.finish(begin, [&](int64_t first, int64_t end) { linear.make(from, made, first, end); }, [&] { soon.ask(); });
  }
};

// On ONNX Runtime's threads; each has a run of neighbouring parts.
inline void run(Context& context, const Job& job) {
  SharedRows rows(job.from.rows, block_of(job.from.rows));
  context.parallel_for(static_cast<size_t>(job.parts()), [&](size_t index) {
    const Part part = job.part(static_cast<int64_t>(index));
    job.claim(part);
    if (job.linear.makes() && !rows.done(part.first_row)) {
      Soon soon = job.soon(part);
      job.finish(rows, part.first_row, soon);
    }
    job.multiply(part);
  });
}

}  // namespace optcc::quantized_linear
