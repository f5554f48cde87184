#ifdef __x86_64__
#define MAEDFER_VARIANT avx512_bf16
#define MAEDFER_LANES 16
#include "../kernels/variant.h"
#endif
