// Prefilter of the cubic B-spline (Unser, Aldroubi & Eden 1993) as a recursion each way, two places beyond each edge.
#include "simd.hpp"

namespace midframe::MIDFRAME_VARIANT {

static const float kPole = static_cast<float>(1.7320508075688772 - 2.0);

// Rows first to last of all those of (C, H, W), filtered into (H, W + 4, C). A value waits for the one before, so four
// rows go side by side; H is a multiple of four.
void prefilter_rows(i64 first, i64 last, Images planes, float* out) {
    const i64 height = planes.height, width = planes.width, wide = width + 4, channels = planes.channels;
    const float z = kPole, six = 6.0f, whole = 1.0f / (1.0f - kPole), end = z / (1.0f - z * z);
    Scratch<float> kept(4 * wide);
    for (i64 row = first; row < last; row += 4) {
        const i64 c = row / height, y = row % height;
        const float* rows[4];
        float* targets[4];
        for (i64 k = 0; k < 4; ++k) {
            rows[k] = planes.row(c, y + k);
            targets[k] = out + (y + k) * wide * channels + c;
        }
        const auto column = [&](i64 x) { return F<4>{rows[0][x], rows[1][x], rows[2][x], rows[3][x]}; };
        F<4> value = column(0) * whole;
        store(kept, value);
        for (i64 x = 1; x < wide; ++x) {
            const i64 k = smaller(larger(x - 2, i64(0)), width - 1);
            value = column(k) + z * value;
            store(kept + 4 * x, value);
        }
        const F<4> edge = column(width - 1) * whole;
        value = -z * whole * edge - end * (load<4>(kept + 4 * (wide - 1)) - edge);
        for (i64 back = 0; back < wide; ++back) {
            const i64 x = wide - 1 - back;
            if (back > 0) value = z * (value - load<4>(kept + 4 * x));
            const F<4> scaled = six * value;
            for (i64 k = 0; k < 4; ++k) targets[k][x * channels] = scaled[k];
        }
    }
}

// Columns first to last of (H, N), filtered along themselves, into (H + 4, N).
void prefilter_columns(i64 first, i64 last, Image rows, Target out) {
    const i64 height = rows.height, tall = height + 4;
    const float z = kPole, end = z / (1.0f - z * z);
    {
        const float* source = rows.row(0);
        float* target = out.row(0);
        for (i64 x = first; x < last; ++x) target[x] = source[x] / (1.0f - z);
    }
    for (i64 y = 1; y < tall; ++y) {
        const float* source = rows.row(smaller(larger(y - 2, i64(0)), height - 1));
        const float* before = out.row(y - 1);
        float* __restrict target = out.row(y);
        for (i64 x = first; x < last; ++x) target[x] = source[x] + z * before[x];
    }
    {
        const float* source = rows.row(height - 1);
        float* target = out.row(tall - 1);
        for (i64 x = first; x < last; ++x) {
            const float level = source[x] / (1.0f - z);
            target[x] = -z * level / (1.0f - z) - end * (target[x] - level);
        }
    }
    for (i64 y = tall - 2; y >= 0; --y) {
        float* __restrict target = out.row(y);
        float* __restrict after = out.row(y + 1);
        for (i64 x = first; x < last; ++x) {
            target[x] = z * (after[x] - target[x]);
            after[x] *= 6.0f;
        }
    }
    float* target = out.row(0);
    for (i64 x = first; x < last; ++x) target[x] *= 6.0f;
}

}  // namespace midframe::MIDFRAME_VARIANT
