// The fields of a struct that a caller fills in, written once as a list of FIELD(type, name).
//
// The struct and a hash of its layout both come from that list. A caller that was written for other fields, or for the
// same in another order, has another hash. `Layout` of native/layout.py computes it too.

#pragma once

#include <cstdint>

// All of eight bytes.
namespace field {
using integer = int64_t;
using real = double;
using input = const void*;
using indices = const int64_t*;
using result = void*;
}  // namespace field

#define DECLARE_FIELD(type, name) field::type name;
#define DESCRIBE_FIELD(type, name) #type " " #name ";"

// FNV-1a of 64 bits.
constexpr uint64_t hash_of_layout(const char* description) {
    uint64_t hash = 14695981039346656037u;
    for (; *description; ++description) hash = (hash ^ static_cast<unsigned char>(*description)) * 1099511628211u;
    return hash;
}
