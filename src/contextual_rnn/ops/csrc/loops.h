// Loops whose counts the compiler knows, and memory handed out, for one instruction set.
//
// Nothing of the standard library is called from here: the linker would keep one instruction set's copy of an inline
// function for all.

#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#define INLINE __attribute__((always_inline))
// For what takes long to compile, and longer than a call to run: compiled once, not once for each caller.
#define NOINLINE __attribute__((noinline))

namespace {

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t larger(int64_t a, int64_t b) { return a < b ? b : a; }

#if defined(__AVX512F__)
constexpr int bytes = 64, sums = 12, tile = 4, panel = 27, panel_columns = 4;
#elif defined(__AVX__)
constexpr int bytes = 32, sums = 10, tile = 3, panel = 12, panel_columns = 2;
#else
constexpr int bytes = 16, sums = 8, tile = 3, panel = 8, panel_columns = 2;
#endif

template <int n>
struct Count {
    static constexpr int value = n;
    constexpr operator int() const { return n; }
};

// body(0) .. body(n - 1), written out: a loop that the compiler unrolls late leaves its registers in memory.
template <typename Body, int... k>
inline INLINE void each(std::integer_sequence<int, k...>, const Body& body) {
    (body(Count<k>()), ...);
}
template <int n, typename Body>
inline INLINE void each(const Body& body) {
    each(std::make_integer_sequence<int, n>(), body);
}

template <int most, typename Body>
inline INLINE void with_count(int64_t count, int64_t at, const Body& body) {
    if constexpr (most == 1)
        body(Count<1>(), at);
    else if (count == most)
        body(Count<most>(), at);
    else
        with_count<most - 1>(count, at, body);
}

// Covers 0 .. n with blocks of about equal size, at most `most`; body(size, start).
template <typename Body>
inline INLINE void in_blocks(int64_t most, int64_t n, const Body& body) {
    int64_t blocks = (n + most - 1) / most;
    for (int64_t at = 0; blocks; --blocks) {
        const int64_t count = (n - at + blocks - 1) / blocks;
        body(count, at);
        at += count;
    }
}

// Likewise, with sizes that the compiler knows: body(Count, start) is compiled for each.
template <int most, typename Body>
inline INLINE void in_blocks(int64_t n, const Body& body) {
    in_blocks(most, n, [&](int64_t count, int64_t at) INLINE { with_count<most>(count, at, body); });
}

// Hands out memory; counts it where there is none.
struct Arena {
    uintptr_t base;
    int64_t used = 0;

    explicit Arena(const void* memory) : base(reinterpret_cast<uintptr_t>(memory)) {}
    template <typename T>
    T* take(int64_t size) {
        const int64_t from = used;
        used += (size * static_cast<int64_t>(sizeof(T)) + bytes - 1) / bytes * bytes;
        return reinterpret_cast<T*>(base + from);
    }
};

// Bytes that a pass takes: its tables for all threads, and memory to work in for each.
template <typename Pass>
int64_t scratch_size(const Pass& pass, int64_t threads) {
    Arena arena(nullptr);
    pass.place_shared(arena);
    const int64_t shared = arena.used;
    pass.place_work(arena);
    return shared + (arena.used - shared) * threads;
}

// What one of the threads works in; `arena` has handed out the tables.
template <typename Pass>
auto work_of(const Pass& pass, Arena arena, int64_t thread) {
    const int64_t shared = arena.used;
    pass.place_work(arena);
    arena.used = shared + (arena.used - shared) * thread;
    return pass.place_work(arena);
}

}  // namespace
