// The vector part of choosing a token, compiled once per instruction set. The rules of paged_attention/kernel.h hold.

#pragma once

#include <stdint.h>

namespace optcc {

constexpr int kBlock = 64;  // elements whose maximum and sum are kept; a multiple of every vector's lanes

constexpr int kBounds = 8;  // whose masses are summed up together

constexpr int64_t blocks_of(int64_t n) { return (n + kBlock - 1) / kBlock; }

struct SamplerKernel {
  // The largest of every block into `maxima`, blocks_of(n) floats. False if a NaN or +infinity is among the elements.
  bool (*maxima)(const float* row, int64_t n, float* maxima);
  // e^((row - max) * factor) into `weights`, blocks_of(n) * kBlock floats, 0 behind the end and below e^-87;
  // their sums by block into `sums`.
  void (*weigh)(const float* row, int64_t n, float max, float factor, float* weights, float* sums);
  // The weights of all elements that reach each of kBounds falling bounds, summed up. One bound always gives one sum.
  void (*masses)(const float* row, int64_t n, const float* maxima, const float* weights, const float* bounds,
                 double* masses);
  // Where elements lie that reach `lower` and not `upper`, in order, into `ids`: room for n. Returns how many.
  int64_t (*between)(const float* row, int64_t n, const float* maxima, float lower, float upper, int32_t* ids);
};

extern const SamplerKernel kSamplerPortable;
extern const SamplerKernel kSamplerAvx2;    // if built: OPTCC_HAVE_AVX2
extern const SamplerKernel kSamplerAvx512;  // if built: OPTCC_HAVE_AVX512

}  // namespace optcc
