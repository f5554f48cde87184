#include "products.h"

#include <cstdlib>
#include <memory>
#include <new>

#include "parallel.h"
#include "variants.h"

namespace maedfer {
namespace {

// So many rows and a block of the depth stay in the second-level cache while panels go by.
constexpr int64_t usual_rows = 96;

int64_t divided_up(int64_t number, int64_t by) { return (number + by - 1) / by; }

// Rows of a part: they depend on the matrix alone, so that sums over rows do not depend on the number of threads. From
// four on the number of parts is a multiple of that, for threads to have as many each.
int64_t part_rows(int64_t rows, int64_t tile) {
    int64_t parts = std::max<int64_t>(1, (rows + usual_rows / 2) / usual_rows);
    if (parts > 4) parts = (parts + 2) / 4 * 4;
    return divided_up(std::max<int64_t>(1, divided_up(rows, parts)), tile) * tile;
}

// In how many parts columns are divided, for threads to have as many parts each.
int64_t column_parts(int64_t row_parts, int64_t panels, int threads) {
    int64_t best = 1;
    double most = 0;
    for (int64_t parts = 1; parts <= std::min<int64_t>(panels, threads); ++parts) {
        const int64_t all = row_parts * parts;
        const double busy = static_cast<double>(all) / static_cast<double>(divided_up(all, threads) * threads);
        if (busy > most + 0.05) best = parts, most = busy;
    }
    return best;
}

// Memory of a thread that stays with it.
void *scratch(int64_t bytes) {
    struct Free {
        void operator()(void *memory) const { std::free(memory); }
    };
    static thread_local std::unique_ptr<void, Free> memory;
    static thread_local int64_t size = 0;
    if (size < bytes) {
        size = 0;
        memory.reset(std::aligned_alloc(64, divided_up(bytes, 64) * 64));
        if (!memory) throw std::bad_alloc();
        size = bytes;
    }
    return memory.get();
}

// Calls run(part) for parts of rows and panels; sums over rows are those of parts, added up in order.
template <typename Run>
void by_parts(int64_t rows, int64_t columns, int64_t panel, float *sums, int threads, Run run) {
    const int64_t each = part_rows(rows, variant().products.tile_rows), row_parts = divided_up(rows, each);
    const int64_t panels = divided_up(columns, panel);
    std::vector<float> of_parts(sums ? row_parts * columns : 0);
    if (row_parts && panels) {
        const int64_t across = column_parts(row_parts, panels, threads);
        parallel_tasks(row_parts * across, threads, [&](int64_t number) {
            const int64_t row = number / across * each, place = number % across;
            run(Range{row, std::min(rows, row + each), panels * place / across, panels * (place + 1) / across,
                      sums ? of_parts.data() + number / across * columns : nullptr});
        });
    }
    if (!sums) return;
    std::fill_n(sums, columns, 0.0f);
    for (int64_t part = 0; part < row_parts; ++part)
        for (int64_t column = 0; column < columns; ++column) sums[column] += of_parts[part * columns + column];
}

}  // namespace

int64_t packed_size(int64_t columns, int64_t depth, Element type) {
    return variant().products.packed_size(columns, depth, type);
}

void pack(const Matrix &matrix, bool transposed, Element type, void *out, int threads) {
    const Products &kernels = variant().products;
    const int64_t panels = divided_up(transposed ? matrix.columns : matrix.rows, kernels.panel);
    parallel(panels, 1, threads,
             [&](int64_t begin, int64_t end) { kernels.pack(matrix, transposed, type, out, begin, end); });
}

void product(const Left &left, const Packed &packed, const Epilogue &epilogue, int threads) {
    const Products &kernels = variant().products;
    by_parts(epilogue.out.rows, packed.columns, kernels.panel, epilogue.sums, threads, [&](const Range &range) {
        kernels.product(left, packed, epilogue, range,
                        scratch(kernels.scratch_size(range.row_end - range.row, packed.depth)));
    });
}

void finish(const Matrix &product, const Epilogue &epilogue, int threads) {
    const Products &kernels = variant().products;
    by_parts(product.rows, product.columns, kernels.panel, epilogue.sums, threads,
             [&](const Range &range) { kernels.finish(product, epilogue, range); });
}

}  // namespace maedfer
