// Any processor: SSE2 on x86-64, NEON on 64-bit ARM.
#define MAEDFER_VARIANT baseline
#define MAEDFER_LANES 4
#include "../kernels/variant.h"
