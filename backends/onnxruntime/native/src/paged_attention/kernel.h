// The arithmetic of paged attention, compiled once per instruction set.
//
// Rule for the per-instruction-set files (*_portable.cc, *_avx2.cc, *_avx512.cc): no standard C++ headers, nothing with
// external linkage but their one table. The linker keeps one copy of an inline or templated function for the whole
// library, and if it keeps the AVX-512 copy, an older processor dies on an illegal instruction in code that looks
// harmless. tests/native/test_build.py looks for such symbols.
//
// One row is one token's query in one head. Its result depends on its own query, its keys and values in order of their
// positions, and nothing else: not on the rows computed beside it, the step they came in, threads, or where pages lie.
// Keys are taken in chunks of kChunk and segments of kSegment, both counted from key 0. A chunk updates a segment's
// maximum, sum and result as in Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018, and Dao et
// al., "FlashAttention", 2022; segments are merged in order, as in "Flash-Decoding", 2023, whether they were computed
// one after another or at once. So are the chunks of the only segment: a chunk's weights are relative to its own best
// score, and what it found is the same alone.

#pragma once

#include <stdint.h>

namespace optcc {

constexpr int kMaxRows = 96;    // of one piece of work
constexpr int kFewRows = 6;     // of one KV head are computed with keys as they come from memory
constexpr int kChunk = 64;      // keys per update; a multiple of every vector's lanes
constexpr int kSegment = 256;   // keys that are computed apart from others; a multiple of kChunk
constexpr int kMaxWidth = 512;  // of a head

enum class KvType { kFloat, kHalf, kInt8 };

// One call. Shapes: q and out [T, H, C]. A block of the pools holds what [K, G, C] holds in another order, so that what
// is read together lies together: keys [N, G, C, K], values [N, G, K, C], scales [N, G, K] or null. place_in_block says
// more.
struct Attention {
  const float* q;
  float* out;
  const void* keys;
  const void* values;
  const float* key_scales;
  const float* value_scales;
  const float* sinks;  // [H], or null: a score more in each head's softmax, without a value
  KvType type;
  int64_t heads, kv_heads, width, block;
  int64_t window;  // 0: all keys
  float scale, softcap;
};

// A piece of work: some tokens of one request, in some heads that share a KV head, and in some KV heads.
struct Piece {
  const int32_t* table;  // the request's row of the block table
  int64_t token;         // the first one's row in q
  int64_t position;      // and its position in the request
  int64_t head;          // the first one
  int64_t kv_head;       // the first one
  int tokens, heads;     // `heads` in each KV head
  int groups;            // KV heads; tokens * heads * groups is at most kMaxRows
  bool own_queries;      // no other piece reads them: this one turns them
  bool own_keys;         // one piece sees all that the step adds to these KV heads of the request, and writes it
  int64_t first_key;     // a multiple of cut()
  int64_t end_key;
  float* partial;        // null: write results to `out`. Otherwise partial_floats(rows, width) of the keys

  int rows() const { return tokens * heads * groups; }
  // Keys that it may be computed apart from others in: its rows' segments, or chunks if they have but one.
  int64_t cut() const { return position + tokens <= kSegment ? kChunk : kSegment; }
  // Whether it is one such chunk, which is put together with others as a thread would that takes all.
  bool alone() const { return partial != nullptr && cut() == kChunk; }

  bool writes_keys() const { return own_keys && end_key == position + tokens; }
};

// Where channel i of key j lies in what one KV head has in a block, of `count` channels and `columns` keys; of values, i
// is the key and j the channel. `each` rows alternate, 2 of int8, as an instruction multiplies them; an odd one out lies
// behind the others as it is.
constexpr int64_t place_in_block(int64_t i, int64_t j, int64_t count, int64_t columns, int each) {
  return each == 2 && i < count - count % 2 ? (i / 2 * columns + j) * 2 + i % 2 : i * columns + j;
}

constexpr int64_t padded(int64_t width) { return (width + 15) / 16 * 16; }
// Of rows: results, then maxima, sums, and what results are multiplied with to be what they stand for.
constexpr int64_t partial_floats(int64_t rows, int64_t width) { return rows * padded(width) + 3 * padded(rows); }
constexpr int64_t scratch_floats(int64_t width) {
  return 2 * kChunk * padded(width) + kMaxRows * (3 * kChunk / 2 + 5 * padded(width) / 2) + 8 * (kMaxRows + 16) +
         16 * (2 * kChunk + 1);
}

struct AttentionKernel {
  // Floats as float16, to nearest, ties to even.
  void (*narrow)(const float* from, uint16_t* to, int64_t count);
  // Asks memory for what `attend` reads first of a piece.
  void (*fetch)(const Attention&, const Piece&);
  // `after` is the piece that the same thread takes next, as far as is known, or null: its first keys are fetched by
  // the way. `scratch` is scratch_floats(width) floats on a cache line.
  void (*attend)(const Attention&, const Piece&, const Piece* after, float* scratch);
  // The parts of a piece in order, `partial` apart by `stride`, into `out`. Uses `scratch` too.
  void (*merge)(const Attention&, const Piece&, int parts, int64_t stride, float* scratch);
};

extern const AttentionKernel kAttentionPortable;
extern const AttentionKernel kAttentionAvx2;    // if built: OPTCC_HAVE_AVX2
extern const AttentionKernel kAttentionAvx512;  // if built: OPTCC_HAVE_AVX512

}  // namespace optcc
