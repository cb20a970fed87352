#define SAMPLER_TABLE kSamplerAvx2
#include "simd/avx2.h"
#include "sampler/kernel.inc"
