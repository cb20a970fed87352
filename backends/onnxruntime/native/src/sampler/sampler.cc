// Choosing a token from a row of logits: what optcc/runtime/sampler.py says, without sorting the vocabulary.
//
// The order of tokens is (logit falling, id rising). Nothing but the few that decide is ever brought into it: where the
// mass of the most likely ones reaches an amount is found by bounds that enclose it and weighted quickselect between
// them, in linear time.

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <exception>
#include <functional>
#include <limits>
#include <vector>

#include "cpu.h"
#include "sampler/kernel.h"
#include "sampler/philox.h"

namespace optcc {
namespace {

const SamplerKernel& kernel() {
  switch (isa()) {
#ifdef OPTCC_HAVE_AVX512
    case Isa::kAvx512: return kSamplerAvx512;
#endif
#ifdef OPTCC_HAVE_AVX2
    case Isa::kAvx2Vnni:
    case Isa::kAvx2: return kSamplerAvx2;
#endif
    default: return kSamplerPortable;
  }
}

struct Choice {
  double temperature;  // 0: the largest
  int64_t top_k;       // 0: all
  double top_p;        // 1: all
  double number;       // in [0, 1)
};

// A token as one integer that falls in the order of tokens: its logit's bits, made to compare as the logit does, then
// what is left of 2^32 behind its id.
using Token = uint64_t;

Token token_of(float logit, int64_t id) {
  logit += 0.0f;  // -0 and 0 are equal
  uint32_t bits;
  memcpy(&bits, &logit, sizeof bits);
  bits ^= bits >> 31 ? 0xffffffffu : 0x80000000u;
  return static_cast<uint64_t>(bits) << 32 | (0xffffffffu - static_cast<uint32_t>(id));
}
int64_t id_of(Token token) { return 0xffffffffu - static_cast<uint32_t>(token); }

// What one row needs, kept between calls.
struct Scratch {
  std::vector<float> maxima, sums, weights, order;
  std::vector<int32_t> ids;
  std::vector<Token> tokens;
};

double mass_of(const Token* first, const Token* last, const Scratch& s) {
  double mass = 0.0;
  for (; first < last; ++first) mass += s.weights[id_of(*first)];
  return mass;
}

// Brings the shortest beginning of the order with a mass of at least `mass` to the front and returns its end; all if
// there is not that much. The last of the beginning lies at its end.
Token* beginning(Token* first, Token* last, double mass, const Scratch& s) {
  while (last - first > 1) {
    Token* middle = first + (last - first) / 2;
    std::nth_element(first, middle, last, std::greater<Token>());
    const double upper = mass_of(first, middle, s);
    if (upper >= mass) {
      last = middle;  // the boundary lies before the middle
    } else {
      mass -= upper;
      first = middle;
    }
  }
  return first + 1;
}

// The token at `number` of the mass of the first ones, in their order: those that reach `top_p` of all their mass.
int64_t draw(const Choice& choice, double total, Scratch& s) {
  Token* first = s.tokens.data();
  Token* end = first + s.tokens.size();
  if (choice.top_p < 1.0) end = beginning(first, end, choice.top_p * total, s);
  // More than nothing, so that the first of all is the least.
  const double target = choice.number * mass_of(first, end, s);
  return id_of(beginning(first, end, std::nextafter(target, std::numeric_limits<double>::max()), s)[-1]);
}

// The k largest of a row and their weights; returns their mass. At least k elements reach the k-th largest maximum of blocks, so only blocks
// whose maximum does are looked into.
double largest(const float* row, int64_t n, int64_t k, float max, double temperature, Scratch& s) {
  float bound = -INFINITY;
  if (k <= static_cast<int64_t>(s.maxima.size())) {
    s.order = s.maxima;
    std::nth_element(s.order.begin(), s.order.begin() + (k - 1), s.order.end(), std::greater<float>());
    bound = s.order[k - 1];
  }
  s.tokens.clear();
  for (int64_t block = 0; block < blocks_of(n); ++block) {
    if (s.maxima[block] < bound) continue;
    const int64_t end = std::min<int64_t>((block + 1) * kBlock, n);
    for (int64_t i = block * kBlock; i < end; ++i)
      if (row[i] >= bound) s.tokens.push_back(token_of(row[i], i));
  }
  std::nth_element(s.tokens.begin(), s.tokens.begin() + (k - 1), s.tokens.end(), std::greater<Token>());
  s.tokens.resize(k);
  double mass = 0.0;
  const auto nothing = [&](Token token) {
    const int64_t id = id_of(token);
    s.weights[id] = static_cast<float>(exp((static_cast<double>(row[id]) - max) / temperature));
    mass += s.weights[id];
    return s.weights[id] == 0.0f;
  };
  s.tokens.erase(std::remove_if(s.tokens.begin(), s.tokens.end(), nothing), s.tokens.end());
  return mass;
}

// The order of all tokens of a row, by how much the most likely ones weigh together. Bounds of logits enclose the place
// where a mass is reached, closer each time; only what lies between two of them is brought into order.
class Likely {
 public:
  // `rest`: the mass of the tokens that nobody asks for.
  Likely(const SamplerKernel& kernel, const float* row, int64_t n, float max, double temperature, double rest,
         Scratch& s)
      : kernel_(kernel), row_(row), n_(n), max_(max), s_(s) {
    // All tokens below this one together weigh less than the rest.
    const double lowest = max + temperature * log(rest / static_cast<double>(n));
    const double least = *std::min_element(s.maxima.begin(), s.maxima.end());
    lowest_ = static_cast<float>(std::max({lowest, least, -static_cast<double>(std::numeric_limits<float>::max())}));
    spread(max, lowest_, bounds_);
    kernel.masses(row, n, s.maxima.data(), s.weights.data(), bounds_, masses_);
  }

  struct Place {
    Token token;
    double mass;  // of it and all before it
  };

  // The first token with which at least `mass` is reached; the last one if there is not that much.
  Place reach(double mass) {
    Enclosed between{-INFINITY, INFINITY, 0.0};
    between.close(bounds_, masses_, mass);
    float bounds[kBounds];
    double masses[kBounds];
    const float upper = std::min(between.upper, max_);
    spread(upper, between.lower == -INFINITY ? upper - (max_ - upper) : between.lower, bounds);
    kernel_.masses(row_, n_, s_.maxima.data(), s_.weights.data(), bounds, masses);
    between.close(bounds, masses, mass);
    collect(between);
    if (s_.tokens.empty()) {  // rounding: the sum of all was more
      between = {-INFINITY, INFINITY, 0.0};
      collect(between);
    }
    const Token* first = s_.tokens.data();
    const Token* end = beginning(s_.tokens.data(), s_.tokens.data() + s_.tokens.size(), mass - between.above, s_);
    return {end[-1], between.above + mass_of(first, end, s_)};
  }

 private:
  // Tokens whose logits are below `upper`, which `above` is the mass of, and not below `lower`.
  struct Enclosed {
    float lower, upper;
    double above;

    void close(const float* bounds, const double* masses, double mass) {
      for (int k = 0; k < kBounds; ++k) {
        if (masses[k] >= mass) {
          lower = std::max(lower, bounds[k]);
          return;
        }
        if (bounds[k] < upper) {
          upper = bounds[k];
          above = masses[k];
        }
      }
    }
  };

  static void spread(float upper, float lower, float* bounds) {
    for (int k = 0; k < kBounds; ++k)
      bounds[k] = upper - (upper - lower) * static_cast<float>(k + 1) * (1.0f / kBounds);
  }

  void collect(const Enclosed& between) {
    s_.ids.resize(static_cast<size_t>(n_));
    const int64_t count = kernel_.between(row_, n_, s_.maxima.data(), between.lower, between.upper, s_.ids.data());
    s_.tokens.clear();
    for (int64_t i = 0; i < count; ++i) {
      const int32_t id = s_.ids[i];
      if (s_.weights[id] > 0.0f) s_.tokens.push_back(token_of(row_[id], id));
    }
  }

  const SamplerKernel& kernel_;
  const float* row_;
  const int64_t n_;
  const float max_;
  Scratch& s_;
  float lowest_, bounds_[kBounds];
  double masses_[kBounds];
};

// The token at `number` of the mass of all, in the order of their ids.
int64_t draw_any(const Scratch& s, double total, double number) {
  double left = number * total;
  int64_t last = 0;
  for (size_t block = 0; block < s.sums.size(); ++block) {
    if (s.sums[block] == 0.0f) continue;
    const int64_t first = static_cast<int64_t>(block) * kBlock;
    const bool here = left < s.sums[block];
    for (int64_t i = first; i < first + kBlock; ++i) {
      if (s.weights[i] == 0.0f) continue;
      last = i;
      if (here && left < s.weights[i]) return i;
      if (here) left -= s.weights[i];
    }
    if (here) return last;  // rounding: the block's sum is not the sum of its parts
    left -= s.sums[block];
  }
  return last;
}

// -1 for a row that holds a NaN or +infinity, or nothing else than -infinity.
int64_t choose(const SamplerKernel& kernel, const float* row, int64_t n, const Choice& choice, Scratch& s) {
  s.maxima.resize(blocks_of(n));
  if (!kernel.maxima(row, n, s.maxima.data())) return -1;
  const auto best = std::max_element(s.maxima.begin(), s.maxima.end());  // the first of equals
  const float max = *best;
  if (max == -INFINITY) return -1;
  if (choice.temperature == 0.0) {
    const float* first = row + (best - s.maxima.begin()) * kBlock;
    return std::find(first, row + n, max) - row;
  }
  s.weights.resize(blocks_of(n) * kBlock);
  if (choice.top_k > 0 && choice.top_k < n) {
    const double total = largest(row, n, choice.top_k, max, choice.temperature, s);
    return draw(choice, total, s);
  }
  using Float = std::numeric_limits<float>;
  const double temperature = std::clamp<double>(choice.temperature, 10 * Float::min(), Float::max());
  s.sums.resize(blocks_of(n));
  kernel.weigh(row, n, max, static_cast<float>(1.0 / temperature), s.weights.data(), s.sums.data());
  double total = 0.0;
  for (const float sum : s.sums) total += sum;
  if (choice.top_p >= 1.0) return draw_any(s, total, choice.number);
  const double mass = choice.top_p * total;
  Likely likely(kernel, row, n, max, temperature, total - mass, s);
  const Likely::Place last = likely.reach(mass);
  // More than nothing, so that the first of all is the least.
  const double target = std::nextafter(choice.number * last.mass, std::numeric_limits<double>::max());
  return id_of(std::max(likely.reach(target).token, last.token));  // no later than the last, whatever was rounded
}

}  // namespace
}  // namespace optcc

// One token for each row of f32[rows, vocab]. Returns -1, the first row that has no answer (see `choose`), or -2 when
// OPTCC_ISA names an instruction set that can't be used.
extern "C" __attribute__((visibility("default"))) int64_t optcc_sample(
    const float* logits, int64_t rows, int64_t vocab, const double* temperatures, const int64_t* top_k,
    const double* top_p, const uint64_t* seeds, const int64_t* positions, int64_t* tokens) {
  using namespace optcc;
  thread_local Scratch scratch;
  const SamplerKernel* kernel;
  try {
    kernel = &optcc::kernel();
  } catch (const std::exception&) {
    return -2;
  }
  for (int64_t r = 0; r < rows; ++r) {
    const double number = temperatures[r] == 0.0 ? 0.0 : uniform(seeds[r], static_cast<uint64_t>(positions[r]));
    const Choice choice = {temperatures[r], top_k[r], top_p[r], number};
    tokens[r] = choose(*kernel, logits + r * vocab, vocab, choice, scratch);
    if (tokens[r] < 0) return r;
  }
  return -1;
}
