// Local affine background motion: normalised convolution of affine functions on a grid of cells, by iteratively reweighted
// least squares. The NumPy twin in models/flow/extrapolation.py explains it.
#include "simd.hpp"

namespace midframe::MIDFRAME_VARIANT {

namespace {

enum Term : i64 { kOne, kX, kY, kXX, kXY, kYY, kU, kV, kXU, kYU, kXV, kYV, kTerms };


// Sums of rows or columns of pixels in cells, as OpenCV's INTER_AREA shares them: `call(pixel, cell, part)`.
template <class Call>
MIDFRAME_INLINE void share_out(i64 pixels, i64 cells, Call call) {
    const double scale = static_cast<double>(pixels) / static_cast<double>(cells);
    for (i64 cell = 0; cell < cells; ++cell) {
        const double begin = static_cast<double>(cell) * scale, end = static_cast<double>(cell + 1) * scale;
        for (i64 pixel = static_cast<i64>(begin); pixel < pixels && static_cast<double>(pixel) < end; ++pixel) {
            const double low = static_cast<double>(pixel) > begin ? static_cast<double>(pixel) : begin;
            const double high = static_cast<double>(pixel + 1) < end ? static_cast<double>(pixel + 1) : end;
            if (high - low > 1e-3) call(pixel, cell, static_cast<float>((high - low) / scale));
        }
    }
}

}  // namespace

// Motion (2, h, w) around each place of a flow (2, h, w) with weights (h, w).
void background(Images flow, Image weight, const BackgroundFit& fit, Targets out) {
    const i64 height = flow.height, width = flow.width, rows = fit.rows, columns = fit.columns, cells = rows * columns;
    const i64 radius = fit.radius, stride = padded(columns + 2 * radius);
    Scratch<float> sums(3 * cells), line(3 * columns), u(cells), v(cells), load(cells), robust(cells), xs(columns), ys(rows);
    Scratch<float> terms(kTerms * cells), weighted(kTerms * rows * stride), wide(stride), blurred(kTerms * cells);
    Scratch<double> fitted(6 * cells);
    Scratch<float> motion(2 * (rows + 2) * (columns + 2)), between(2 * (columns + 2)), parts(width);
    Scratch<i64> places(width);
    clear(sums, 3 * cells);
    share_out(height, rows, [&](i64 y, i64 row, float high) {
        clear(line, 3 * columns);
        const float *right = flow.row(0, y), *down = flow.row(1, y), *own = weight.row(y);
        share_out(width, columns, [&](i64 x, i64 column, float part) {
            line[column] += part * (right[x] * own[x]);
            line[columns + column] += part * (down[x] * own[x]);
            line[2 * columns + column] += part * own[x];
        });
        for (i64 c = 0; c < 3; ++c)
            for (i64 x = 0; x < columns; ++x) sums[c * cells + row * columns + x] += high * line[c * columns + x];
    });
    const float unit = 1.0f / static_cast<float>(fit.cells);
    for (i64 x = 0; x < columns; ++x) xs[x] = static_cast<float>(x) * unit;
    for (i64 y = 0; y < rows; ++y) ys[y] = static_cast<float>(y) * unit;
    for (i64 k = 0; k < cells; ++k) {
        load[k] = robust[k] = sums[2 * cells + k];
        u[k] = sums[k] / (load[k] + 1e-6f);
        v[k] = sums[cells + k] / (load[k] + 1e-6f);
        const float x = xs[k % columns], y = ys[k / columns];
        const float own[kTerms] = {1.0f, x, y, x * x, x * y, y * y, u[k], v[k], x * u[k], y * u[k], x * v[k], y * v[k]};
        for (i64 c = 0; c < kTerms; ++c) terms[c * cells + k] = own[c];
    }
    clear(weighted, kTerms * rows * stride);
    for (i64 iteration = 0; iteration < fit.iterations; ++iteration) {
        for (i64 c = 0; c < kTerms; ++c) {
            double total = 0.0;
            const auto source = [&](i64 y) { return weighted + (c * rows + y) * stride; };
            for (i64 y = 0; y < rows; ++y) {
                float* target = source(y) + radius;
                for (i64 x = 0; x < columns; ++x) {
                    target[x] = terms[c * cells + y * columns + x] * robust[y * columns + x];
                    total += target[x];
                }
            }
            const float prior = fit.prior * static_cast<float>(total / static_cast<double>(cells));
            for (i64 y = 0; y < rows; ++y) {
                clear(wide, stride);
                for (i64 k = larger(y - radius, i64(0)); k < smaller(y + radius + 1, rows); ++k) {
                    const float tap = fit.taps[k - y + radius];
                    const float* other = source(k);
                    for (i64 x = 0; x < stride; ++x) wide[x] += tap * other[x];
                }
                float* target = blurred + c * cells + y * columns;
                for (i64 x = 0; x < columns; ++x) target[x] = prior;
                for (i64 k = 0; k < 2 * radius + 1; ++k) {
                    const float tap = fit.taps[k];
                    for (i64 x = 0; x < columns; ++x) target[x] += tap * wide[x + k];
                }
            }
        }
        double widening = 1.0;
        for (i64 k = 0; k < iteration; ++k) widening *= 2.0;
        const double scale = fit.scale * (0.25 * widening < 1.0 ? 0.25 * widening : 1.0);
        for (i64 k = 0; k < cells; ++k) {
            double mean[kTerms];
            for (i64 c = 0; c < kTerms; ++c) mean[c] = static_cast<double>(blurred[c * cells + k]);
            for (i64 c = 1; c < kTerms; ++c) mean[c] /= mean[kOne];
            const double xx = mean[kXX] - mean[kX] * mean[kX] + fit.ridge, xy = mean[kXY] - mean[kX] * mean[kY],
                         yy = mean[kYY] - mean[kY] * mean[kY] + fit.ridge, determinant = xx * yy - xy * xy;
            double squared = 0.0;
            for (i64 c = 0; c < 2; ++c) {
                const double own = mean[kU + c];
                const double xm = mean[kXU + 2 * c] - mean[kX] * own, ym = mean[kYU + 2 * c] - mean[kY] * own;
                const double along_x = (yy * xm - xy * ym) / determinant, along_y = (xx * ym - xy * xm) / determinant;
                double* found = fitted + 6 * k + 3 * c;
                found[0] = own - along_x * mean[kX] - along_y * mean[kY];
                found[1] = along_x;
                found[2] = along_y;
                const double off = found[0] + along_x * static_cast<double>(xs[k % columns]) +
                                   along_y * static_cast<double>(ys[k / columns]) - static_cast<double>(c == 0 ? u[k] : v[k]);
                squared += off * off;
            }
            const double fall = 1.0 + scale * scale * squared;
            robust[k] = static_cast<float>(static_cast<double>(load[k]) / (fall * fall));
        }
    }
    const i64 across = columns + 2;  // one cell more on every side continues the motion
    for (i64 y = 0; y < rows + 2; ++y) {
        for (i64 x = 0; x < across; ++x) {
            const i64 own = smaller(larger(y - 1, i64(0)), rows - 1) * columns + smaller(larger(x - 1, i64(0)), columns - 1);
            const double at_x = static_cast<double>(static_cast<float>(x - 1) * unit), at_y = static_cast<double>(static_cast<float>(y - 1) * unit);
            for (i64 c = 0; c < 2; ++c) {
                const double* found = fitted + 6 * own + 3 * c;
                motion[(c * (rows + 2) + y) * across + x] = static_cast<float>(found[0] + found[1] * at_x + found[2] * at_y);
            }
        }
    }
    for (i64 x = 0; x < width; ++x) {
        const float at = (static_cast<float>(x) + 0.5f) * (static_cast<float>(columns) / static_cast<float>(width)) + 0.5f;
        places[x] = smaller(static_cast<i64>(at), columns);
        parts[x] = at - static_cast<float>(places[x]);
    }
    for (i64 y = 0; y < height; ++y) {
        const float at = (static_cast<float>(y) + 0.5f) * (static_cast<float>(rows) / static_cast<float>(height)) + 0.5f;
        const i64 above = smaller(static_cast<i64>(at), rows);
        const float part = at - static_cast<float>(above);
        for (i64 c = 0; c < 2; ++c) {
            const float *upper = motion + (c * (rows + 2) + above) * across, *lower = upper + across;
            for (i64 x = 0; x < across; ++x) between[x] = upper[x] + part * (lower[x] - upper[x]);
            float* __restrict target = out.row(c, y);
            for (i64 x = 0; x < width; ++x) {
                const float one = between[places[x]];
                target[x] = one + parts[x] * (between[places[x] + 1] - one);
            }
        }
    }
}

}  // namespace midframe::MIDFRAME_VARIANT
