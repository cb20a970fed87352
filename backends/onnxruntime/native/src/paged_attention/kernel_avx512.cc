#define ATTENTION_TABLE kAttentionAvx512
#include "simd/avx512.h"
// Vectors of keys, and of a value, that six rows are accumulated with in registers.
#define QK_VECTORS 4
#define PV_VECTORS 4
// Vectors of scores whose powers of 2 are taken at once.
#define EXP_VECTORS 4
#include "paged_attention/kernel.inc"
