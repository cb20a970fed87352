#define ATTENTION_TABLE kAttentionAvx2
#include "simd/avx2.h"
// Vectors of keys, and of a value, that six rows are accumulated with in registers.
#define QK_VECTORS 2
#define PV_VECTORS 2
// Vectors of scores whose powers of 2 are taken at once.
#define EXP_VECTORS 2
#include "paged_attention/kernel.inc"
