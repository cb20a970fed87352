#define ATTENTION_TABLE kAttentionPortable
#include "simd/portable.h"
// Rows and vectors of keys, rows and vectors of values, that are accumulated in registers at a time.
#define QK_ROWS 6
#define QK_VECTORS 2
#define PV_ROWS 6
#define PV_VECTORS 2
#include "paged_attention/kernel.inc"
