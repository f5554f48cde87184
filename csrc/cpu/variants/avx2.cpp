#ifdef __x86_64__
#define MAEDFER_VARIANT avx2
#define MAEDFER_LANES 8
#include "../kernels/variant.h"
#endif
