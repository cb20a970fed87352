// optcc::QuantizedLinears: two to four QuantizedLinear as one operator, each of which reads the results of the one
// before.
//
// Inputs are five to each linear, as QuantizedLinear has them: x, table, bias, norm_weight, residual. Attributes are as
// there, with `_i` behind the names of linear i >= 1's, and
//
//   linears           how many
//   x_from_i          "y": of the linear before; "total0", "total1", ...: of an earlier one; "input"
//   residual_from_i   the same, or "" where there is no residual
//
// Outputs are y of the last linear, and total of the last one that has a residual. All x are of the same rows.

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "relay.h"

namespace optcc {
namespace quantized_linear {
namespace {

constexpr size_t kMost = 4, kEach = 5, kX = 0, kResidual = 4;

std::string suffix_of(size_t index) { return index == 0 ? "" : "_" + std::to_string(index); }

// Where a linear's rows come from: an input, y of the linear before, or some linear's total.
struct Wire {
  enum Kind { kNone, kInput, kY, kTotal } kind = kNone;
  size_t of = 0;
};

Wire read_wire(const std::string& text, size_t index) {
  if (text.empty()) return {};
  if (text == "input") return {Wire::kInput};
  if (text == "y" && index > 0) return {Wire::kY, index - 1};
  for (size_t of = 0; of < index; of++)
    if (text == "total" + std::to_string(of)) return {Wire::kTotal, of};
  throw std::invalid_argument("linear " + std::to_string(index) + " can't read " + text);
}

struct Member {
  const Linear linear;
  const WeightInputs inputs;
  const Wire x, residual;

  Member(const Attributes& attributes, size_t index)
      : linear(attributes),
        inputs(attributes, index * kEach),
        x(read_wire(attributes.text("x_from", "input"), index)),
        residual(read_wire(attributes.text("residual_from", ""), index)) {
    if (residual.kind != Wire::kNone && linear.before != Before::kRmsNorm)
      throw std::invalid_argument("a residual comes with prepare = rms_norm");
  }
};

// What one linear reads and writes outside of the chain, for all rows; null where it is inside of it.
struct Outside {
  Weights weights;
  const float *x, *residual;
  float *total = nullptr, *y = nullptr;
};

using Jobs = std::array<std::optional<Job>, kMost>;

struct QuantizedLinears {
  static constexpr const char* kName = "QuantizedLinears";
  static constexpr auto kInputs = [] {
    std::array<Port, kMost * kEach> all{};
    for (size_t i = 0; i < all.size(); i++)
      all[i] = {i % kEach == 1 ? UINT8 : FLOAT, i < 2 ? kRequired : kOptional};
    return all;
  }();
  static constexpr Port kOutputs[] = {{FLOAT}, {FLOAT, kOptional}};

  std::vector<std::unique_ptr<const Member>> members;
  size_t last_total = kMost;  // which linear's total is a result

  explicit QuantizedLinears(const Attributes& attributes) {
    const int64_t count = attributes.integer("linears");
    if (count < 2 || count > static_cast<int64_t>(kMost))
      throw std::invalid_argument("there are 2 to " + std::to_string(kMost) + " linears");
    for (size_t i = 0; i < static_cast<size_t>(count); i++) {
      members.push_back(std::make_unique<Member>(attributes.part(suffix_of(i), i * kEach), i));
      const Member& member = *members.back();
      check_wire(member.x, member.linear.width());
      check_wire(member.residual, member.linear.layout.inputs);
      if (member.residual.kind != Wire::kNone) last_total = i;
    }
  }

  void compute(Context& context) const {
    const Tensor x = context.input(kX);
    const int64_t rows = rows_of(x, members[0]->linear.width());
    std::array<Outside, kMost> outside;
    for (size_t i = 0; i < members.size(); i++) {
      const auto& [linear, inputs, x, residual] = *members[i];
      outside[i].weights = inputs.of(context, linear);
      outside[i].x = input(context, x, i * kEach + kX, linear.width(), rows);
      outside[i].residual = input(context, residual, i * kEach + kResidual, linear.layout.inputs, rows);
    }
    if (last_total < kMost) {
      std::vector<int64_t> shape = x.shape.copy();
      shape.back() = members[last_total]->linear.layout.inputs;
      outside[last_total].total = context.output(1, shape).as<float>();
    }
    outside[members.size() - 1].y = context.output(0, results_shape(members.back()->linear, x, rows)).as<float>();
    if (rows == 0) return;
    const Jobs jobs = put_together(outside, rows);
    if (one_block(rows)) return run_together(context, jobs, members.size());
    for (size_t i = 0; i < members.size(); i++) run(context, *jobs[i]);
  }

 private:
  void check_wire(const Wire& wire, int64_t width) const {
    if (wire.kind != Wire::kY && wire.kind != Wire::kTotal) return;
    const Member& from = *members[wire.of];
    if (wire.kind == Wire::kTotal && from.residual.kind == Wire::kNone)
      throw std::invalid_argument("linear " + std::to_string(wire.of) + " has no total");
    if (width != (wire.kind == Wire::kY ? from.linear.results() : from.linear.layout.inputs))
      throw std::invalid_argument("linear " + std::to_string(members.size() - 1) + " reads rows of another width");
  }

  static const float* input(const Context& context, const Wire& wire, size_t index, int64_t width, int64_t rows) {
    if (wire.kind != Wire::kInput) return nullptr;
    const Tensor tensor = context.input(index);
    if (tensor.data == nullptr || rows_of(tensor, width) != rows)
      throw std::invalid_argument("input " + std::to_string(index) + " must have as many rows as the first");
    return tensor.as<float>();
  }

  // What lies between linears goes to memory that this thread keeps. Rows are made when those of the linear before have
  // been multiplied, and y is read by the linear behind alone: so there is one place for rows, and two for y in turn.
  Jobs put_together(const std::array<Outside, kMost>& outside, int64_t rows) const {
    size_t made = 0, y = 0, total = 0;
    const auto fit = [](size_t& room, size_t bytes) { room = std::max(room, (bytes + 63) / 64 * 64); };
    for (const auto& member : members) {
      fit(made, member->linear.made_bytes(rows));
      fit(y, static_cast<size_t>(rows * member->linear.results()) * sizeof(float));
      fit(total, static_cast<size_t>(rows * member->linear.layout.inputs) * sizeof(float));
    }
    Jobs jobs;
    static thread_local Scratch scratch;
    uint8_t* memory = scratch.reserve(made + 2 * y + kMost * total);
    for (size_t i = 0; i < members.size(); i++) {
      const auto& [linear, inputs, x, residual] = *members[i];
      const auto read = [&](const Wire& wire, const float* given) -> const float* {
        if (wire.kind == Wire::kY) return jobs[wire.of]->y;
        return wire.kind == Wire::kTotal ? jobs[wire.of]->from.total : given;
      };
      const auto write = [&](float* given, size_t at) {
        return given != nullptr ? given : reinterpret_cast<float*>(memory + at);
      };
      const Outside& own = outside[i];
      Source from{read(x, own.x), own.weights.norm_weight, read(residual, own.residual),
                  nullptr,        rows,                    one_block(rows)};
      if (residual.kind != Wire::kNone) from.total = write(own.total, made + 2 * y + i * total);
      jobs[i].emplace(
          Job{linear, own.weights, from, linear.made_at(memory, from), write(own.y, made + i % 2 * y)});
    }
    return jobs;
  }
};

}  // namespace
}  // namespace quantized_linear

const OrtCustomOp* quantized_linears_op() {
  static const Operator<quantized_linear::QuantizedLinears> op;
  return &op;
}

}  // namespace optcc
