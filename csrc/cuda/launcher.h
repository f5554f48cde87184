// How launchers meet the device: the runtime of CUDA, or the emulator of tests/csrc.
#pragma once

#include <cstdint>

#include "device.h"

namespace maedfer {

// cudaErrorNotSupported: there is no kernel, and nothing was launched.
constexpr int kUnsupported = 801;

#ifdef MAEDFER_EMULATE

template <class Arguments>
int launch_kernel(void (*kernel)(Arguments), int64_t blocks, int threads, int64_t shared_bytes,
                  const Arguments &arguments, void *) {
    return simt::machine().run(blocks, threads, shared_bytes, [&] { kernel(arguments); }) ? 0 : 1;
}

#else

template <class Arguments>
int launch_kernel(void (*kernel)(Arguments), int64_t blocks, int threads, int64_t shared_bytes,
                  const Arguments &arguments, void *stream) {
    if (blocks == 0) return cudaSuccess;
    if (blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
    kernel<<<static_cast<unsigned>(blocks), threads, shared_bytes, static_cast<cudaStream_t>(stream)>>>(arguments);
    return cudaGetLastError();
}

#endif

inline bool aligned(const void *pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

}  // namespace maedfer
