// Memory that is needed soon comes into the cache while a loop works on what is in registers: a line at each turn. Were
// many lines fetched at once, or only where they are needed, the processor would wait for them.

#pragma once

#include "loops.h"

namespace {

class Fetch {
    static constexpr int64_t line = 64;

public:
    struct Piece {
        const char *at, *end;
    };

    // `pieces` has room for all that are added.
    explicit Fetch(Piece* pieces = nullptr) : next(pieces), last(pieces) {}

    template <typename T>
    void add(const T* from, int64_t size) {
        *last++ = {reinterpret_cast<const char*>(from), reinterpret_cast<const char*>(from + size)};
    }

    // work(k) for k from 0 to before n.
    template <typename Work>
    inline INLINE void during(int64_t n, const Work& work) {
        int64_t k = 0;
        for (; k < n && next != last; next += next->at >= next->end) {
            const char* at = next->at;
            for (const char* const end = next->end; k < n && at < end; ++k, at += line) {
                __builtin_prefetch(at, 0, 2);
                work(k);
            }
            next->at = at;
        }
        for (; k < n; ++k) work(k);
    }

private:
    Piece *next, *last;
};

}  // namespace
