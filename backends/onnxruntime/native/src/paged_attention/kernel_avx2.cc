#define ATTENTION_TABLE kAttentionAvx2
#include "simd/avx2.h"
// Rows and vectors of keys, rows and vectors of values, that are accumulated in registers at a time.
#define QK_ROWS 6
#define QK_VECTORS 2
#define PV_ROWS 6
#define PV_VECTORS 2
#include "paged_attention/kernel.inc"
