// Tasks on the threads of PyTorch.
//
// They belong to the OpenMP library that PyTorch brought along, whose entry points are looked up in the process. Linked
// at build time it could be a second copy, and two pools of threads get in each other's way.

#include "threads.h"

#if !defined(_WIN32)
#include <dlfcn.h>
#endif

namespace {

struct OpenMP {
    void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;
    int (*thread)() = nullptr;
    int (*threads)() = nullptr;
    int (*most)() = nullptr;

    OpenMP() {
#if !defined(_WIN32)
        const auto find = [](const char* name) { return dlsym(RTLD_DEFAULT, name); };
        thread = reinterpret_cast<int (*)()>(find("omp_get_thread_num"));
        threads = reinterpret_cast<int (*)()>(find("omp_get_num_threads"));
        most = reinterpret_cast<int (*)()>(find("omp_get_max_threads"));
        if (thread && threads && most)
            parallel = reinterpret_cast<void (*)(void (*)(void*), void*, unsigned, unsigned)>(find("GOMP_parallel"));
#endif
    }
};

const OpenMP& openmp() {
    static const OpenMP found;
    return found;
}

struct Tasks {
    int64_t tasks;
    void (*run)(const void*, int64_t, int64_t);
    const void* context;
};

void run_share(void* data) {
    const Tasks& all = *static_cast<const Tasks*>(data);
    const int64_t thread = openmp().thread(), threads = openmp().threads();
    for (int64_t task = all.tasks * thread / threads; task < all.tasks * (thread + 1) / threads; ++task)
        all.run(all.context, task, thread);
}

}  // namespace

// Whether there are threads to share.
extern "C" int64_t contextual_rnn_has_threads() { return openmp().parallel != nullptr; }

extern "C" void contextual_rnn_parallel(int64_t tasks, int64_t threads, void (*run)(const void*, int64_t, int64_t),
                                        const void* context) {
    threads = threads < tasks ? threads : tasks;
    if (threads > 1 && openmp().parallel) {
        // What torch.set_num_threads set last, as each worker of a DataLoader does: a forked process has no other thread.
        const int64_t most = openmp().most();
        threads = threads < most ? threads : most;
    }
    if (threads > 1 && openmp().parallel) {
        Tasks all = {tasks, run, context};
        openmp().parallel(run_share, &all, static_cast<unsigned>(threads), 0);
        return;
    }
    for (int64_t task = 0; task < tasks; ++task) run(context, task, 0);
}
