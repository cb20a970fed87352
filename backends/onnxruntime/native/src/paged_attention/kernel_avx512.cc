#define ATTENTION_TABLE kAttentionAvx512
#include "simd/avx512.h"
// Rows and vectors of keys, rows and vectors of values, that are accumulated in registers at a time.
#define QK_ROWS 6
#define QK_VECTORS 4
#define PV_ROWS 6
#define PV_VECTORS 4
#include "paged_attention/kernel.inc"
