// AVX2 without VNNI: products of bytes are added up in 16 bits first, which must not saturate.

#include <immintrin.h>

#include "kernel.h"

namespace {

template <int kBits>
static inline __attribute__((always_inline)) __m256i dot_part(__m256i sum, __m256i fields, __m256i levels) {
  if constexpr (kBits == 4) {  // 2 * 15 * 127 fits
    const __m256i pairs = _mm256_maddubs_epi16(fields, levels);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  } else {  // 2 * 255 * 127 doesn't: even and odd bytes by themselves, in 16 bits
    const __m256i even = _mm256_and_si256(fields, _mm256_set1_epi16(255)), odd = _mm256_srli_epi16(fields, 8);
    const __m256i even_levels = _mm256_srai_epi16(_mm256_slli_epi16(levels, 8), 8);
    const __m256i odd_levels = _mm256_srai_epi16(levels, 8);
    const __m256i products =
        _mm256_add_epi32(_mm256_madd_epi16(even, even_levels), _mm256_madd_epi16(odd, odd_levels));
    return _mm256_add_epi32(sum, products);
  }
}

}  // namespace

#include "lanes_avx2.inc"
// The algorithm over these lanes.
#include "kernel.inc"

const Kernels optcc::quantized_linear::kAvx2 = {quantize, integer, floating};
