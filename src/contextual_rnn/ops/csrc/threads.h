// Tasks on the threads of PyTorch.

#pragma once

#include <cstdint>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

// run(context, task, thread) for every task, on at most so many threads, and no more than there are tasks or than torch
// uses now.
extern "C" void contextual_rnn_parallel(int64_t tasks, int64_t threads, void (*run)(const void*, int64_t, int64_t),
                                        const void* context);

namespace {

// While one of these lives, subnormal numbers are zeros on its thread. What fades away, such as the gradients of early
// steps, ends among them, and Intel's processors take a hundred cycles for each.
struct SubnormalsAsZeros {
#if defined(__SSE__)
    static constexpr unsigned results = 0x8000, operands = 0x0040;
    const unsigned before = _mm_getcsr();

    SubnormalsAsZeros() { _mm_setcsr(before | results | operands); }
    ~SubnormalsAsZeros() { _mm_setcsr(before); }
#else
    SubnormalsAsZeros() {}  // other processors take no longer with them
#endif
};

// body(task, thread) for every task.
template <typename Body>
void parallel(int64_t tasks, int64_t threads, const Body& body) {
    const auto run = [](const void* context, int64_t task, int64_t thread) {
        const SubnormalsAsZeros mode;
        (*static_cast<const Body*>(context))(task, thread);
    };
    contextual_rnn_parallel(tasks, threads, run, &body);
}

}  // namespace
