#define SAMPLER_TABLE kSamplerPortable
#include "simd/portable.h"
#include "sampler/kernel.inc"
