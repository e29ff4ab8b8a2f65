#include "stages.hpp"

#include <algorithm>
#include <stdexcept>

namespace midframe {

namespace {

std::vector<const Kernels*> runnable() {
    std::vector<const Kernels*> found;
#if defined(__x86_64__) || defined(_M_X64)
    __builtin_cpu_init();
    const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    if (v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd"))
        found.push_back(&kKernelsV4);
    if (v3) found.push_back(&kKernelsV3);
#endif
    found.push_back(&kKernelsBaseline);
    return found;
}

const Kernels*& chosen() {
    static const Kernels* kernels = runnable().front();
    return kernels;
}

std::size_t whole(i64 value) { return static_cast<std::size_t>(value); }


std::vector<Span> spans_of(const Array<bool>& mask, i64 k) {
    std::vector<Span> out;
    const Mask view = mask.cube();
    for (i64 y = 0; y < view.height; ++y) {
        const bool* tiles = view.row(k, y);
        for (i64 x = 0; x < view.width;) {
            if (!tiles[x]) {
                ++x;
                continue;
            }
            const i64 begin = x;
            while (x < view.width && tiles[x]) ++x;
            out.push_back({kTile * y, kTile * (y + 1), kTile * begin, kTile * x});
        }
    }
    return out;
}

constexpr i64 kNear = 2;  // tiles between spans that are worked on as well, as one span

std::vector<Span> joined(const std::vector<Span>& spans) {
    std::vector<Span> out;
    for (const Span& span : spans) {
        if (!out.empty() && out.back().first == span.first && span.left - out.back().right <= kNear * kTile)
            out.back().right = span.right;
        else
            out.push_back(span);
    }
    return out;
}

struct Task {
    std::vector<Span> spans;
    i64 hypothesis, side;
};

// Spans of the same hypothesis, those that begin within the same `band` rows together.
void add_tasks(const std::vector<Span>& spans, i64 k, i64 band, i64 sides, std::vector<Task>& tasks) {
    for (std::size_t n = 0; n < spans.size();) {
        Task task{{}, k, 0};
        const i64 which = spans[n].first / band;
        while (n < spans.size() && spans[n].first / band == which) task.spans.push_back(spans[n++]);
        for (task.side = 0; task.side < sides; ++task.side) tasks.push_back(task);
    }
}

}  // namespace

const Kernels& kernels() { return *chosen(); }

std::vector<std::string> variants() {
    std::vector<std::string> names;
    for (const Kernels* each : runnable()) names.emplace_back(each->name);
    return names;
}

void use_variant(const std::string& name) {
    for (const Kernels* each : runnable()) {
        if (name == each->name) {
            chosen() = each;
            return;
        }
    }
    throw std::invalid_argument("no kernels for " + name + " on this processor");
}

Array<float> spline_coefficients(Workspace& workspace, Images planes) {
    const i64 channels = planes.channels, height = planes.height, width = planes.width, columns = (width + 4) * channels;
    Array<float> rows = workspace.array<float>({whole(height), whole(columns)});
    Array<float> out = workspace.array<float>({whole(height + 4), whole(width + 4), whole(channels)});
    workspace.in_bands(channels * height, 4 * kBand,
                       [&](i64 first, i64 last) { kernels().prefilter_rows(first, last, planes, rows.data); });
    const Image source = rows.read_grid();
    const Target target = {out.data, height + 4, columns};
    workspace.in_bands(columns, 256,
                       [&](i64 first, i64 last) { kernels().prefilter_columns(first, last, source, target); });
    return out;
}

namespace {

Planes completed(Workspace& workspace, Array<float> luma, Array<float> chroma, const Matrix& matrix) {
    Planes out;
    out.matrix = matrix;
    const i64 height = luma.size(0), width = luma.size(1), rows = height / kBlock, columns = width / kBlock;
    const Images light = {luma.data, 1, height, width};
    out.luma_coefficients = spline_coefficients(workspace, light);
    out.block_means = workspace.array<float>({3, whole(rows), whole(columns)});
    Array<float> means = workspace.array<float>({1, whole(rows), whole(columns)});
    workspace.in_bands(rows, 4 * kBand, [&](i64 first, i64 last) {
        kernels().block_means(first, last, light, kBlock, kBlock, means.cube());
    });
    out.luma = std::move(luma);
    if (!chroma) {
        for (i64 c = 0; c < 3; ++c)
            std::copy(means.data, means.data + rows * columns, out.block_means.data + c * rows * columns);
        return out;
    }
    out.chroma = std::move(chroma);
    out.chroma_coefficients = spline_coefficients(workspace, out.chroma.read_cube());
    Array<float> chroma_means = workspace.array<float>({2, whole(rows), whole(columns)});
    workspace.in_bands(rows, 4 * kBand, [&](i64 first, i64 last) {
        kernels().block_means(first, last, out.chroma.read_cube(), out.down(), out.across(), chroma_means.cube());
        const Span span = {first, last, 0, columns};
        kernels().to_rgb(&span, 1, means.read_cube().plane(0), chroma_means.read_cube(), matrix.data(),
                         out.block_means.cube());
    });
    return out;
}

}  // namespace

Planes planes_of_rgb(Workspace& workspace, Images rgb, const Matrix& matrix) {
    Array<float> luma = workspace.array<float>({whole(rgb.height), whole(rgb.width)});
    Array<float> chroma = workspace.array<float>({2, whole(rgb.height), whole(rgb.width)});
    workspace.in_bands(rgb.height, 4 * kBand, [&](i64 first, i64 last) {
        kernels().from_rgb(first, last, rgb, luma.grid(), chroma.cube());
    });
    return completed(workspace, std::move(luma), std::move(chroma), matrix);
}

Planes planes_of_codes(Workspace& workspace, const std::vector<CodePlane>& codes, i64 height, i64 width, i64 chroma_height,
                       i64 chroma_width, const Matrix& matrix) {
    Array<float> luma = workspace.array<float>({whole(height), whole(width)}), chroma;
    if (codes.size() == 3) chroma = workspace.array<float>({2, whole(chroma_height), whole(chroma_width)});
    for (std::size_t n = 0; n < codes.size(); ++n) {
        const CodePlane& plane = codes[n];
        const Target out = n == 0 ? luma.grid() : chroma.cube().plane(static_cast<i64>(n) - 1);
        const float gain = static_cast<float>(1.0 / plane.span);
        workspace.in_bands(out.height, 8 * kBand, [&](i64 first, i64 last) {
            if (plane.wide)
                kernels().read_u16(first, last, {static_cast<const std::uint16_t*>(plane.data), plane.height, plane.width},
                                   plane.zero, gain, out);
            else
                kernels().read_u8(first, last, {static_cast<const std::uint8_t*>(plane.data), plane.height, plane.width},
                                  plane.zero, gain, out);
        });
    }
    return completed(workspace, std::move(luma), std::move(chroma), matrix);
}

Array<float> rgb_of(Workspace& workspace, Image luma, Images chroma, const Matrix& matrix) {
    Array<float> out = workspace.array<float>({3, whole(luma.height), whole(luma.width)});
    workspace.in_bands(luma.height, 4 * kBand, [&](i64 first, i64 last) {
        const Span span = {first, last, 0, luma.width};
        kernels().to_rgb(&span, 1, luma, chroma, matrix.data(), out.cube());
    });
    return out;
}

void codes_of(Workspace& workspace, Image plane, const CodePlane& codes, float most) {
    workspace.in_bands(codes.height, 8 * kBand, [&](i64 first, i64 last) {
        void* data = const_cast<void*>(codes.data);
        if (codes.wide)
            kernels().write_u16(first, last, plane, codes.zero, codes.span, most,
                                {static_cast<std::uint16_t*>(data), codes.height, codes.width});
        else
            kernels().write_u8(first, last, plane, codes.zero, codes.span, most,
                               {static_cast<std::uint8_t*>(data), codes.height, codes.width});
    });
}

namespace {

struct OwnedFrame {
    Array<float> memory;
    Bordered frame;
};

OwnedFrame bordered(Workspace& workspace, Grid<const std::uint8_t> source) {
    OwnedFrame out{workspace.array<float>({whole(source.height + 2 * kBorder), whole(source.width + 2 * kBorder)}), {}};
    out.frame = {out.memory.data, source.height, source.width};
    return out;
}

}  // namespace

Array<float> inverse_search(Workspace& workspace, const std::vector<SearchLevel>& levels, i64 stride, i64 steps,
                            float relaxation) {
    constexpr i64 kStripes = 8;  // fixed, so that the flow does not depend on the number of threads
    Array<float> coarse;
    for (std::size_t n = levels.size(); n-- > 0;) {
        const SearchLevel& level = levels[n];
        const i64 height = level.first.height, width = level.first.width, area = height * width;
        const OwnedFrame frames[2] = {bordered(workspace, level.first), bordered(workspace, level.second)};
        const i64 bands = (height + 2 * kBorder + 31) / 32;
        workspace.threads.run(2 * bands, [&](i64 task) {
            const i64 first = task / 2 * 32;
            kernels().import_frame(first, std::min(first + 32, height + 2 * kBorder), task % 2 == 0 ? level.first : level.second,
                                   frames[task % 2].frame);
        });
        Array<float> gradients = workspace.array<float>({2, 2, whole(height), whole(width)});
        workspace.threads.run(2 * ((height + 31) / 32), [&](i64 task) {
            const i64 first = task / 2 * 32;
            kernels().gradient(first, std::min(first + 32, height), frames[task % 2].frame,
                               {gradients.data + task % 2 * 2 * area, 2, height, width});
        });
        const i64 rows = (height - kPatch) / stride + 1, columns = (width - kPatch) / stride + 1;
        Array<float> vectors = workspace.array<float>({2, whole(rows), whole(columns), 2});
        const auto search = [&](i64 way) {
            const bool begun = static_cast<bool>(coarse);
            const i64 coarse_height = begun ? coarse.size(1) : 0, coarse_width = begun ? coarse.size(2) : 0;
            return PatchSearch{
                frames[way].frame, frames[1 - way].frame, {gradients.data + way * 2 * area, 2, height, width},
                begun ? coarse.data + way * 2 * coarse_height * coarse_width : nullptr, coarse_height, coarse_width,
                way == 0 ? level.initial_ab : level.initial_ba, rows, columns, stride, steps, relaxation,
                vectors.data + way * 2 * rows * columns};
        };
        const PatchSearch jobs[2] = {search(0), search(1)};
        const i64 stripe = (rows + kStripes - 1) / kStripes;
        workspace.threads.run(2 * kStripes, [&](i64 task) {
            const i64 first = task / 2 * stripe, last = std::min(first + stripe, rows);
            if (first < last) kernels().search_patches(first, last, jobs[task % 2]);
        });
        Array<float> flows = workspace.array<float>({2, whole(height), whole(width), 2});
        workspace.threads.run(2 * ((height + 31) / 32), [&](i64 task) {
            const i64 first = task / 2 * 32;
            kernels().densify(first, std::min(first + 32, height), jobs[task % 2], flows.data + task % 2 * 2 * area);
        });
        coarse = std::move(flows);
    }
    return coarse;
}

Array<float> background_motion(Workspace& workspace, Images flow, Image weight, const BackgroundFit& fit) {
    Array<float> out = workspace.array<float>({2, whole(flow.height), whole(flow.width)});
    kernels().background(flow, weight, fit, out.cube());
    return out;
}

Array<float> forward_backward_error(Workspace& workspace, Images flow, Images backward) {
    Array<float> out = workspace.array<float>({whole(flow.height), whole(flow.width)});
    workspace.in_bands(flow.height, kBand, [&](i64 first, i64 last) {
        kernels().consistency(first, last, flow, backward, out.grid());
    });
    return out;
}

Array<float> confirmed_acceleration(Workspace& workspace, Images own, Images other, Images flow) {
    Array<float> out = workspace.array<float>({2, whole(flow.height), whole(flow.width)});
    workspace.in_bands(flow.height, kBand, [&](i64 first, i64 last) {
        kernels().acceleration(first, last, own, other, flow, out.cube());
    });
    return out;
}

Array<float> local_correlation(Workspace& workspace, Images a, Images b, i64 radius) {
    const i64 side = 2 * radius + 1;
    Array<float> out = workspace.array<float>({whole(side * side), whole(a.height), whole(a.width)});
    workspace.in_bands(a.height, kBand, [&](i64 first, i64 last) {
        kernels().correlate(first, last, a, b, radius, out.cube());
    });
    return out;
}

Array<float> filtered_flow(Workspace& workspace, Images padded, i64 radius, float colour, float reliable) {
    const i64 height = padded.height - 2 * radius, width = padded.width - 2 * radius;
    Array<float> out = workspace.array<float>({2, whole(height), whole(width)});
    workspace.in_bands(height, kBand, [&](i64 first, i64 last) {
        kernels().filter_flow(first, last, padded, radius, colour, reliable, out.cube());
    });
    return out;
}

Array<float> flow_importance(Workspace& workspace, Images flow, Image error, Image other_error, Images background,
                             const ActiveArea& area, const ForegroundThresholds& limits) {
    const i64 height = flow.height, width = flow.width;
    Array<float> own = workspace.array<float>({whole(height), whole(width)});
    Array<float> uncovered = workspace.array<float>({whole(height), whole(width)});
    Array<float> out = workspace.array<float>({2, whole(height), whole(width)});
    workspace.in_bands(height, kBand, [&](i64 first, i64 last) {
        kernels().uncovering(first, last, flow, background, other_error, limits, own.grid(), uncovered.grid());
    });
    workspace.in_bands(height, kBand, [&](i64 first, i64 last) {
        kernels().importance(first, last, flow, error, own.read_grid(), uncovered.read_grid(), area, limits, out.cube());
    });
    return out;
}

Hypotheses MotionHypotheses::view() const {
    return {features.data, active.cube(), coverage.read_cube(), features.size(0), features.size(2), features.size(3), zero,
            refined_index};
}

MotionHypotheses hypotheses(Workspace& workspace, const FlowPair& flows, const std::vector<NamedFlows>& others,
                            Images refined, Images acceleration_a, Images acceleration_b, float t, const std::vector<std::string>& names,
                            i64 shift, float threshold) {
    const i64 height = flows.ab.height, width = flows.ab.width, area = height * width;
    MotionHypotheses out;
    out.features = workspace.array<float>({names.size(), whole(kFeatures), whole(height), whole(width)});
    out.active = workspace.array<bool>({names.size(), whole(height / kTile), whole(width / kTile)});
    out.coverage = workspace.array<float>({3, whole(height), whole(width)});
    const auto index = [&](std::string_view name) {
        return static_cast<i64>(std::find(names.begin(), names.end(), name) - names.begin());
    };
    const i64 count = static_cast<i64>(names.size());
    out.zero = index("zero");
    const auto flow_of = [&](i64 k) -> Targets {
        if (k >= count) return {};
        return {out.features.data + k * kFeatures * area, 4, height, width};
    };
    const std::size_t pairs = 1 + others.size();
    const auto pair_of = [&](i64 n) -> const FlowPair& { return n == 0 ? flows : others[whole(n - 1)].flows; };
    Array<float> splats = workspace.array<float>({2 * pairs, 5, whole(height), whole(width)});
    const auto splat_of = [&](i64 n) { return Targets{splats.data + n * 5 * area, 5, height, width}; };
    const auto read_splat = [&](i64 n) { return Images{splats.data + n * 5 * area, 5, height, width}; };
    workspace.threads.run(static_cast<i64>(2 * pairs), [&](i64 n) {
        const FlowPair& pair = pair_of(n / 2);
        const bool from_b = n % 2 == 1;
        const Splat job = {from_b ? pair.ba : pair.ab, from_b ? acceleration_b : acceleration_a,
                           from_b ? pair.importance_b : pair.importance_a, from_b ? 1.0f - t : t, from_b};
        kernels().splat(job, splat_of(n));
    });
    for (i64 n = 0; n < static_cast<i64>(pairs); ++n) {
        const FlowPair& pair = pair_of(n);
        Combination job = {read_splat(2 * n), read_splat(2 * n + 1), pair.ab, pair.ba, acceleration_a, acceleration_b, t,
                           {}, {}, {}, {}};
        if (n == 0) {
            job.splatted = flow_of(index("splatted"));
            job.one_sided_a = flow_of(index("one_sided_a"));
            job.one_sided_b = flow_of(index("one_sided_b"));
            job.coverage = out.coverage.cube();
        } else {
            job.splatted = flow_of(index(others[whole(n - 1)].name));
        }
        workspace.in_bands(height, 4 * kBand, [&](i64 first, i64 last) { kernels().combine(first, last, job); });
    }
    const Targets splatted = flow_of(index("splatted"));
    const Images source = {splatted.data, 4, height, width};
    const struct {
        const char* name;
        i64 dx, dy;
    } directions[] = {{"shifted_right", shift, 0}, {"shifted_left", -shift, 0}, {"shifted_down", 0, shift}, {"shifted_up", 0, -shift}};
    for (const auto& [name, dx, dy] : directions) {
        const Targets target = flow_of(index(name));
        if (target.empty()) continue;
        workspace.in_bands(height, 8 * kBand,
                           [&, dx = dx, dy = dy](i64 first, i64 last) { kernels().shift(first, last, source, dx, dy, target); });
    }
    for (const char* name : {"filtered", "refined"}) {
        const Targets target = flow_of(index(name));
        const bool found = std::any_of(others.begin(), others.end(), [&](const NamedFlows& each) { return each.name == name; });
        if (!target.empty() && !found) std::copy(source.data, source.data + 4 * area, target.data);
    }
    if (!refined.empty()) {
        out.refined_index = index("refined");
        const Targets target = flow_of(out.refined_index);
        out.refined = workspace.array<float>({2, whole(height), whole(width)});
        std::copy(refined.data + 4 * area, refined.data + 6 * area, out.refined.data);
        const float* own = refined.data + 5 * area;
        for (i64 c = 0; c < 4; ++c)
            for (i64 n = 0; n < area; ++n)
                if (own[n] > 0.5f) target.data[c * area + n] = refined.data[c * area + n];
    }
    const Targets still = flow_of(out.zero);
    std::fill(still.data, still.data + 4 * area, 0.0f);
    const Hypotheses view = out.view();
    workspace.in_bands(height / kTile, kBand,
                       [&](i64 first, i64 last) { kernels().find_active(first, last, view, threshold); });
    return out;
}

Warped warp_hypotheses(Workspace& workspace, const MotionHypotheses& hypotheses, const Planes& a, const Planes& b,
                       Image occlusion_ab, Image occlusion_ba, const TrivialThresholds& limits) {
    const Hypotheses found = hypotheses.view();
    const i64 count = found.count, rows = found.height, columns = found.width, blocks = rows * columns;
    const i64 height = kBlock * rows, width = kBlock * columns, area = height * width;
    Warped out{{}, {}, {}, hypotheses, a, b};
    out.luma = workspace.array<float>({whole(2 * count), 1, whole(height), whole(width)});
    out.evaluated = workspace.array<bool>({whole(count), whole(rows / kTile), whole(columns / kTile)});
    Array<float> means = workspace.array<float>({whole(2 * count), 3, whole(rows), whole(columns)});
    Array<float> mean = workspace.array<float>({whole(height), whole(width)});
    i64 chroma_area = 0;
    if (a.chroma) {
        out.chroma = workspace.array<float>({whole(2 * count), 2, a.chroma.shape[1], a.chroma.shape[2]});
        chroma_area = a.chroma.size(1) * a.chroma.size(2);
    } else {
        std::fill(means.data, means.data + 2 * count * 3 * blocks, 0.0f);
    }
    const auto luma_of = [&](i64 side, i64 k) { return out.luma.data + (side * count + k) * area; };
    const auto read_luma = [&](i64 side, i64 k) { return Image{luma_of(side, k), height, width}; };

    const auto warp_spans = [&](const Span* spans, i64 number, i64 k, i64 side) {
        const Planes& frame = side == 0 ? a : b;
        const Targets features = found.of(k);
        const Images flow = {features.row(side == 0 ? kFlowToA : kFlowToB, 0), 2, rows, columns};
        const Targets found_means = {means.data + (side * count + k) * 3 * blocks, 3, rows, columns};
        kernels().warp(spans, number, {frame.luma_coefficients.data, flow, kBlock, kBlock,
                                       {luma_of(side, k), 1, height, width}, found_means.planes(0, 1)});
        if (frame.chroma) {
            const Targets target = {out.chroma.data + (side * count + k) * 2 * chroma_area, 2, frame.chroma.size(1),
                                    frame.chroma.size(2)};
            kernels().warp(spans, number, {frame.chroma_coefficients.data, flow, frame.down(), frame.across(), target,
                                           found_means.planes(1, 2)});
        }
        const Images colour = {found_means.data + blocks, 2, rows, columns};
        kernels().to_rgb(spans, number, {found_means.data, rows, columns}, colour, a.matrix.data(),
                         features.planes(side == 0 ? kColourA : kColourB, 3));
    };

    const i64 bands = (rows + kBand - 1) / kBand;
    workspace.threads.run(2 * bands, [&](i64 n) {
        const i64 first = n / 2 * kBand;
        const Span span = {first, std::min(first + kBand, rows), 0, columns};
        warp_spans(&span, 1, 0, n % 2);
    });
    const Targets still = found.of(found.zero);
    std::copy(a.block_means.data, a.block_means.data + 3 * blocks, still.row(kColourA, 0));
    std::copy(b.block_means.data, b.block_means.data + 3 * blocks, still.row(kColourB, 0));
    const Image still_a = a.luma.read_grid(), still_b = b.luma.read_grid();
    const Mask evaluated = out.evaluated.cube();
    workspace.in_bands(rows / kTile, 1, [&](i64 first, i64 last) {
        kernels().find_trivial(first, last, read_luma(0, 0), read_luma(1, 0), still_a, still_b, found, limits, evaluated);
    });
    std::vector<Task> tasks;
    for (i64 k = 1; k < count; ++k)
        if (k != found.zero) add_tasks(joined(spans_of(hypotheses.active, k)), k, 4 * kBand, 2, tasks);
    // what several hypotheses fetch from the same rows of a frame they fetch while these are in the cache
    std::stable_sort(tasks.begin(), tasks.end(), [](const Task& one, const Task& two) {
        const i64 band_one = one.spans[0].first / (4 * kBand), band_two = two.spans[0].first / (4 * kBand);
        return band_one != band_two ? band_one < band_two : one.side < two.side;
    });
    workspace.threads.run(static_cast<i64>(tasks.size()), [&](i64 n) {
        const Task& task = tasks[static_cast<std::size_t>(n)];
        warp_spans(task.spans.data(), static_cast<i64>(task.spans.size()), task.hypothesis, task.side);
    });
    workspace.in_bands(rows / kTile, 1, [&](i64 first, i64 last) {
        kernels().complete(first, last, found, evaluated, out.luma.data, still_a, still_b, mean.grid());
    });
    tasks.clear();
    for (i64 k = 0; k < count; ++k) add_tasks(joined(spans_of(out.evaluated, k)), k, 4 * kBand, 1, tasks);
    workspace.threads.run(static_cast<i64>(tasks.size()), [&](i64 n) {
        const Task& task = tasks[static_cast<std::size_t>(n)];
        const i64 k = task.hypothesis;
        const Image one = k == found.zero ? still_a : read_luma(0, k), two = k == found.zero ? still_b : read_luma(1, k);
        kernels().describe(task.spans.data(), static_cast<i64>(task.spans.size()), one, two, mean.read_grid(),
                           occlusion_ab, occlusion_ba, found.of(k));
    });
    if (hypotheses.refined) {  // its visibility is learned
        const Targets features = found.of(hypotheses.refined_index);
        const float *logits = hypotheses.refined.data, *own = logits + blocks;
        for (i64 n = 0; n < blocks; ++n) {
            if (own[n] <= 0.5f) continue;
            features.row(kOcclusionA, 0)[n] = logits[n];
            features.row(kOcclusionB, 0)[n] = -logits[n];
        }
    }
    return out;
}

namespace {

struct OwnedMap {
    Array<float> memory;
    FeatureMap map;
};

// Zeros around; the rest is not set.
OwnedMap feature_map(Workspace& workspace, i64 channels, i64 height, i64 width) {
    const i64 stride = (width + 31) / 32 * 32 + 3 * kMargin, size = channels * (height + 2) * stride + kMargin;
    OwnedMap out{workspace.array<float>({whole(size)}), {}};
    out.map = {out.memory.data, channels, height, width, stride};
    for (i64 c = 0; c < channels; ++c)
        for (const i64 y : {i64(-1), height}) std::fill(out.map.row(c, y) - kMargin, out.map.row(c, y) - kMargin + stride, 0.0f);
    return out;
}

Array<float> coarse_context(Workspace& workspace, const CoarseLayers& layers, Images fine) {
    const i64 height = fine.height / 2, width = fine.width / 2, channels = layers.down8.outputs;
    const auto convolve = [&](const OwnedMap& in, const Layer& layer, i64 stride, const OwnedMap* residual, OwnedMap& out) {
        workspace.in_bands(out.map.height, 8, [&](i64 first, i64 last) {
            kernels().convolve(first, last, in.map, layer, stride, residual == nullptr ? nullptr : &residual->map, out.map);
        });
    };
    OwnedMap blocks = feature_map(workspace, fine.channels, fine.height, fine.width);
    workspace.in_bands(fine.height, 4 * kBand, [&](i64 first, i64 last) { kernels().import_map(first, last, fine, blocks.map); });
    OwnedMap eighth = feature_map(workspace, channels, height, width);
    convolve(blocks, layers.down8, 2, nullptr, eighth);
    OwnedMap sixteenth = feature_map(workspace, channels, height / 2, width / 2);
    OwnedMap inside = feature_map(workspace, channels, height / 2, width / 2);
    OwnedMap other = feature_map(workspace, channels, height / 2, width / 2);
    convolve(eighth, layers.down16, 2, nullptr, sixteenth);
    convolve(sixteenth, layers.residual_1a, 1, nullptr, inside);
    convolve(inside, layers.residual_1b, 1, &sixteenth, other);
    convolve(other, layers.residual_2a, 1, nullptr, inside);
    convolve(inside, layers.residual_2b, 1, &other, sixteenth);
    workspace.in_bands(height, kBand, [&](i64 first, i64 last) {
        kernels().add_enlarged(first, last, sixteenth.map, eighth.map);
    });
    OwnedMap decoded = feature_map(workspace, channels, height, width);
    convolve(eighth, layers.up8, 1, nullptr, decoded);
    Array<float> out = workspace.array<float>({whole(layers.head.outputs), whole(height), whole(width)});
    workspace.in_bands(height, kBand, [&](i64 first, i64 last) {
        kernels().pointwise(first, last, decoded.map, layers.head, out.cube());
    });
    return out;
}

}  // namespace

Array<float> fuse(Workspace& workspace, const Warped& warped, const FusionLayers& layers, const CoarseLayers& coarse, float t) {
    const Hypotheses found = warped.hypotheses.view();
    const Mask evaluated = warped.evaluated.cube();
    std::vector<i64> starts;
    i64 total = 0;
    for (i64 y = 0; y < found.height; ++y) {
        for (i64 k = 0; k < found.count; ++k) {
            starts.push_back(total);
            const bool* tiles = evaluated.row(k, y / kTile);
            total += kTile * std::count(tiles, tiles + evaluated.width, true);
        }
    }
    Array<float> hidden = workspace.array<float>({whole(total * layers.input.outputs)});
    Array<float> fine = workspace.array<float>({whole(layers.context_encoder.outputs), whole(found.height), whole(found.width)});
    workspace.in_bands(found.height, kBand, [&](i64 first, i64 last) {
        kernels().encode(first, last, found, evaluated, t, starts.data(), layers, hidden.data, fine.cube());
    });
    const Array<float> context = coarse_context(workspace, coarse, fine.read_cube());
    Array<float> out = workspace.array<float>({whole(2 * found.count), whole(found.height), whole(found.width)});
    workspace.in_bands(found.height, kBand, [&](i64 first, i64 last) {
        kernels().decode(first, last, found, evaluated, t, starts.data(), layers, hidden.data, fine.read_cube(),
                         context.read_cube(), out.cube());
    });
    return out;
}

Blended blend(Workspace& workspace, const Warped& warped, Images weights) {
    const Planes &a = warped.a, &b = warped.b;
    const i64 height = a.luma.size(0), width = a.luma.size(1), zero = warped.hypotheses.zero;
    const Mask evaluated = warped.evaluated.cube();
    Blended out;
    out.luma = workspace.array<float>({1, whole(height), whole(width)});
    const Images luma_a = {a.luma.data, 1, height, width}, luma_b = {b.luma.data, 1, height, width};
    workspace.in_bands(height, kBand * kBlock, [&](i64 first, i64 last) {
        kernels().blend(first, last, warped.luma.data, luma_a, luma_b, zero, evaluated, weights, kBlock, kBlock,
                        out.luma.cube());
    });
    if (!warped.chroma) return out;
    out.chroma = workspace.array<float>({2, a.chroma.shape[1], a.chroma.shape[2]});
    workspace.in_bands(a.chroma.size(1), kBand * a.down(), [&](i64 first, i64 last) {
        kernels().blend(first, last, warped.chroma.data, a.chroma.read_cube(), b.chroma.read_cube(), zero, evaluated,
                        weights, a.down(), a.across(), out.chroma.cube());
    });
    return out;
}

}  // namespace midframe
