// Several linears, each of which reads the one before, inside of one loop of ONNX Runtime's threads: handing a loop
// over takes as long as multiplying a row by a small table.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <optional>

#include "crowd.h"
#include "job.h"

namespace optcc::quantized_linear {

// Parts in runs of neighbours. Who comes as the i-th begins with run i, and helps others when that is done.
class Runs {
 public:
  static constexpr size_t kMost = 32;

  void share(int64_t parts, size_t runs) {
    parts_ = parts;
    count_ = runs;
    for (size_t i = 0; i < runs; i++) runs_[i].next.store(begin(i), std::memory_order_relaxed);
  }

  // The first part of who comes as the `seat`-th.
  int64_t first(size_t seat) const { return begin(seat % count_); }

  // Calls body(part) for all that nobody else takes; how many those were.
  template <class Body>
  int64_t take(size_t seat, const Body& body) {
    int64_t taken = 0;
    for (size_t i = 0; i < count_; i++) {
      const size_t run = (seat + i) % count_;
      std::atomic<int64_t>& next = runs_[run].next;
      const int64_t end = begin(run + 1);
      for (int64_t at; (at = next.load(std::memory_order_relaxed)) < end;) {
        // Of another's run half of what is left: asking for each part would cost both as much as the part.
        const int64_t want = i == 0 ? 1 : (end - at + 1) / 2;
        const int64_t first = next.fetch_add(want, std::memory_order_relaxed), last = std::min(end, first + want);
        for (int64_t part = first; part < last; part++) body(part);
        taken += std::max<int64_t>(0, last - first);
      }
    }
    return taken;
  }

 private:
  int64_t begin(size_t run) const { return parts_ * static_cast<int64_t>(run) / static_cast<int64_t>(count_); }

  struct Run {
    alignas(64) std::atomic<int64_t> next;
  };

  int64_t parts_ = 0;
  size_t count_ = 0;
  std::array<Run, kMost> runs_;
};

// One linear of several.
class Leg {
 public:
  Leg(const Job& job, size_t threads) : job_(job), rows_(job.from.rows, job.from.rows), parts_(job.parts()) {
    runs_.share(parts_, threads);
  }

  bool done() const { return done_.load(std::memory_order_acquire) == parts_; }

  // What the one that comes as the `seat`-th will read from the table.
  Soon soon(size_t seat) const { return job_.soon(job_.part(runs_.first(seat))); }

  void work(size_t seat, Soon& soon) {
    if (job_.linear.makes()) job_.finish(rows_, 0, soon);
    const int64_t taken = runs_.take(seat, [&](int64_t index) {
      const Part part = job_.part(index);
      job_.claim(part);
      job_.multiply(part);
    });
    if (taken > 0) done_.fetch_add(taken, std::memory_order_acq_rel);
  }

 private:
  const Job& job_;
  SharedRows rows_;
  Runs runs_;
  const int64_t parts_;
  alignas(64) std::atomic<int64_t> done_{0};
};

// The first `count` jobs, of one block of rows, one after the other. Only what a running thread took is waited for, so
// that any number of threads, one too, comes to an end; one that comes when all is done leaves at once.
template <size_t N>
void run_together(Context& context, const std::array<std::optional<Job>, N>& jobs, size_t count) {
  std::array<std::optional<Leg>, N> legs;
  for (size_t i = 0; i < count; i++) legs[i].emplace(*jobs[i], std::min(Crowd::seen(), Runs::kMost));
  std::atomic<size_t> seats{0};
  context.parallel_for(Crowd::offered(), [&](size_t) {
    if (legs[count - 1]->done()) return;
    const size_t seat = seats.fetch_add(1, std::memory_order_relaxed);
    Crowd::saw(seat + 1);
    for (size_t i = 0; i < count; i++) {
      Soon soon = legs[i]->soon(seat);
      while (i > 0 && !legs[i - 1]->done()) soon.ask();
      if (!legs[i]->done()) legs[i]->work(seat, soon);
    }
  });
}

}  // namespace optcc::quantized_linear
