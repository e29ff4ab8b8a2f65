// The learned matcher's local correlation.
#include "simd.hpp"

namespace midframe::MIDFRAME_VARIANT {

// Rows first to last of the dot products of feature vectors of a (C, h, w) with those of a window of b, which has
// `radius` rows and columns more on every side, and kCorrelationPadding columns more on the right.
void correlate(i64 first, i64 last, Images a, Images b, i64 radius, Targets out) {
    static_assert(kCorrelationPadding >= kPadding);
    constexpr i64 kMost = 7;  // displacements along a row whose sums stay in registers
    const i64 side = 2 * radius + 1, columns = padded(a.width);
    Scratch<float> own(a.channels * columns), sums(side * columns);
    for (i64 y = first; y < last; ++y) {
        for (i64 c = 0; c < a.channels; ++c) {
            float* __restrict row = own + c * columns;
            copy(a.row(c, y), a.width, row);
            for (i64 x = a.width; x < columns; ++x) row[x] = 0.0f;
        }
        for (i64 dy = 0; dy < side; ++dy) {
            for (i64 begin = 0; begin < side; begin += kMost) {
                const i64 count = smaller(kMost, side - begin);
                for (i64 x = 0; x < columns; x += kLanes) {
                    F<kLanes> found[kMost] = {};
                    for (i64 c = 0; c < a.channels; ++c) {
                        const F<kLanes> value = load<kLanes>(own + c * columns + x);
                        const float* other = b.row(c, y + dy) + begin + x;
                        if (count == kMost) {
                            for (i64 dx = 0; dx < kMost; ++dx) found[dx] = fma(value, load<kLanes>(other + dx), found[dx]);
                        } else {
                            for (i64 dx = 0; dx < count; ++dx) found[dx] = fma(value, load<kLanes>(other + dx), found[dx]);
                        }
                    }
                    for (i64 dx = 0; dx < count; ++dx) store(sums + (begin + dx) * columns + x, found[dx]);
                }
            }
            for (i64 dx = 0; dx < side; ++dx) copy(sums + dx * columns, a.width, out.row(dy * side + dx, y));
        }
    }
}

}  // namespace midframe::MIDFRAME_VARIANT
