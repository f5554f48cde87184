// Room for numbers while an operation runs.
#pragma once

#include <cstdint>
#include <new>

namespace maedfer {

// Floats that nobody has written yet, at a multiple of a cache line.
class Floats {
  public:
    explicit Floats(int64_t count)
        : data_(static_cast<float *>(::operator new(sizeof(float) * static_cast<size_t>(count), alignment))) {}
    ~Floats() { ::operator delete(data_, alignment); }
    Floats(const Floats &) = delete;
    Floats &operator=(const Floats &) = delete;

    float *data() const { return data_; }

  private:
    static constexpr std::align_val_t alignment{64};
    float *data_;
};

}  // namespace maedfer
