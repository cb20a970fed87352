#define SAMPLER_TABLE kSamplerAvx512
#include "simd/avx512.h"
#include "sampler/kernel.inc"
