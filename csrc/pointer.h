// Addresses as Python passes them.
#pragma once

#include <cstdint>

namespace maedfer {

template <typename T>
T *pointer(uintptr_t address) {
    return reinterpret_cast<T *>(address);
}

}  // namespace maedfer
