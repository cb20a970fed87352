// AVX2 with AVX-VNNI.

#include <immintrin.h>

#include "kernel.h"

namespace {

template <int kBits>
static inline __attribute__((always_inline)) __m256i dot_part(__m256i sum, __m256i fields, __m256i levels) {
  return _mm256_dpbusd_avx_epi32(sum, fields, levels);
}

}  // namespace

#include "lanes_avx2.inc"
// The algorithm over these lanes.
#include "kernel.inc"

const Kernels optcc::quantized_linear::kAvx2Vnni = {quantize, integer, floating};
