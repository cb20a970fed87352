// What this machine can do at most, as JSON: bytes that one core reads from memory, bytes that `threads` read in pieces
// of `piece` bytes that lie anywhere, as pages of a cache do, products of 8-bit numbers of one core, and how long a line
// takes from one core to another and back, which is several times as long where they share no cache.
//   c++ -O3 -march=native -pthread limits.cc -o limits && ./limits [threads] [piece]

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#if defined(__AVX512VNNI__)
#include <immintrin.h>
#endif

static double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

typedef uint64_t Line __attribute__((vector_size(64)));  // of a cache

static uint64_t total(const Line& sum) {
  uint64_t all = 0;
  for (int i = 0; i < 8; i++) all += sum[i];
  return all;
}

// Reads lines in order; asks for what comes kAhead lines later, or leaves that to the processor, for which is faster
// depends on it.
template <bool kAsks>
static uint64_t read_all(const Line* data, size_t lines) {
  constexpr size_t kAhead = 96;
  Line first = {}, second = {};
  for (size_t i = 0; i + 2 <= lines; i += 2) {
    if (kAsks) {
      __builtin_prefetch(data + i + kAhead);
      __builtin_prefetch(data + i + kAhead + 1);
    }
    first += data[i];
    second += data[i + 1];
  }
  return total(first + second);
}

constexpr size_t kBytes = size_t(256) << 20;

// The least seconds of ten runs of each of two ways.
template <class Work>
static double least(const Work& work) {
  double best = 1e9;
  for (int round = 0; round < 20; round++) {
    const double start = now();
    work(round % 2 == 1);
    best = std::min(best, now() - start);
  }
  return best;
}

static Line* filled() {
  Line* data = static_cast<Line*>(aligned_alloc(64, kBytes));
  memset(data, 1, kBytes);
  return data;
}

// GB/s of reading in order.
static double read_rate(const Line* data) {
  volatile uint64_t kept = 0;
  const double best = least([&](bool asks) {
    kept = kept + (asks ? read_all<true>(data, kBytes / sizeof(Line)) : read_all<false>(data, kBytes / sizeof(Line)));
  });
  return kBytes / best / 1e9;
}

// GB/s of reading pieces in any order, each thread its share; with the piece after next asked for, or without.
static double piece_rate(const Line* data, size_t threads, size_t piece) {
  const size_t count = kBytes / piece, lines = piece / sizeof(Line);
  std::vector<uint32_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937(0));
  std::atomic<uint64_t> kept{0};  // or nothing would be read
  const auto share = [&](size_t first, size_t last, bool asks) {
    Line sum = {};
    for (size_t i = first; i < last; i++) {
      const Line *at = data + order[i] * lines, *later = data + order[std::min(i + 2, last - 1)] * lines;
      for (size_t line = 0; line < lines; line++) {
        if (asks) __builtin_prefetch(later + line);
        sum += at[line];
      }
    }
    kept += total(sum);
  };
  const double best = least([&](bool asks) {
    std::vector<std::thread> others;
    for (size_t t = 1; t < threads; t++) others.emplace_back(share, count * t / threads, count * (t + 1) / threads, asks);
    share(0, count / threads, asks);
    for (std::thread& other : others) other.join();
  });
  return count * piece / best / 1e9;
}

// Nanoseconds of a round trip of a line between two threads: the median of some.
static double round_trip() {
  constexpr int kTrips = 2000, kTimes = 25;
  std::vector<double> found;
  for (int time = 0; time < kTimes; time++) {
    alignas(64) std::atomic<int> turn{0};
    const auto answer = [&turn] {
      for (int i = 0; i < kTrips; i++) {
        while (turn.load(std::memory_order_acquire) != 2 * i + 1) continue;
        turn.store(2 * i + 2, std::memory_order_release);
      }
    };
    std::thread other(answer);
    const double start = now();
    for (int i = 0; i < kTrips; i++) {
      turn.store(2 * i + 1, std::memory_order_release);
      while (turn.load(std::memory_order_acquire) != 2 * i + 2) continue;
    }
    found.push_back((now() - start) / kTrips * 1e9);
    other.join();
  }
  std::sort(found.begin(), found.end());
  return found[kTimes / 2];
}

// 1e9 products and sums a second, 0 where there is no instruction for them that this program knows.
static double product_rate() {
#if defined(__AVX512VNNI__)
  // Written out, registers too: a compiler sees that all sums are the same and computes one, or stores each.
  const __m512i a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(2);
  const int count = 1000000;
  double best = 1e9;
#define OPTCC_TWO(x, y) "vpdpbusd %1, %0, %%zmm" #x "\n\tvpdpbusd %1, %0, %%zmm" #y "\n\t"
  for (int round = 0; round < 20; round++) {
    const double start = now();
    for (int i = 0; i < count; i++) {
      __asm__ volatile(OPTCC_TWO(16, 17) OPTCC_TWO(18, 19) OPTCC_TWO(20, 21) OPTCC_TWO(22, 23) OPTCC_TWO(24, 25)
                           OPTCC_TWO(26, 27) OPTCC_TWO(28, 29) OPTCC_TWO(30, 31)
                       :
                       : "v"(a), "v"(b)
                       : "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25",
                         "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31");
    }
    const double took = now() - start;
    if (took < best) best = took;
  }
#undef OPTCC_TWO
  return count * 16.0 * 64.0 / best / 1e9;
#else
  return 0;
#endif
}

int main(int count, char** given) {
  const size_t threads = count > 1 ? strtoul(given[1], nullptr, 10) : 1;
  const size_t piece = count > 2 ? strtoul(given[2], nullptr, 10) / 64 * 64 : 3072;
  if (threads == 0 || piece == 0 || piece > kBytes / 64) return 2;
  Line* data = filled();
  const double pieces = piece_rate(data, threads, piece);
  printf("{\"read_gb_s\": %.1f, \"pieces_gb_s\": %.1f, \"products_g_s\": %.1f, \"round_trip_ns\": %.0f}\n", read_rate(data),
         pieces, product_rate(), threads > 1 ? round_trip() : 0.0);
  free(data);
}
