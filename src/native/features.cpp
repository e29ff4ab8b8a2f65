// Matching features: what two warped images tell of each hypothesis, and where the primary one needs no others.
#include "simd.hpp"

namespace midframe::MIDFRAME_VARIANT {

namespace {

// Mean absolute difference of two planes in every block of row y of blocks; `sums` has room for a row of pixels.
MIDFRAME_INLINE void block_difference(Image a, Image b, i64 y, float* __restrict sums, float* out) {
    clear(sums, a.width);
    for (i64 line = kBlock * y; line < kBlock * (y + 1); ++line) {
        const float *one = a.row(line), *two = b.row(line);
        for (i64 x = 0; x < a.width; ++x) sums[x] += magnitude(one[x] - two[x]);
    }
    pooled(sums, kBlock, 0.0625f, a.width / kBlock, out);
}

// A hypothesis becomes the primary one in a tile.
MIDFRAME_INLINE void copy_primary(const Hypotheses& found, i64 k, i64 row, i64 tile) {
    const Targets own = found.of(k), primary = found.of(0);
    for (i64 c = 0; c < 4; ++c)
        for (i64 y = kTile * row; y < kTile * (row + 1); ++y)
            copy(primary.row(c, y) + kTile * tile, kTile, own.row(c, y) + kTile * tile);
}

// Whether a hypothesis is active in a tile or in one of its eight neighbours, whose weights reach into it.
MIDFRAME_INLINE bool active_nearby(Mask active, i64 k, i64 row, i64 tile) {
    for (i64 y = larger(row - 1, i64(0)); y < smaller(row + 2, active.height); ++y)
        for (i64 x = larger(tile - 1, i64(0)); x < smaller(tile + 2, active.width); ++x)
            if (active.at(k, y, x)) return true;
    return false;
}

// Root mean square, in blocks, of what two means over 3x3 pixels take from a plane.
MIDFRAME_INLINE void fine_detail(const Span& span, Image plane, Target out) {
    const i64 height = plane.height, width = plane.width, begin = kBlock * span.left, end = kBlock * span.right;
    const i64 count = end - begin, low = larger(kBlock * span.first - 2, i64(0)),
              high = smaller(kBlock * span.last + 2, height);
    const float ninth = static_cast<float>(1.0 / 9.0);
    Scratch<float> wide(count + 4), once(count + 4), total(count), soft((high - low) * count);
    const auto smooth = [&](i64 y) { return soft + (y - low) * count; };
    for (i64 y = low; y < high; ++y) {
        const float* source = plane.row(y);
        const i64 near = larger(begin - 2, i64(0)), far = smaller(end + 2, width);  // two columns more on either side
        copy(source + near, far - near, wide + (near - begin + 2));
        if (begin == 0) wide[0] = wide[1] = source[0];
        if (end == width) wide[count + 2] = wide[count + 3] = source[width - 1];
        for (i64 x = 0; x < count + 2; ++x) once[x] = wide[x] + wide[x + 1] + wide[x + 2];
        if (begin == 0) once[0] = once[1];  // a mean of means, each with the edge repeated
        if (end == width) once[count + 1] = once[count];
        float* target = smooth(y);
        for (i64 x = 0; x < count; ++x) target[x] = ninth * (once[x] + once[x + 1] + once[x + 2]);
    }
    for (i64 block = span.first; block < span.last; ++block) {
        clear(total, count);
        for (i64 y = kBlock * block; y < kBlock * (block + 1); ++y) {
            const float* own = plane.row(y) + begin;
            if (2 <= y && y < height - 2) {
                const float *r0 = smooth(y - 2), *r1 = smooth(y - 1), *r2 = smooth(y), *r3 = smooth(y + 1),
                            *r4 = smooth(y + 2);
                for (i64 x = 0; x < count; ++x) {
                    const float outer = r0[x] + r4[x], inner = r1[x] + r3[x];
                    const float value = own[x] - ninth * (outer + 2.0f * inner + 3.0f * r2[x]);
                    total[x] += value * value;
                }
                continue;
            }
            float weights[5] = {};  // of the rows from y - 2 on
            for (i64 up = -1; up < 2; ++up) {
                const i64 middle = smaller(larger(y + up, i64(0)), height - 1);
                for (i64 more = -1; more < 2; ++more)
                    weights[smaller(larger(middle + more, i64(0)), height - 1) - y + 2] += ninth;
            }
            for (i64 x = 0; x < count; ++x) {
                float value = own[x];
                for (i64 k = 0; k < 5; ++k)
                    if (weights[k] > 0.0f) value -= weights[k] * smooth(y - 2 + k)[x];
                total[x] += value * value;
            }
        }
        float* mean = out.row(block) + span.left;
        pooled(total, kBlock, 0.0625f, span.right - span.left, mean);
        for (i64 x = 0; x < span.right - span.left; ++x) mean[x] = root(mean[x]);
    }
}

}  // namespace

// Rows first to last of tiles: where more than the primary hypothesis is evaluated, and the residual of the primary and
// of zero motion. In trivial tiles, where the primary alone will do, no hypothesis stays active but it and zero motion.
void find_trivial(i64 first, i64 last, Image a, Image b, Image still_a, Image still_b, const Hypotheses& found,
                  const TrivialThresholds& limits, Mask evaluated) {
    const i64 width = found.width;
    const Targets primary = found.of(0), zero = found.of(found.zero);
    Scratch<float> sums(4 * width), off(width), total(width), most(width), other(width), speed(width), colours(width);
    const float third = static_cast<float>(1.0 / 3.0), tile_area = static_cast<float>(kTile * kTile);
    for (i64 row = first; row < last; ++row) {
        float* const seen[] = {total, most, other, speed, colours};  // of the row of tiles so far
        for (float* values : seen) clear(values, width);
        for (i64 y = kTile * row; y < kTile * (row + 1); ++y) {
            float *residual = primary.row(kResidual, y), *worst = zero.row(kResidual, y);
            block_difference(a, b, y, sums, residual);
            block_difference(still_a, still_b, y, sums, worst);
            for (i64 x = 0; x < width; ++x) {
                total[x] += residual[x];
                most[x] = larger(most[x], residual[x]);
                other[x] = larger(other[x], worst[x]);
            }
            for (i64 c = 0; c < 4; ++c) {
                const float* flow = primary.row(c, y);
                for (i64 x = 0; x < width; ++x) speed[x] = larger(speed[x], magnitude(flow[x]));
            }
            for (i64 side = kColourA; side <= kColourB; side += kColourB - kColourA) {
                clear(off, width);
                for (i64 c = side; c < side + 3; ++c) {
                    const float *one = primary.row(c, y), *two = zero.row(c, y);
                    for (i64 x = 0; x < width; ++x) off[x] += magnitude(one[x] - two[x]);
                }
                for (i64 x = 0; x < width; ++x) colours[x] = larger(colours[x], third * off[x]);
            }
        }
        for (i64 tile = 0; tile < width / kTile; ++tile) {
            const i64 at = kTile * tile;
            for (i64 x = at + 1; x < at + kTile; ++x) {
                total[at] += total[x];
                most[at] = larger(most[at], most[x]);
                other[at] = larger(other[at], other[x]);
                speed[at] = larger(speed[at], speed[x]);
                colours[at] = larger(colours[at], colours[x]);
            }
            const bool still = speed[at] < limits.slow || other[at] > most[at] + limits.worse || colours[at] < limits.colour;
            i64 count = 0;
            for (i64 k = 0; k < found.count; ++k) count += found.active.at(k, row, tile);
            const float limit = count > 2 ? limits.strict : limits.residual;
            const bool learned = found.refined >= 0 && found.active.at(found.refined, row, tile);
            const bool trivial = !learned && still && total[at] < tile_area * limit && most[at] < 2.0f * limit;
            for (i64 k = 0; k < found.count; ++k) {
                bool& active = found.active.at(k, row, tile);
                evaluated.at(k, row, tile) = active && !trivial;
                if (trivial && active && k != found.zero && k > 0) {
                    active = false;
                    copy_primary(found, k, row, tile);
                }
            }
        }
    }
}

// Rows first to last of tiles of luma (2, K, H, W): what the primary has beside tiles in which another is active, and,
// where anything is evaluated, the mean of all. Zero motion has the frames themselves.
void complete(i64 first, i64 last, const Hypotheses& found, Mask evaluated, float* luma, Image still_a, Image still_b,
              Target mean) {
    const i64 count = found.count, tiles = found.active.width, side = kBlock * kTile, width = still_a.width;
    const i64 area = width * still_a.height;
    const auto row_of = [&](i64 number, i64 k, i64 y) { return luma + (number * count + k) * area + y * width; };
    const float scale = 0.5f / static_cast<float>(count), others = static_cast<float>(count - 1);
    for (i64 row = first; row < last; ++row) {
        for (i64 k = 1; k < count; ++k) {
            if (k == found.zero) continue;
            for (i64 tile = 0; tile < tiles; ++tile) {
                if (found.active.at(k, row, tile) || !active_nearby(found.active, k, row, tile)) continue;
                for (i64 y = side * row; y < side * (row + 1); ++y)
                    for (i64 number = 0; number < 2; ++number)
                        copy(row_of(number, 0, y) + side * tile, side, row_of(number, k, y) + side * tile);
            }
        }
        for (i64 y = side * row; y < side * (row + 1); ++y) {
            float* __restrict total = mean.row(y);
            const float *one = row_of(0, 0, y), *two = row_of(1, 0, y), *own = still_a.row(y), *other = still_b.row(y);
            const bool* where = evaluated.row(0, row);
            for (Run run = next_run(where, tiles, 0); run.begin < run.end; run = next_run(where, tiles, run.end / kTile))
                for (i64 x = kBlock * run.begin; x < kBlock * run.end; ++x)
                    total[x] = scale * (others * (one[x] + two[x]) + (own[x] + other[x]));
            for (i64 k = 1; k < count; ++k) {
                if (k == found.zero) continue;
                const float *mine = row_of(0, k, y), *theirs = row_of(1, k, y);
                const bool* active = found.active.row(k, row);
                for (Run run = next_run(active, tiles, 0); run.begin < run.end;
                     run = next_run(active, tiles, run.end / kTile))
                    for (i64 x = kBlock * run.begin; x < kBlock * run.end; ++x)
                        total[x] += scale * ((mine[x] + theirs[x]) - (one[x] + two[x]));
            }
        }
    }
}

// Features from kResidual on, of a hypothesis whose warped luma is a and b.
void describe(const Span* spans, i64 count, Image a, Image b, Image mean, Image occlusion_ab, Image occlusion_ba,
              Targets features) {
    Scratch<float> one_two(a.width), one_mean(a.width), two_mean(a.width);
    for (i64 n = 0; n < count; ++n) {
        const Span span = spans[n];
        const i64 left = span.left, blocks = span.right - span.left, length = kBlock * blocks;
        for (i64 y = span.first; y < span.last; ++y) {
            const float *to_a = features.row(kFlowToA, y) + left, *to_b = features.row(kFlowToB, y) + left;
            const float *down_a = features.row(kFlowToA + 1, y) + left, *down_b = features.row(kFlowToB + 1, y) + left;
            fetch_row(occlusion_ab, y, left, to_a, down_a, blocks, features.row(kOcclusionA, y) + left);
            fetch_row(occlusion_ba, y, left, to_b, down_b, blocks, features.row(kOcclusionB, y) + left);
            for (i64 x = 0; x < length; x += 8) {
                const i64 at = kBlock * left + x;
                F<8> of_both = {}, of_one = {}, of_two = {};
                for (i64 line = kBlock * y; line < kBlock * (y + 1); ++line) {
                    const F<8> one = load<8>(a.row(line) + at), two = load<8>(b.row(line) + at),
                               both = load<8>(mean.row(line) + at);
                    of_both = of_both + magnitude(one - two);
                    of_one = of_one + magnitude(one - both);
                    of_two = of_two + magnitude(two - both);
                }
                store(one_two + x, of_both);
                store(one_mean + x, of_one);
                store(two_mean + x, of_two);
            }
            pooled(one_two, kBlock, 0.0625f, blocks, features.row(kResidual, y) + left);
            pooled(one_mean, kBlock, 0.0625f, blocks, features.row(kDeviationA, y) + left);
            pooled(two_mean, kBlock, 0.0625f, blocks, features.row(kDeviationB, y) + left);
        }
        fine_detail(span, a, features.plane(kDetailA));
        fine_detail(span, b, features.plane(kDetailB));
    }
}

}  // namespace midframe::MIDFRAME_VARIANT
