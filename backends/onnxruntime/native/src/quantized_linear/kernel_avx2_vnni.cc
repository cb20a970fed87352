// AVX2 with AVX-VNNI.

#include <immintrin.h>

#include "kernel.h"

namespace {

template <int kBits>
static inline __attribute__((always_inline)) __m256i dot_part(__m256i sum, __m256i fields, __m256i levels) {
  // Written out as in kernel_avx512.cc; AVX-VNNI has no other encoding than this one.
  __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(fields), "x"(levels));
  return sum;
}

}  // namespace

#include "lanes_avx2.inc"
// The algorithm over these lanes.
#include "kernel.inc"

const Kernels optcc::quantized_linear::kAvx2Vnni = {quantize, integer, floating};
