// The fusion network's layers that see one block, a row of blocks at a time. A hypothesis' active tiles lie packed.
#include "simd.hpp"

namespace midframe::MIDFRAME_VARIANT {

namespace {

MIDFRAME_INLINE float rectified(float x) { return larger(x, 0.1f * x); }
MIDFRAME_INLINE float rooted(float x) { return 4.0f * root(larger(x, 0.0f) + 1e-4f); }
MIDFRAME_INLINE float length(float x, float y) { return root(x * x + y * y + 1e-6f); }

MIDFRAME_INLINE void rectify(float* x, i64 count) {
    for (i64 k = 0; k < count; ++k) x[k] = rectified(x[k]);
}

// Rows of x and of the output are `stride` apart, columns beyond `count` up to a multiple of kColumns are written too.
// Inputs before `first` count as zero.
MIDFRAME_INLINE void apply(const Layer& layer, const float* bias, const float* x, i64 count, i64 stride, float* out,
                           i64 first = 0) {
    for (i64 at = 0; at < count; at += kColumns)
        product_columns(layer, bias, first, [=](i64 k) { return x + at + k * stride; }, out + at, stride);
}

// Log of one plus the distance between two flows.
MIDFRAME_INLINE void log_distance(Images one, i64 c1, Images two, i64 c2, i64 y, i64 begin, i64 count,
                                  float* __restrict out) {
    const float *x1 = one.row(c1, y) + begin, *y1 = one.row(c1 + 1, y) + begin, *x2 = two.row(c2, y) + begin,
                *y2 = two.row(c2 + 1, y) + begin;
    for (i64 x = 0; x < count; ++x) out[x] = logarithm(1.0f + length(x1[x] - x2[x], y1[x] - y2[x]));
}

MIDFRAME_INLINE void colour_distance(Images one, i64 c1, Images two, i64 c2, i64 y, i64 begin, i64 count,
                                     float* __restrict out) {
    const float *r1 = one.row(c1, y) + begin, *g1 = one.row(c1 + 1, y) + begin, *b1 = one.row(c1 + 2, y) + begin,
                *r2 = two.row(c2, y) + begin, *g2 = two.row(c2 + 1, y) + begin, *b2 = two.row(c2 + 2, y) + begin;
    const float third = static_cast<float>(1.0 / 3.0);
    for (i64 x = 0; x < count; ++x) {
        const float sum = magnitude(r1[x] - r2[x]) + magnitude(g1[x] - g2[x]) + magnitude(b1[x] - b2[x]);
        out[x] = rooted(third * sum);
    }
}

// Log of one plus the distance of a flow from its mean over 3x3 blocks. `room` is two rows of width + 2.
MIDFRAME_INLINE void flow_variation(Images features, i64 channel, i64 y, i64 begin, i64 count, float* room, i64 room_stride,
                                    float* __restrict out) {
    const i64 height = features.height, width = features.width;
    const i64 above = larger(y - 1, i64(0)), below = smaller(y + 1, height - 1);
    const i64 near = larger(begin - 1, i64(0)), far = smaller(begin + count + 1, width);
    for (i64 c = 0; c < 2; ++c) {
        float* sums = room + c * room_stride;
        float* __restrict inside = sums + (near - begin + 1);
        const float *upper = features.row(channel + c, above) + near, *here = features.row(channel + c, y) + near,
                    *lower = features.row(channel + c, below) + near;
        for (i64 x = 0; x < far - near; ++x) inside[x] = upper[x] + here[x] + lower[x];
        if (begin == 0) sums[0] = sums[1];
        if (begin + count == width) sums[count + 1] = sums[count];
    }
    const float ninth = static_cast<float>(1.0 / 9.0);
    const float *one = features.row(channel, y) + begin, *two = features.row(channel + 1, y) + begin;
    const float *across = room, *down = room + room_stride;
    for (i64 x = 0; x < count; ++x) {
        const float dx = one[x] - ninth * (across[x] + across[x + 1] + across[x + 2]);
        const float dy = two[x] - ninth * (down[x] + down[x + 1] + down[x + 2]);
        out[x] = logarithm(1.0f + length(dx, dy));
    }
}

MIDFRAME_INLINE void difference(const float* one, const float* two, i64 count, float* __restrict out) {
    for (i64 x = 0; x < count; ++x) out[x] = one[x] - two[x];
}

MIDFRAME_INLINE void roots(const float* row, i64 count, float* __restrict out) {
    for (i64 x = 0; x < count; ++x) out[x] = rooted(row[x]);
}

// The kInputs rows of a hypothesis, columns of row y of blocks from `begin` on. `residuals` (own, primary, least) are
// rooted already.
MIDFRAME_INLINE void network_inputs(Images own, Images primary, const float* residual, const float* primary_residual,
                                    const float* least, i64 y, i64 begin, i64 count, float* room, i64 room_stride,
                                    float* out, i64 stride) {
    const auto row = [&](i64 k) { return out + k * stride; };
    copy(residual + begin, count, row(0));
    difference(row(0), least + begin, count, row(1));
    difference(row(0), primary_residual + begin, count, row(2));
    colour_distance(own, kColourA, own, kColourB, y, begin, count, row(3));
    for (i64 k = 0; k < 2; ++k) {
        roots(own.row(kDeviationA + 2 * k, y) + begin, count, row(4 + 3 * k));
        roots(own.row(kDeviationB + 2 * k, y) + begin, count, row(5 + 3 * k));
        difference(row(4 + 3 * k), row(5 + 3 * k), count, row(6 + 3 * k));
        const float* logits = own.row(kOcclusionA + k, y) + begin;
        float* __restrict target = row(10 + k);
        for (i64 x = 0; x < count; ++x) target[x] = 0.25f * logits[x];
    }
    log_distance(own, kFlowToA, primary, kFlowToA, y, begin, count, row(12));
    log_distance(own, kFlowToB, primary, kFlowToB, y, begin, count, row(13));
    flow_variation(own, kFlowToA, y, begin, count, room, room_stride, row(14));
    flow_variation(own, kFlowToB, y, begin, count, room, room_stride, row(15));
    log_distance(own, kFlowToB, own, kFlowToA, y, begin, count, row(16));
    colour_distance(own, kColourA, primary, kColourA, y, begin, count, row(17));
    colour_distance(own, kColourB, primary, kColourB, y, begin, count, row(18));
    colour_distance(own, kColourA, primary, kColourB, y, begin, count, row(19));
    colour_distance(own, kColourB, primary, kColourA, y, begin, count, row(20));
}

}  // namespace

// Hidden features of each evaluated hypothesis go to `hidden`, those of row y and hypothesis k from column
// starts[y * K + k] on, channels first; the context of each block to `fine` (context, h, w).
void encode(i64 first, i64 last, const Hypotheses& found, Mask evaluated, float t, const i64* starts,
            const FusionLayers& layers, float* hidden, Targets fine) {
    const i64 width = found.width, stride = padded(width), count = found.count, each = layers.input.outputs;
    const i64 tiles = evaluated.width, context = layers.context_encoder.outputs;
    Scratch<float> every(kInputs * stride), packed(kInputs * stride), middle(each * stride), out(each * stride);
    Scratch<float> residuals(count * width), least(width), times(width), room(2 * (width + 2));
    Scratch<float> shared((4 * each + kShared) * stride), gathered(context * stride);
    for (i64 k = 0; k < (4 * each + kShared) * stride; ++k) shared[k] = 0.0f;
    for (i64 k = 0; k < kInputs * stride; ++k) every[k] = packed[k] = 0.0f;
    const Targets primary_target = found.of(0);
    const Images primary = {primary_target.data, kFeatures, found.height, width};
    for (i64 y = first; y < last; ++y) {
        const bool* anything = evaluated.row(0, y / kTile);
        roots(primary.row(kResidual, y), width, residuals);
        copy(residuals, width, least);
        clear(times, width);
        bool all = true;
        for (i64 tile = 0; tile < tiles; ++tile) all = all && anything[tile];
        if (!all) clear(shared, 4 * each * stride);
        for (i64 k = 1; k < count; ++k) {
            const bool* active = evaluated.row(k, y / kTile);
            float* own = residuals + k * width;
            const float* source = found.of(k).row(kResidual, y);
            for (Run run = next_run(active, tiles, 0); run.begin < run.end; run = next_run(active, tiles, run.end / kTile)) {
                roots(source + run.begin, run.end - run.begin, own + run.begin);
                for (i64 x = run.begin; x < run.end; ++x) least[x] = smaller(least[x], own[x]);
            }
        }
        for (i64 k = 0; k < count; ++k) {
            const bool* active = evaluated.row(k, y / kTile);
            i64 blocks = 0, left = -1, right = 0;
            for (i64 tile = 0; tile < tiles; ++tile) {
                if (!active[tile]) continue;
                blocks += kTile;
                if (left < 0) left = kTile * tile;
                right = kTile * (tile + 1);
            }
            if (blocks == 0) continue;
            const Targets own_target = found.of(k);
            const Images own = {own_target.data, kFeatures, found.height, width};
            network_inputs(own, primary, residuals + k * width, residuals, least, y, left, right - left, room, width + 2,
                           every, stride);
            const float* inputs = every;
            if (blocks < right - left) {
                inputs = packed;
                i64 at = 0;
                for (Run run = next_run(active, tiles, 0); run.begin < run.end;
                     run = next_run(active, tiles, run.end / kTile)) {
                    for (i64 c = 0; c < kInputs; ++c)
                        copy(every + c * stride + run.begin - left, run.end - run.begin, packed + c * stride + at);
                    at += run.end - run.begin;
                }
            }
            apply(layers.input, layers.hypothesis_bias + k * each, inputs, blocks, stride, middle);
            for (i64 c = 0; c < each; ++c) rectify(middle + c * stride, blocks);
            apply(layers.hidden, layers.hidden.bias, middle, blocks, stride, out);
            float* kept = hidden + starts[y * count + k] * each;
            for (i64 c = 0; c < each; ++c) {
                copy(out + c * stride, blocks, kept + c * blocks);
                rectify(out + c * stride, blocks);
            }
            i64 at = 0;
            for (Run run = next_run(active, tiles, 0); run.begin < run.end; run = next_run(active, tiles, run.end / kTile)) {
                const i64 length = run.end - run.begin;
                for (i64 x = run.begin; x < run.end; ++x) times[x] += 1.0f;
                for (i64 c = 0; c < each; ++c) {
                    const float* value = out + c * stride + at;
                    float* __restrict sum = shared + c * stride + run.begin;
                    float* __restrict most = shared + (each + c) * stride + run.begin;
                    if (k == 0) {
                        copy(value, length, sum);
                        copy(value, length, most);
                        copy(value, length, shared + (2 * each + c) * stride + run.begin);
                    } else {
                        for (i64 x = 0; x < length; ++x) {
                            sum[x] += value[x];
                            most[x] = larger(most[x], value[x]);
                        }
                    }
                    if (k == found.zero) copy(value, length, shared + (3 * each + c) * stride + run.begin);
                }
                at += length;
            }
        }
        for (i64 x = 0; x < width; ++x) times[x] = 1.0f / larger(times[x], 1.0f);
        for (i64 c = 0; c < each; ++c) {
            float* __restrict mean = shared + c * stride;
            for (i64 x = 0; x < width; ++x) mean[x] *= times[x];
        }
        float* block = shared + 4 * each * stride;
        for (i64 c = 0; c < 3; ++c) copy(found.coverage.row(c, y), width, block + c * stride);
        for (i64 x = 0; x < width; ++x) {
            block[3 * stride + x] = t;
            block[4 * stride + x] = 1.0f - t;
        }
        for (i64 c = 0; c < 6; ++c) {
            const float* colour = primary.row(kColourA + c, y);
            float* __restrict target = block + (5 + c) * stride;
            for (i64 x = 0; x < width; ++x) target[x] = colour[x] - 0.5f;
        }
        copy(least, width, block + 11 * stride);
        log_distance(primary, kFlowToB, primary, kFlowToA, y, 0, width, block + 12 * stride);
        for (i64 at = 0; at < width; at += kColumns) {  // hypotheses' features are zero in trivial tiles
            bool used = false;
            for (i64 tile = at / kTile; tile < smaller((at + kColumns) / kTile, tiles); ++tile) used = used || anything[tile];
            const float* x = shared + at;
            product_columns(layers.context_encoder, layers.context_encoder.bias, used ? 0 : 4 * each, [=](i64 k) { return x + k * stride; },
                            gathered + at, stride);
        }
        for (i64 c = 0; c < context; ++c) {
            rectify(gathered + c * stride, width);
            copy(gathered + c * stride, width, fine.row(c, y));
        }
    }
}

// Fusion weights (2K, h, w). Context comes from `fine` (context, h, w) and `coarse` (each + 3, h / 2, w / 2), whose last
// three are logits of a, of b and of zero motion. In trivial tiles both sides of the primary are weighed by these alone.
void decode(i64 first, i64 last, const Hypotheses& found, Mask evaluated, float t, const i64* starts,
            const FusionLayers& layers, const float* hidden, Images fine, Images coarse, Targets weights) {
    const i64 width = found.width, stride = padded(width), count = found.count, each = layers.input.outputs;
    const i64 tiles = evaluated.width, context = layers.context_encoder.outputs, entries = each + 3;
    Scratch<float> own_row(context * stride), around(entries * stride), wide(width / 2 + 2), enlarged(width);
    Scratch<float> fused(each * stride), middle(each * stride), logits(2 * stride);
    Scratch<float> side_a(width), side_b(width), most(width), sums(width);
    for (i64 k = 0; k < context * stride; ++k) own_row[k] = 0.0f;
    for (i64 k = 0; k < each * stride; ++k) fused[k] = 0.0f;
    const float early = logarithm(1.0f - t + 1e-3f), late = logarithm(t + 1e-3f), nothing = -1e30f;
    for (i64 y = first; y < last; ++y) {
        for (i64 c = 0; c < context; ++c) copy(fine.row(c, y), width, own_row + c * stride);
        apply(layers.context_decoder, layers.context_decoder.bias, own_row, width, stride, around);
        for (i64 c = 0; c < entries; ++c) {
            enlarge_row(coarse.plane(c), y, 2, 2, 0, width / 2, wide, enlarged);
            float* __restrict target = around + c * stride;
            for (i64 x = 0; x < width; ++x) target[x] += enlarged[x];
        }
        const float *of_a = around + (entries - 3) * stride, *of_b = around + (entries - 2) * stride,
                    *of_zero = around + (entries - 1) * stride, *visible = found.coverage.row(2, y);
        for (i64 x = 0; x < width; ++x) {
            const float soft = logarithm(1.0f + exponential(-magnitude(visible[x])));
            side_a[x] = of_a[x] + early + smaller(visible[x], 0.0f) - soft;
            side_b[x] = of_b[x] + late + smaller(-visible[x], 0.0f) - soft;
            most[x] = nothing;
        }
        for (i64 k = 0; k < count; ++k) {
            const bool* active = evaluated.row(k, y / kTile);
            i64 blocks = 0;
            for (i64 tile = 0; tile < tiles; ++tile) blocks += active[tile] ? kTile : 0;
            for (i64 side = 0; side < 2; ++side) {
                float* row = weights.row(side * count + k, y);
                for (i64 x = 0; x < width; ++x) row[x] = nothing;
            }
            if (blocks == 0) continue;
            const float* own = hidden + starts[y * count + k] * each;
            i64 at = 0;
            for (Run run = next_run(active, tiles, 0); run.begin < run.end; run = next_run(active, tiles, run.end / kTile)) {
                const i64 length = run.end - run.begin;
                for (i64 c = 0; c < each; ++c) {
                    const float *feature = own + c * blocks + at, *more = around + c * stride + run.begin;
                    float* __restrict target = fused + c * stride + at;
                    for (i64 x = 0; x < length; ++x) target[x] = rectified(feature[x] + more[x]);
                }
                at += length;
            }
            apply(layers.output, layers.output.bias, fused, blocks, stride, middle);
            for (i64 c = 0; c < each; ++c) rectify(middle + c * stride, blocks);
            apply(layers.head, layers.head.bias, middle, blocks, stride, logits);
            const float gain = k == found.zero ? 1.0f : 0.0f, prior = layers.prior[k];
            at = 0;
            for (Run run = next_run(active, tiles, 0); run.begin < run.end; run = next_run(active, tiles, run.end / kTile)) {
                for (i64 side = 0; side < 2; ++side) {
                    float* __restrict target = weights.row(side * count + k, y);
                    const float* logit = logits + side * stride + at - run.begin;
                    const float* bias = side == 0 ? side_a : side_b;
                    for (i64 x = run.begin; x < run.end; ++x) {
                        const float value = logit[x] + bias[x] + prior + gain * of_zero[x];
                        target[x] = value;
                        most[x] = larger(most[x], value);
                    }
                }
                at += run.end - run.begin;
            }
        }
        const bool* anything = evaluated.row(0, y / kTile);
        for (i64 tile = 0; tile < tiles; ++tile) {
            if (anything[tile]) continue;
            for (i64 x = kTile * tile; x < kTile * (tile + 1); ++x) {
                weights.at(0, y, x) = side_a[x];
                weights.at(count, y, x) = side_b[x];
                most[x] = larger(side_a[x], side_b[x]);
            }
        }
        clear(sums, width);
        for (i64 k = 0; k < 2 * count; ++k) {
            float* __restrict row = weights.row(k, y);
            for (i64 x = 0; x < width; ++x) {
                const float value = exponential(row[x] - most[x]);
                row[x] = row[x] > nothing ? value : 0.0f;
                sums[x] += row[x];
            }
        }
        for (i64 k = 0; k < 2 * count; ++k) {
            float* __restrict row = weights.row(k, y);
            for (i64 x = 0; x < width; ++x) row[x] /= sums[x];
        }
    }
}

}  // namespace midframe::MIDFRAME_VARIANT
