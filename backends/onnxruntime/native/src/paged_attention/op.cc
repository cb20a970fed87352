// optcc::PagedAttention: write the step's keys and values to their pages, then attend over each request's pages.
//
// Inputs, as com.microsoft::PagedAttention has them where it has them:
//    0 query         float [T, H, C]; or all three in a row, [..., (H + 2G) C] of T rows, without 1 and 2
//    1 key           float [T, G, C]; int8 where those are quantized already
//    2 value         as key
//    3 key_pool      float, float16 or int8 [N, K, G, C]   written in place; what is in a block, kernel.h orders
//    4 value_pool    as key_pool                           written in place
//    5 query_starts  int32 [R + 1]
//    6 kv_lengths    int32 [R]   of each request after this step
//    7 block_table   int32 [R, M]
//    8 key_scale, 9 value_scale                float [T, G, 1]      with keys and values in int8
//   10 key_scale_pool, 11 value_scale_pool     float [N, K, G, 1]   with pools in int8, written in place
//   12 cos, 13 sin                             float [T, D/2]       rotate the first D channels of queries and keys,
//                                                                   which are float then
//   14 sinks         float [H]                           a score more in each head's softmax, without a value
// Output: float [T, H, C], or [..., H C] with all three in a row. Attributes: scale (float), local_window_size (int, 0:
// all), softcap (float, 0: none), rotary_interleaved (int, 1: neighbouring channels are pairs, not those half of D apart).
//
// Token i of a request with n tokens in the step stands at position kv_length - n + i and sees the keys up to its own.
// A step may hold any requests in any lengths, none included. Nothing reads the pools in the graph but this node.

#include <string.h>

#include <algorithm>
#include <memory>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "abi/ort_op.h"
#include "cpu.h"
#include "paged_attention/kernel.h"
#include "paged_attention/rotary.h"
#include "quantized_linear/kernel.h"

namespace optcc {
namespace {

constexpr int64_t kInline = 1 << 16;  // products of one thread that cost less than waking another
constexpr size_t kPiecesEach = 4;     // of a thread keep all threads busy; with fewer, work is cut finer
constexpr int64_t kWritten = 16;      // tokens whose keys one piece writes

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

// The step: where each request's tokens, keys and pages are.
struct Step {
  const int32_t *starts, *lengths, *table;
  int64_t requests, columns;

  int64_t count(int64_t r) const { return starts[r + 1] - starts[r]; }
  int64_t position(int64_t r) const { return lengths[r] - count(r); }
  const int32_t* pages(int64_t r) const { return table + r * columns; }
};

// Rows of a step: one per token, `stride` values apart.
struct Rows {
  void* first;
  int64_t stride;
};

// What this step adds to a pool, and the order of a block there: keys and scales lie channel by channel, values
// token by token (kernel.h).
struct Write {
  Rows from;
  const Tensor* pool;
  int64_t kv_heads, width, block;
  bool by_channel;
  const Rotary* rotary;  // null: as it is
  const AttentionKernel* kernel;
  const quantized_linear::Kernels* linear;  // quantizes rows as for a linear, with one scale for all of a row
  float* scales;  // the pool of what floats are divided by to be int8; null: they aren't

  void token(int64_t token, int64_t page, int64_t offset) const {
    switch (pool->type) {
      case HALF:
        return copy<float>(token, page, offset, pool->as<uint16_t>());
      case INT8:
        return scales != nullptr ? copy<float>(token, page, offset, pool->as<int8_t>())
                                 : copy<int8_t>(token, page, offset, pool->as<int8_t>());
      default:
        return copy<float>(token, page, offset, pool->as<float>());
    }
  }

 private:
  template <class From, class To>
  void copy(int64_t token, int64_t page, int64_t offset, To* blocks) const {
    From turned[kMaxWidth];
    To rounded[kMaxWidth];
    const From* next = static_cast<const From*>(from.first) + token * from.stride;
    for (int64_t head = 0; head < kv_heads; ++head, next += width) {
      const From* row = next;
      if constexpr (std::is_same_v<From, float>) {
        if (rotary != nullptr) rotary->turn(token, next, turned), row = turned;
      }
      const To* stored;
      if constexpr (std::is_same_v<From, To>) {
        stored = row;
      } else {
        stored = rounded;
        if constexpr (std::is_same_v<To, uint16_t>) {
          kernel->narrow(row, rounded, width);
        } else {
          int32_t sum;  // of the levels; of no use here
          linear->quantize(row, width, width, rounded, scales + (page * kv_heads + head) * block + offset, &sum);
        }
      }
      constexpr int kEach = std::is_same_v<To, int8_t> ? 2 : 1;
      To* to = blocks + (page * kv_heads + head) * width * block;
      if (by_channel) {
        int64_t c = 0;
        for (; kEach == 2 && c + 2 <= width; c += 2) memcpy(to + c * block + 2 * offset, stored + c, 2 * sizeof(To));
        for (; c < width; ++c) to[place_in_block(c, offset, width, block, kEach)] = stored[c];
      } else {
        for (int64_t c = 0; c < width; ++c) to[place_in_block(offset, c, block, width, kEach)] = stored[c];
      }
    }
  }
};

// The step's queries, keys and values as they came, and where queries go that can't be used so.
struct Given {
  Rows q, k, v;
  Rotary rotary;   // of half 0: none
  float* queries;  // [T, H, C], or null: they can be used as they came

  void query(const Attention& a, int64_t token) const {
    const float* row = static_cast<const float*>(q.first) + token * q.stride;
    float* to = queries + token * a.heads * a.width;
    if (rotary.half == 0) {
      std::copy_n(row, a.heads * a.width, to);
      return;
    }
    for (int64_t head = 0; head < a.heads; ++head) rotary.turn(token, row + head * a.width, to + head * a.width);
  }
};

// Pieces that are segments of one, and where their results are put together.
struct Cut {
  size_t first;
  int segments;
};

int64_t rows_of(const Piece& u) { return static_cast<int64_t>(u.groups) * u.tokens * u.heads; }

int64_t work_of(const Piece& u) {
  return rows_of(u) * (u.end_key - u.first_key);
}

// So many keep the threads busy. How many of them the session has it doesn't tell; not more than the machine.
size_t enough_pieces() {
  static const size_t found = kPiecesEach * std::max(1u, std::thread::hardware_concurrency());
  return found;
}

// Tokens by tokens, and all KV heads together where a request has few: they lie side by side in each block, and memory
// is read at its full rate only in such lengths.
std::vector<Piece> pieces_of(const Attention& a, const Step& step, bool together) {
  std::vector<Piece> found;
  const int64_t shared = a.heads / a.kv_heads;
  const int64_t heads = std::min<int64_t>(shared, kMaxRows);
  const int64_t tokens = std::max<int64_t>(1, kMaxRows / heads);
  for (int64_t r = 0; r < step.requests; ++r)
    for (int64_t t = 0; t < step.count(r); t += tokens) {
      Piece u{};
      u.tokens = static_cast<int>(std::min(tokens, step.count(r) - t));
      const int64_t fit = kMaxRows / (u.tokens * heads);
      const int64_t groups = together && heads == shared && u.tokens * heads <= kFewRows ? fit : 1;
      for (int64_t h = 0; h < a.heads; h += u.heads * u.groups) {
        u.heads = static_cast<int>(std::min(heads, (h / shared + 1) * shared - h));
        u.groups = static_cast<int>(std::min(groups, (a.heads - h) / u.heads));
        u.table = step.pages(r);
        u.token = step.starts[r] + t;
        u.position = step.position(r) + t;
        u.head = h;
        u.kv_head = h / shared;
        u.end_key = u.position + u.tokens;
        if (a.window > 0 && u.position >= a.window)
          u.first_key = (u.position - a.window + 1) / kSegment * kSegment;
        found.push_back(u);
      }
    }
  return found;
}

// Floats of one segment's results.
int64_t stride_of(const Attention& a, const Piece& u) {
  return rows_of(u) * partial_floats(a.width);
}

// Cuts long pieces at segments. A row's arithmetic is the same either way; only who computes it changes.
std::vector<Cut> cut(const Attention& a, std::vector<Piece>& pieces, std::unique_ptr<float[]>& partials) {
  std::vector<Cut> cuts;
  std::vector<Piece> made;
  size_t floats = 0;
  for (const Piece& u : pieces) {
    const int segments = static_cast<int>((u.end_key - u.first_key + kSegment - 1) / kSegment);
    if (segments > 1) {
      cuts.push_back({made.size(), segments});
      floats += static_cast<size_t>(segments * stride_of(a, u));
    }
    for (int i = 0; i < segments; ++i) {
      Piece part = u;
      if (segments > 1) {
        part.first_key = u.first_key + static_cast<int64_t>(i) * kSegment;
        part.end_key = std::min(u.end_key, part.first_key + kSegment);
      }
      made.push_back(part);
    }
  }
  partials.reset(new float[floats]);  // not zeroed: each is written before it is read
  float* at = partials.get();
  for (const Cut& c : cuts)
    for (int i = 0; i < c.segments; ++i, at += stride_of(a, made[c.first])) made[c.first + i].partial = at;
  pieces.swap(made);
  return cuts;
}

struct PagedAttention {
  static constexpr const char* kName = "PagedAttention";
  static constexpr Port kInputs[] = {{FLOAT}, {ANY, kOptional}, {ANY, kOptional}, {ANY}, {ANY},
                                     {INT32}, {INT32}, {INT32}, {FLOAT, kOptional}, {FLOAT, kOptional},
                                     {FLOAT, kOptional}, {FLOAT, kOptional},
                                     {FLOAT, kOptional}, {FLOAT, kOptional}, {FLOAT, kOptional}};
  static constexpr Port kOutputs[] = {{FLOAT}};

  float scale, softcap;
  int64_t window;
  bool interleaved;
  const AttentionKernel& kernel;
  const quantized_linear::Kernels& linear;

  explicit PagedAttention(const Attributes& attributes)
      : scale(attributes.required_number("scale")),
        softcap(attributes.number("softcap", 0.0f)),
        window(attributes.integer("local_window_size", 0)),
        interleaved(attributes.integer("rotary_interleaved", 0) != 0),
        kernel(kernel_for(isa())),
        linear(quantized_linear::kernels_of(isa())) {
    want(window >= 0 && softcap >= 0, "local_window_size and softcap must not be negative");
  }

  void compute(Context& context) const {
    Tensor in[kPorts];
    for (size_t i = 0; i < kPorts; ++i) in[i] = context.input(i);
    Given given{};
    const Attention a = attention(context, in, given);
    const Step step = checked_step(in);
    write_pages(context, in, a, step, given);
    attend(context, a, step);
  }

 private:
  static constexpr size_t kPorts = 15;

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
      want(!given_packed && has_shape(cos, {tokens, half}) && has_shape(sin, {tokens, half}) && 2 * half <= width,
           "cos and sin must be [T, D/2] of at most a head's width, for keys that are float");
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

  // Every page that will be touched lies in the pool.
  static Step checked_step(const Tensor* in) {
    const Tensor &starts = in[5], &lengths = in[6], &table = in[7];
    const int64_t tokens = tokens_of(in), blocks = in[3].shape[0], block = in[3].shape[1];
    want(lengths.shape.size() == 1 && table.shape.size() == 2, "want kv_lengths [R] and block_table [R, M]");
    Step step{starts.as<int32_t>(), lengths.as<int32_t>(), table.as<int32_t>(), lengths.shape[0], table.shape[1]};
    want(has_shape(starts, {step.requests + 1}) && table.shape[0] == step.requests,
         "query_starts is [R + 1] and block_table [R, M] of kv_lengths' R");
    want(step.starts[0] == 0 && step.starts[step.requests] == tokens, "query_starts goes from 0 to T");
    for (int64_t r = 0; r < step.requests; ++r) {
      want(step.count(r) >= 0 && step.position(r) >= 0, "query_starts fall, or a kv_length is less than its tokens");
      const int64_t pages = step.count(r) == 0 ? 0 : (step.lengths[r] + block - 1) / block;
      want(pages <= step.columns, "a request is longer than its row of block_table");
      for (int64_t i = 0; i < pages; ++i)
        want(step.pages(r)[i] >= 0 && step.pages(r)[i] < blocks, "block_table points outside of the pool");
    }
    return step;
  }

  // Keys and values to their pages, and queries to where they are read.
  void write_pages(Context& context, const Tensor* in, const Attention& a, const Step& step,
                   const Given& given) const {
    const int64_t tokens = tokens_of(in);
    const Rotary* rotary = given.rotary.half > 0 ? &given.rotary : nullptr;
    const bool scaled = in[8].data != nullptr;
    const auto scales = [&](size_t i) {
      return a.type == KvType::kInt8 && !scaled ? in[i].as<float>() : nullptr;
    };
    std::vector<Write> writes = {
        {given.k, &in[3], a.kv_heads, a.width, a.block, true, rotary, &kernel, &linear, scales(10)},
        {given.v, &in[4], a.kv_heads, a.width, a.block, false, nullptr, &kernel, &linear, scales(11)}};
    if (scaled)
      for (size_t i : {8, 9})
        writes.push_back(
            {{in[i].data, a.kv_heads}, &in[i + 2], a.kv_heads, 1, a.block, true, nullptr, &kernel, &linear, nullptr});
    std::vector<int64_t> owner(static_cast<size_t>(tokens));
    for (int64_t r = 0; r < step.requests; ++r)
      std::fill(owner.begin() + step.starts[r], owner.begin() + step.starts[r + 1], r);
    const auto some = [&](size_t part) {
      const int64_t first = static_cast<int64_t>(part) * kWritten;
      for (int64_t t = first; t < std::min(tokens, first + kWritten); ++t) {
        if (given.queries != nullptr) given.query(a, t);
        const int64_t r = owner[static_cast<size_t>(t)], position = step.position(r) + t - step.starts[r];
        for (const Write& write : writes) write.token(t, step.pages(r)[position / a.block], position % a.block);
      }
    };
    const size_t parts = static_cast<size_t>((tokens + kWritten - 1) / kWritten);
    if (parts > 1)
      context.parallel_for(parts, some);
    else if (parts > 0)
      some(0);
  }

  void attend(Context& context, const Attention& a, const Step& step) const {
    std::vector<Piece> pieces = pieces_of(a, step, true);
    if (pieces.size() < enough_pieces()) pieces = pieces_of(a, step, false);
    std::unique_ptr<float[]> partials;
    std::vector<Cut> cuts;
    if (pieces.size() < enough_pieces()) cuts = cut(a, pieces, partials);
    int64_t work = 0;
    std::vector<size_t> order(pieces.size());
    for (size_t i = 0; i < pieces.size(); ++i) {
      order[i] = i;
      work += work_of(pieces[i]);
    }
    const int64_t floats = scratch_floats(a.width);
    const auto run = [&](size_t i) {
      const Piece* after = i + 1 < pieces.size() ? &pieces[order[i + 1]] : nullptr;
      kernel.attend(a, pieces[order[i]], after, scratch(floats));
    };
    if (work * a.width < kInline) {
      for (size_t i = 0; i < pieces.size(); ++i) run(i);
    } else {
      // The longest first: what is left at the end is short.
      std::stable_sort(order.begin(), order.end(),
                       [&](size_t x, size_t y) { return work_of(pieces[x]) > work_of(pieces[y]); });
      context.parallel_for(pieces.size(), run);
    }
    for (const Cut& c : cuts)
      kernel.merge(a, pieces[c.first], c.segments, stride_of(a, pieces[c.first]), scratch(floats));
  }
};

}  // namespace

const OrtCustomOp* paged_attention() {
  static const Operator<PagedAttention> op;
  return &op;
}

}  // namespace optcc
