// All kernels for one instruction set, as a table. MAEDFER_VARIANT is its name.
#include "../variants.h"
#include "attention.h"
#include "fold.h"
#include "interaction_backward.h"
#include "norms.h"
#include "products.h"

#define MAEDFER_STRING(x) #x
#define MAEDFER_NAME(x) MAEDFER_STRING(x)
#define MAEDFER_JOIN(a, b) a##b
#define MAEDFER_TABLE(x) MAEDFER_JOIN(variant_, x)

namespace maedfer {
namespace MAEDFER_VARIANT {

static const Variant table{MAEDFER_NAME(MAEDFER_VARIANT), attentions, folded::folds,
                           folded::interactions,          norms,      products};

}  // namespace MAEDFER_VARIANT

extern const Variant *const MAEDFER_TABLE(MAEDFER_VARIANT);
const Variant *const MAEDFER_TABLE(MAEDFER_VARIANT) = &MAEDFER_VARIANT::table;

}  // namespace maedfer
