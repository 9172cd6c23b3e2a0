// The layouts of what callers fill in, by their hashes: a caller that was written for another build has others.

#include "problem.h"

extern "C" uint64_t fast_weights_problem_layout() {
    return hash_of_layout(FAST_WEIGHTS_PROBLEM(DESCRIBE_FIELD));
}

extern "C" uint64_t fast_weights_classification_layout() {
    return hash_of_layout(FAST_WEIGHTS_PROBLEM(DESCRIBE_FIELD) FAST_WEIGHTS_CLASSIFICATION(DESCRIBE_FIELD)
                          FAST_WEIGHTS_HEAD(DESCRIBE_FIELD, h0_) FAST_WEIGHTS_HEAD(DESCRIBE_FIELD, a0_)
                          FAST_WEIGHTS_HEAD(DESCRIBE_FIELD, left_) FAST_WEIGHTS_HEAD(DESCRIBE_FIELD, right_));
}

extern "C" uint64_t fast_weights_stream_layout() { return hash_of_layout(FAST_WEIGHTS_STREAM(DESCRIBE_FIELD)); }
