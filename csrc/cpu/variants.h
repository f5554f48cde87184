// Kernels of the model on a CPU, compiled for several instruction sets; the best that the processor runs is used.
//
// kernels/*.h are compiled once by each file of variants/, in a namespace of its own, with that instruction set's flags.
// They work on a part of an operation on one thread; NAME.cpp spreads parts over threads. What is compiled there must be
// of that namespace and of no other: the linker keeps one of several copies of an inline function or template of a
// shared namespace (the standard library's too), and the copy for AVX-512 must not be the one that older processors run.
#pragma once

#include <string>
#include <vector>

#include "attention.h"
#include "fold.h"
#include "interaction.h"
#include "matrix.h"
#include "norms.h"
#include "products.h"

namespace maedfer {

struct Variant {
    const char *name;
    Attentions attentions;
    Folds folds;
    Interactions interactions;
    Norms norms;
    Products products;
};

// In use: the best that runs here, or what was chosen.
const Variant &variant();

// Names of those that run here, best first.
std::vector<std::string> variants();

// Use one by name, for tests and measurements. Returns whether it runs here.
bool choose_variant(const std::string &name);

}  // namespace maedfer
