// Which instruction set the kernels use: found once, from what the processor and the operating system offer.

#pragma once

namespace optcc {

// In order of preference, the last one first.
enum class Isa : int { kPortable, kAvx2, kAvx2Vnni, kAvx512, kCount };

// "portable", "avx2", "avx2-vnni", "avx512": the names that OPTCC_ISA takes.
const char* isa_name(Isa isa);

// Whether the kernels of this set were compiled into the library and this machine can run them.
bool isa_usable(Isa isa);

// The set in use: the best usable one, or the one OPTCC_ISA or `choose_isa` asks for.
// Throws std::invalid_argument when OPTCC_ISA names one that can't be used.
Isa isa();

// Use another set from now on, for kernels made after this; nullptr or "" goes back to the best one.
// Returns nullptr, or why it can't be used.
const char* choose_isa(const char* name);

// Whether lines fetched as non-temporal spare the caches for what is used again and come no later: so on AMD's Zen 5,
// and not tried elsewhere.
bool fetches_past_caches();

}  // namespace optcc
