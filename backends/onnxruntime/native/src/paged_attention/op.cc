// optcc::PagedAttention: write the step's keys and values to their pages, then attend over each request's pages.
//
// Inputs, as com.microsoft::PagedAttention has them where it has them:
//    0 query         float [T, H, C]; or all three in a row, [..., (H + 2G) C] of T rows, without 1 and 2
//    1 key           float [T, G, C]; int8 where those are quantized already
//    2 value         as key
//    3 key_pool      float, float16 or int8 [N, K, G, C]   written in place; what is in a block, kernel.h orders.
//                                                          With `layer`, pools are of all layers: [L, N, K, G, C]
//    4 value_pool    as key_pool                           written in place
//    5 query_starts  int32 [R + 1]
//    6 kv_lengths    int32 [R]   of each request after this step
//    7 block_table   int32 [R, M]
//    8 key_scale, 9 value_scale                float [T, G, 1]      with keys and values in int8
//   10 key_scale_pool, 11 value_scale_pool     float [N, K, G, 1]   with pools in int8, written in place
//   12 cos, 13 sin                             float [.., T, D/2]   rotate the first D channels of queries and keys,
//                                                                   which are float then
//   14 sinks         float [H]                           a score more in each head's softmax, without a value
// Output: float [T, H, C], or [..., H C] with all three in a row. Attributes: scale (float), local_window_size (int, 0:
// all), softcap (float, 0: none), rotary_interleaved (int, 1: neighbouring channels are pairs, not those half of D apart),
// layer (int, -1: pools are of this layer alone).
//
// Token i of a request with n tokens in the step stands at position kv_length - n + i and sees the keys up to its own.
// A step may hold any requests in any lengths, none included. Nothing reads the layer's pools but this node. Who
// attends to what a request adds writes it, if nobody else reads it in this step (write.h, step.h).

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "abi/ort_op.h"
#include "cpu.h"
#include "crowd.h"
#include "paged_attention/kernel.h"
#include "paged_attention/planned.h"
#include "paged_attention/step.h"
#include "paged_attention/write.h"
#include "quantized_linear/kernel.h"

namespace optcc {
namespace {

constexpr int64_t kTogether = 16;  // tokens that are prepared together

const AttentionKernel& kernel_for(Isa isa) {
#ifdef OPTCC_HAVE_AVX512
  if (isa == Isa::kAvx512) return kAttentionAvx512;
#endif
#ifdef OPTCC_HAVE_AVX2
  if (isa == Isa::kAvx2 || isa == Isa::kAvx2Vnni) return kAttentionAvx2;
#endif
  (void)isa;
  return kAttentionPortable;
}

float* scratch(int64_t floats) {
  thread_local std::vector<float> held;
  if (held.size() < static_cast<size_t>(floats) + 16) held.resize(static_cast<size_t>(floats) + 16);
  const auto address = reinterpret_cast<uintptr_t>(held.data());
  return reinterpret_cast<float*>((address + 63) / 64 * 64);
}

// Where queries lie that were rotated or picked out of longer rows.
float* held_queries(int64_t floats) {
  thread_local std::vector<float> held;
  if (held.size() < static_cast<size_t>(floats)) held.resize(static_cast<size_t>(floats));
  return held.data();
}

void want(bool ok, const char* message) {
  if (!ok) throw std::invalid_argument(message);
}

// An optional input that the node leaves out.
bool absent(const Tensor& tensor) { return tensor.data == nullptr && tensor.type == ANY; }

bool has_shape(const Tensor& tensor, std::initializer_list<int64_t> shape) {
  return tensor.data != nullptr && tensor.shape == shape;
}

// Of so many rows, whatever they are grouped by.
bool has_rows(const Tensor& tensor, int64_t rows, int64_t width) {
  if (tensor.data == nullptr || tensor.shape.empty() || tensor.shape.back() != width) return false;
  for (size_t i = 0; i + 1 < tensor.shape.size(); i++)
    if (tensor.shape[i] != 1 && std::exchange(rows, 1) != tensor.shape[i]) return false;
  return rows == 1;
}

struct PagedAttention {
  static constexpr const char* kName = "PagedAttention";
  static constexpr Port kInputs[] = {{FLOAT}, {ANY, kOptional}, {ANY, kOptional}, {ANY}, {ANY},
                                     {INT32}, {INT32}, {INT32}, {FLOAT, kOptional}, {FLOAT, kOptional},
                                     {FLOAT, kOptional}, {FLOAT, kOptional},
                                     {FLOAT, kOptional}, {FLOAT, kOptional}, {FLOAT, kOptional}};
  static constexpr Port kOutputs[] = {{FLOAT}};

  float scale, softcap;
  int64_t window, layer;
  bool interleaved;
  const AttentionKernel& kernel;
  const quantized_linear::Kernels& linear;

  explicit PagedAttention(const Attributes& attributes)
      : scale(attributes.required_number("scale")),
        softcap(attributes.number("softcap", 0.0f)),
        window(attributes.integer("local_window_size", 0)),
        layer(attributes.integer("layer", -1)),
        interleaved(attributes.integer("rotary_interleaved", 0) != 0),
        kernel(kernel_for(isa())),
        linear(quantized_linear::kernels_of(isa())) {
    want(window >= 0 && softcap >= 0, "local_window_size and softcap must not be negative");
  }

  void compute(Context& context) const {
    auto inputs = context.inputs<kPorts>();
    if (layer >= 0)
      for (const size_t i : {3, 4, 10, 11}) take_layer(inputs[i]);
    const Tensor* in = inputs.data();
    Given given{};
    const Attention a = attention(context, in, given);
    const Step step = step_of(in);
    static thread_local Planned held;
    Planned& planned = held;  // of this thread, also where others run
    const size_t threads = Crowd::offered();
    const bool again = planned.is_for(a, step, threads);
    if (!again) {
      check_pages(step, a.block);
      planned.plan(a, step, threads);
    }
    attend(context, a, planned.pieces(), writer(in, a, given), !again);
  }

 private:
  static constexpr size_t kPorts = 15;

  // The layer's own part of a pool of all.
  void take_layer(Tensor& pool) const {
    if (absent(pool)) return;
    want(pool.shape.size() == 5 && layer < pool.shape[0], "with layer, pools are [L, N, K, G, C]");
    int64_t bytes = layer * bytes_of(pool.type);
    for (size_t i = 1; i < 5; ++i) bytes *= pool.shape[i];
    if (pool.data != nullptr) pool.data = pool.as<char>() + bytes;
    pool.shape = {pool.shape.extents + 1, 4};
  }

  // Of the queries' rows; with keys and values beside them these may have any shape.
  static int64_t tokens_of(const Tensor* in) {
    int64_t tokens = 1;
    for (size_t i = 0; i + (absent(in[1]) ? 1 : 2) < in[0].shape.size(); ++i) tokens *= in[0].shape[i];
    return tokens;
  }

  // Checks shapes and types, and says where everything is.
  Attention attention(Context& context, const Tensor* in, Given& given) const {
    const Tensor &q = in[0], &k = in[1], &pool = in[3];
    const bool joined = absent(k);
    want(pool.shape.size() == 4 && !q.shape.empty() &&
             (joined ? absent(in[2]) : q.shape.size() == 3 && k.shape.size() == 3),
         "want query [T, H, C], key [T, G, C] and key_pool [N, K, G, C], or all of a token in one row of query");
    const int64_t blocks = pool.shape[0], block = pool.shape[1], width = joined ? pool.shape[3] : q.shape[2];
    const int64_t tokens = tokens_of(in), kv_heads = joined ? pool.shape[2] : k.shape[1], row = q.shape.back();
    want(width > 0 && width <= kMaxWidth, "heads must be 1 to 512 wide");
    const int64_t heads = joined ? row / width - 2 * kv_heads : q.shape[1];
    want(kv_heads > 0 && heads >= 0 && heads % kv_heads == 0, "query heads must be a multiple of key heads");
    if (joined) want(row == (heads + 2 * kv_heads) * width, "a row of query must be of whole heads");
    for (const int i : {1, 2})
      want(joined || has_shape(in[i], {tokens, kv_heads, width}),
           "key and value must be [T, G, C] of the query's T and C");
    for (const int i : {3, 4})
      want(block > 0 && has_shape(in[i], {blocks, block, kv_heads, width}), "pools must be [N, K, G, C]");
    const bool packed = pool.type == INT8, given_packed = !joined && k.type == INT8;
    want((packed || pool.type == FLOAT || pool.type == HALF) && in[4].type == pool.type &&
             (joined || (in[2].type == k.type && (k.type == FLOAT || (packed && given_packed)))),
         "pools are float, float16 or int8, with keys and values in float, or in int8 for int8 pools");
    for (int i = 8; i < 12; ++i) {
      const bool needed = i < 10 ? given_packed : packed;
      want((in[i].data != nullptr) == needed, "what is int8 comes with scales, and nothing else does");
      if (!needed) continue;
      if (i < 10)
        want(has_shape(in[i], {tokens, kv_heads, 1}), "scales must be [T, G, 1]");
      else
        want(has_shape(in[i], {blocks, block, kv_heads, 1}), "scale pools must be [N, K, G, 1]");
    }
    const Tensor &cos = in[12], &sin = in[13];
    if (!absent(cos) || !absent(sin)) {
      const int64_t half = cos.shape.empty() ? 0 : cos.shape.back();
      want(!given_packed && has_rows(cos, tokens, half) && has_rows(sin, tokens, half) && 2 * half <= width,
           "cos and sin must be [.., T, D/2] of at most a head's width, for keys that are float");
      given.rotary = {cos.as<float>(), sin.as<float>(), half, width, interleaved};
    }
    want(absent(in[14]) || has_shape(in[14], {heads}), "sinks must be [H]");
    std::vector<int64_t> shape = q.shape.copy();
    if (joined) shape.back() = heads * width;
    Attention a{};
    a.q = q.as<float>();
    a.out = context.output(0, shape).as<float>();
    a.keys = in[3].data;
    a.values = in[4].data;
    a.key_scales = in[10].as<float>();
    a.value_scales = in[11].as<float>();
    a.sinks = in[14].as<float>();
    a.type = packed ? KvType::kInt8 : pool.type == HALF ? KvType::kHalf : KvType::kFloat;
    a.heads = heads;
    a.kv_heads = kv_heads;
    a.width = width;
    a.block = block;
    a.window = window;
    a.scale = scale;
    a.softcap = softcap;
    if (joined) {
      float* first = q.as<float>();
      given.q = {first, row};
      given.k = {first + heads * width, row};
      given.v = {first + (heads + kv_heads) * width, row};
    } else {
      given.q = {q.data, heads * width};
      given.k = {k.data, kv_heads * width};
      given.v = {in[2].data, kv_heads * width};
    }
    if (joined || given.rotary.half > 0) a.q = given.queries = held_queries(tokens * heads * width);
    return a;
  }

  static Step step_of(const Tensor* in) {
    const Tensor &starts = in[5], &lengths = in[6], &table = in[7];
    want(lengths.shape.size() == 1 && table.shape.size() == 2, "want kv_lengths [R] and block_table [R, M]");
    Step step{starts.as<int32_t>(), lengths.as<int32_t>(), table.as<int32_t>(),
              lengths.shape[0],     table.shape[1],        in[3].shape[0]};
    want(has_shape(starts, {step.requests + 1}) && table.shape[0] == step.requests,
         "query_starts is [R + 1] and block_table [R, M] of kv_lengths' R");
    want(step.starts[0] == 0 && step.starts[step.requests] == tokens_of(in), "query_starts goes from 0 to T");
    return step;
  }

  // Every page that will be touched lies in the pool.
  static void check_pages(const Step& step, int64_t block) {
    for (int64_t r = 0; r < step.requests; ++r) {
      want(step.count(r) >= 0 && step.position(r) >= 0, "query_starts fall, or a kv_length is less than its tokens");
      const int64_t pages = step.count(r) == 0 ? 0 : (step.lengths[r] + block - 1) / block;
      want(pages <= step.columns, "a request is longer than its row of block_table");
      for (int64_t i = 0; i < pages; ++i)
        want(step.pages(r)[i] >= 0 && step.pages(r)[i] < step.blocks, "block_table points outside of the pool");
    }
  }

  Writer writer(const Tensor* in, const Attention& a, const Given& given) const {
    const Rotary* rotary = given.rotary.half > 0 ? &given.rotary : nullptr;
    const bool scaled = in[8].data != nullptr;
    const auto scales = [&](size_t i) {
      return a.type == KvType::kInt8 && !scaled ? in[i].as<float>() : nullptr;
    };
    Writer made{a, given,
                {{{given.k, &in[3], a.kv_heads, a.width, a.block, true, rotary, &kernel, &linear, scales(10)},
                  {given.v, &in[4], a.kv_heads, a.width, a.block, false, nullptr, &kernel, &linear, scales(11)}}},
                2};
    if (scaled)
      for (size_t i : {8, 9})
        made.writes[made.count++] = {{in[i].data, a.kv_heads}, &in[i + 2], a.kv_heads, 1, a.block, true,
                                     nullptr,                  &kernel,    &linear,    nullptr};
    return made;
  }

  // What is done before anything is attended to: what several pieces read.
  static void prepare(Context& context, const Attention& a, const Pieces& pieces, const Writer& writer) {
    struct Part {
      const int32_t* table;
      int64_t token, position, count;
      bool queries, keys;
    };
    static thread_local std::vector<Part> parts;
    parts.clear();
    int64_t seen = -1;
    for (const Piece& u : pieces.all) {
      const bool queries = !u.own_queries && writer.given.queries != nullptr;
      if (u.token == seen || (!queries && u.own_keys)) continue;  // the same tokens with other heads or keys
      seen = u.token;
      for (int64_t t = 0; t < u.tokens; t += kTogether)
        parts.push_back(
            {u.table, u.token + t, u.position + t, std::min(kTogether, u.tokens - t), queries, !u.own_keys});
    }
    const auto one = [&writer, &a, parts = parts.data()](size_t i) {
      const Part& part = parts[i];
      if (part.queries) writer.queries(part.token, part.count, {0, a.heads});
      if (part.keys) writer.keys(part.table, part.token, part.position, part.count, {0, a.kv_heads});
    };
    if (parts.size() > 1)
      context.parallel_for(parts.size(), one);
    else if (parts.size() == 1)
      one(0);
  }

  // With `count`, threads that come are counted.
  void attend(Context& context, const Attention& a, const Pieces& pieces, const Writer& writer, bool count) const {
    prepare(context, a, pieces, writer);
    const int64_t floats = scratch_floats(a.width);
    std::optional<Roll> roll;
    if (count) roll.emplace();
    const auto run = [&](size_t i) {
      if (roll) roll->call();
      const Piece& u = pieces.all[pieces.order[i]];
      const Piece* after = i + 1 < pieces.all.size() ? &pieces.all[pieces.order[i + 1]] : nullptr;
      kernel.fetch(a, u);  // again, if this thread took the piece before; which one did it doesn't know
      writer.fetch(u);
      if (u.own_queries) writer.queries(u.token, u.tokens, {u.head, u.head + u.heads * u.groups});
      if (u.writes_keys()) writer.keys(u.table, u.token, u.position, u.tokens, {u.kv_head, u.kv_head + u.groups});
      if (after != nullptr) writer.fetch(*after);
      kernel.attend(a, u, after, scratch(floats));
    };
    if (pieces.one_by_one)
      for (size_t i = 0; i < pieces.all.size(); ++i) run(i);
    else
      context.parallel_for(pieces.all.size(), run);
    for (const Cut& c : pieces.cuts) {
      const Piece& u = pieces.all[c.first];
      kernel.merge(a, u, c.parts, stride_of(a, u), scratch(floats));
    }
  }
};

}  // namespace

const OrtCustomOp* paged_attention() {
  static const Operator<PagedAttention> op;
  return &op;
}

}  // namespace optcc
