#include "cpu.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#define OPTCC_X86 1
#endif

namespace optcc {
namespace {

constexpr int kCount = static_cast<int>(Isa::kCount);
constexpr const char* kNames[kCount] = {"portable", "avx2", "avx2-vnni", "avx512"};

struct Features {
  bool avx2 = false, avx2_vnni = false, avx512 = false;
};

// Each set is all the features that the build lets its compiler use, not just the one in its name.
// Bits: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2A, CPUID.
Features detect() {
  Features found;
#ifdef OPTCC_X86
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return found;
  const bool osxsave = c >> 27 & 1, fma = c >> 12 & 1, f16c = c >> 29 & 1, avx = c >> 28 & 1;
  if (!osxsave || !fma || !f16c || !avx) return found;
  // Registers that the operating system doesn't save for us can't be used: XCR0 says which it saves.
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  const bool saves_ymm = (low & 0x06) == 0x06, saves_zmm = (low & 0xe6) == 0xe6;
  if (!saves_ymm || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;
  const unsigned deeper = a;
  found.avx2 = b >> 5 & 1;
  const bool f = b >> 16 & 1, dq = b >> 17 & 1, bw = b >> 30 & 1, vl = b >> 31 & 1, vnni = c >> 11 & 1;
  found.avx512 = found.avx2 && saves_zmm && f && dq && bw && vl && vnni;
  if (deeper >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) found.avx2_vnni = found.avx2 && (a >> 4 & 1);
#endif
  return found;
}

bool compiled(Isa isa) {
  switch (isa) {
    case Isa::kPortable:
      return true;
    case Isa::kAvx2:
#ifdef OPTCC_HAVE_AVX2
      return true;
#endif
      break;
    case Isa::kAvx2Vnni:
#ifdef OPTCC_HAVE_AVX2_VNNI
      return true;
#endif
      break;
    case Isa::kAvx512:
#ifdef OPTCC_HAVE_AVX512
      return true;
#endif
      break;
    case Isa::kCount:
      break;
  }
  return false;
}

Isa best() {
  for (int i = kCount - 1; i > 0; --i)
    if (isa_usable(static_cast<Isa>(i))) return static_cast<Isa>(i);
  return Isa::kPortable;
}

// Why `name` can't be used, or nullptr with `found` set. The texts live as long as the library.
const char* find(const char* name, Isa& found) {
  if (name == nullptr || *name == '\0') {
    found = best();
    return nullptr;
  }
  for (int i = 0; i < kCount; ++i) {
    if (std::strcmp(name, kNames[i]) != 0) continue;
    found = static_cast<Isa>(i);
    if (!compiled(found)) return "the compiler that built the native operators doesn't know this instruction set";
    return isa_usable(found) ? nullptr : "this processor, or its operating system, lacks this instruction set";
  }
  return "OPTCC_ISA is one of portable, avx2, avx2-vnni, avx512";
}

std::atomic<int> chosen{-1};

}  // namespace

const char* isa_name(Isa isa) { return kNames[static_cast<int>(isa)]; }

bool isa_usable(Isa isa) {
  static const Features features = detect();
  if (!compiled(isa)) return false;
  switch (isa) {
    case Isa::kAvx2:
      return features.avx2;
    case Isa::kAvx2Vnni:
      return features.avx2_vnni;
    case Isa::kAvx512:
      return features.avx512;
    default:
      return true;
  }
}

Isa isa() {
  const int now = chosen.load();
  if (now >= 0) return static_cast<Isa>(now);
  const char* wish = std::getenv("OPTCC_ISA");
  Isa found;
  if (const char* reason = find(wish, found))
    throw std::invalid_argument(std::string("OPTCC_ISA=") + wish + ": " + reason);
  chosen.store(static_cast<int>(found));
  return found;
}

const char* choose_isa(const char* name) {
  Isa found;
  if (const char* reason = find(name, found)) return reason;
  chosen.store(static_cast<int>(found));
  return nullptr;
}

bool fetches_past_caches() {
#ifdef OPTCC_X86
  static const bool amd = [] {
    unsigned a, b = 0, c = 0, d = 0;
    return __get_cpuid(0, &a, &b, &c, &d) && b == signature_AMD_ebx && c == signature_AMD_ecx && d == signature_AMD_edx;
  }();
  return amd;
#else
  return false;
#endif
}

}  // namespace optcc
