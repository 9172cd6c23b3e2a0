// The layout of what callers fill in, by its hash: a caller that was written for another build has another.

#include "problem.h"

extern "C" uint64_t gated_problem_layout() { return hash_of_layout(GATED_PROBLEM(DESCRIBE_FIELD)); }
extern "C" uint64_t gated_stream_layout() { return hash_of_layout(GATED_STREAM(DESCRIBE_FIELD)); }
