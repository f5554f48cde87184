// How launchers meet the device: the runtime of CUDA, or the emulator of tests/csrc with the sizes of an H100.
#pragma once

#include <cstdint>

#include "device.h"
#include "launch.h"

namespace maedfer {

#ifdef MAEDFER_EMULATE

template <class Arguments>
int launch_kernel(void (*kernel)(Arguments), int64_t blocks, int threads, int64_t shared_bytes,
                  const Arguments &arguments, void *) {
    return simt::machine().run(blocks, threads, shared_bytes, [&] { kernel(arguments); }) ? 0 : 1;
}

inline int device_limits(int64_t &shared_bytes, int &processors) {
    shared_bytes = 232448;
    processors = 132;
    return 0;
}

#else

template <class Arguments>
int launch_kernel(void (*kernel)(Arguments), int64_t blocks, int threads, int64_t shared_bytes,
                  const Arguments &arguments, void *stream) {
    if (blocks == 0) return cudaSuccess;
    if (blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
    if (shared_bytes > 48 * 1024) {
        const cudaError_t error =
            cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shared_bytes));
        if (error != cudaSuccess) return error;
    }
    kernel<<<static_cast<unsigned>(blocks), threads, shared_bytes, static_cast<cudaStream_t>(stream)>>>(arguments);
    return cudaGetLastError();
}

// Of the current device.
inline int device_limits(int64_t &shared_bytes, int &processors) {
    int device = 0, bytes = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    shared_bytes = bytes;
    return error;
}

#endif

inline bool aligned(const void *pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

}  // namespace maedfer
