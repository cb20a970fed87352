#include "simd/avx2.h"
// The algorithm over these vectors.
#include "quantized_linear/prepare.inc"

const optcc::quantized_linear::Prepare optcc::quantized_linear::kPrepareAvx2 = {
    rms_norm, gated<silu_of>, gated<gelu_tanh_of>};
