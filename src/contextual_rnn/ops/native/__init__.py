"""What the native kernels of all recurrences share: the library, its structs, autograd and operators."""
