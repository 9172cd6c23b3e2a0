// Tasks on the threads of PyTorch.

#pragma once

#include <cstdint>

// run(context, task, thread) for every task, on at most so many threads, and no more than there are tasks or than torch
// uses now.
extern "C" void contextual_rnn_parallel(int64_t tasks, int64_t threads, void (*run)(const void*, int64_t, int64_t),
                                        const void* context);

namespace {

// body(task, thread) for every task.
template <typename Body>
void parallel(int64_t tasks, int64_t threads, const Body& body) {
    const auto run = [](const void* context, int64_t task, int64_t thread) {
        (*static_cast<const Body*>(context))(task, thread);
    };
    contextual_rnn_parallel(tasks, threads, run, &body);
}

}  // namespace
