// midframe._native: Python's way to the stages. Shapes, types and contiguity are checked here and nowhere below.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <sstream>
#include <stdexcept>

#include "stages.hpp"

namespace nb = nanobind;
using namespace midframe;

namespace {

template <class T, int Dimensions>
using In = nb::ndarray<const T, nb::ndim<Dimensions>, nb::c_contig, nb::device::cpu>;
template <class T, int Dimensions>
using Out = nb::ndarray<T, nb::ndim<Dimensions>, nb::c_contig, nb::device::cpu>;
using Frame8 = nb::ndarray<const std::uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Codes = nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using WritableCodes = nb::ndarray<nb::ndim<2>, nb::c_contig, nb::device::cpu>;

template <class T>
nb::object numpy(const Array<T>& array) {
    if (!array) return nb::none();
    auto* owner = new std::shared_ptr<void>(array.owner);
    nb::capsule capsule(owner, [](void* kept) noexcept { delete static_cast<std::shared_ptr<void>*>(kept); });
    return nb::cast(nb::ndarray<nb::numpy, T>(array.data, array.shape.size(), array.shape.data(), capsule));
}

template <class A>
void check_shape(const char* name, const A& array, const std::vector<i64>& shape) {
    bool right = true;
    for (std::size_t axis = 0; axis < shape.size(); ++axis)
        right = right && (shape[axis] < 0 || static_cast<i64>(array.shape(axis)) == shape[axis]);
    if (right) return;
    std::ostringstream message;
    message << name << " has shape (";
    for (std::size_t axis = 0; axis < shape.size(); ++axis) message << (axis ? ", " : "") << array.shape(axis);
    message << "); expected (";
    for (std::size_t axis = 0; axis < shape.size(); ++axis) {
        message << (axis ? ", " : "");
        if (shape[axis] < 0)
            message << "any";
        else
            message << shape[axis];
    }
    message << ")";
    throw nb::value_error(message.str().c_str());
}

void require(bool right, const char* message) {
    if (!right) throw nb::value_error(message);
}

Image image(const In<float, 2>& array) {
    return {array.data(), static_cast<i64>(array.shape(0)), static_cast<i64>(array.shape(1))};
}
Images images(const In<float, 3>& array) {
    return {array.data(), static_cast<i64>(array.shape(0)), static_cast<i64>(array.shape(1)),
            static_cast<i64>(array.shape(2))};
}
Images images(const std::optional<In<float, 3>>& array) { return array ? images(*array) : Images{}; }

i64 rows(const In<float, 3>& array) { return static_cast<i64>(array.shape(1)); }
i64 columns(const In<float, 3>& array) { return static_cast<i64>(array.shape(2)); }

template <class A>
CodePlane code_plane(const A& codes, std::pair<float, float> range) {
    const bool narrow = codes.dtype() == nb::dtype<std::uint8_t>(), wide = codes.dtype() == nb::dtype<std::uint16_t>();
    if (!narrow && !wide) throw nb::type_error("planes of code values must be uint8 or uint16");
    require(codes.shape(0) > 0 && codes.shape(1) > 0, "planes of code values must not be empty");
    return {codes.data(), static_cast<i64>(codes.shape(0)), static_cast<i64>(codes.shape(1)), wide, range.first, range.second};
}

void check_grid(i64 height, i64 width) {
    require(height > 0 && width > 0 && height % (kBlock * kTile) == 0 && width % (kBlock * kTile) == 0,
            "height and width must be positive multiples of 16");
}

// The layers of a fusion network, with the arrays they live in.
struct FusionNetwork {
    std::vector<In<float, 2>> weights;
    std::vector<In<float, 1>> biases;
    In<float, 2> hypothesis_bias;
    In<float, 1> prior;
    FusionLayers layers;
    CoarseLayers coarse;
};

constexpr std::size_t kLayers = 14;
constexpr const char* kLayerNames[kLayers] = {
    "input_layer", "hidden_layer", "output_layer", "head", "context_encoder", "context_decoder", "encoder8", "encoder16",
    "residual_1a", "residual_1b", "residual_2a", "residual_2b", "decoder8", "coarse_head",
};

void check_warped(const Warped& warped, const FusionNetwork& network) {
    require(static_cast<i64>(network.hypothesis_bias.shape(0)) == warped.hypotheses.features.size(0),
            "the fusion network was made for another number of hypotheses");
}

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "Kernels of midnet on a CPU, in C++.";
    nb::set_leak_warnings(false);  // an exit by an exception leaves references, which is no fault that users should read of
    m.attr("CORRELATION_PADDING") = kCorrelationPadding;
    m.attr("interface") = 4;  // as `kernels.INTERFACE`; another number with every change of names or arguments below

    m.def("simd_variants", &variants, "Names of the variants that this processor can run, best first.");
    m.def("simd_variant", [] { return std::string(kernels().name); }, "Name of the variant in use.");
    m.def("use_simd_variant", &use_variant, nb::arg("name"),
          "Use another variant in the whole process; all give the same bits. ValueError if it cannot run here.");
    m.def("exponential", [](In<float, 1> x, Out<float, 1> out) {
        check_shape("out", out, {static_cast<i64>(x.shape(0))});
        kernels().exponential(x.data(), static_cast<i64>(x.shape(0)), out.data());
    }, nb::arg("x").noconvert(), nb::arg("out").noconvert(), "e^x of x <= 0, as the kernels compute it.");
    m.def("logarithm", [](In<float, 1> x, Out<float, 1> out) {
        check_shape("out", out, {static_cast<i64>(x.shape(0))});
        kernels().logarithm(x.data(), static_cast<i64>(x.shape(0)), out.data());
    }, nb::arg("x").noconvert(), nb::arg("out").noconvert(), "Logarithm of positive, normal x, as the kernels compute it.");

    nb::class_<Planes>(m, "Planes", "A frame's planes with spline coefficients and block means.")
        .def_prop_ro("luma", [](const Planes& p) { return numpy(p.luma); }, "(H, W) float32, 0..1.")
        .def_prop_ro("chroma", [](const Planes& p) { return numpy(p.chroma); }, "(2, h, w) float32, -0.5..0.5, or None.")
        .def_prop_ro("block_means", [](const Planes& p) { return numpy(p.block_means); }, "(3, H / 4, W / 4): R, G, B.")
        .def_prop_ro("matrix", [](const Planes& p) { return p.matrix; }, "(3, 2), flat: what Cb and Cr add to luma.");

    nb::class_<MotionHypotheses>(m, "MotionHypotheses", "Hypotheses of the flows from an instant to both frames.")
        .def_prop_ro("features", [](const MotionHypotheses& h) { return numpy(h.features); }, "(K, 17, h, w).")
        .def_prop_ro("active", [](const MotionHypotheses& h) { return numpy(h.active); }, "(K, h / 4, w / 4) bool.")
        .def_prop_ro("coverage", [](const MotionHypotheses& h) { return numpy(h.coverage); }, "(3, h, w).");

    nb::class_<Warped>(m, "Warped", "Both frames warped to an instant under every hypothesis.")
        .def_prop_ro("luma", [](const Warped& w) { return numpy(w.luma); }, "(2K, 1, H, W): a under each, then b.")
        .def_prop_ro("chroma", [](const Warped& w) { return numpy(w.chroma); }, "(2K, 2, h, w), or None.")
        .def_prop_ro("evaluated", [](const Warped& w) { return numpy(w.evaluated); }, "(K, h / 4, w / 4) bool.")
        .def_prop_ro("features", [](const Warped& w) { return numpy(w.hypotheses.features); }, "(K, 17, h, w).")
        .def_prop_ro("active", [](const Warped& w) { return numpy(w.hypotheses.active); }, "(K, h / 4, w / 4) bool.")
        .def_prop_ro("coverage", [](const Warped& w) { return numpy(w.hypotheses.coverage); }, "(3, h, w).")
        .def_prop_ro("zero", [](const Warped& w) { return w.hypotheses.zero; }, "Index of the zero-motion hypothesis.")
        .def_prop_ro("a", [](const Warped& w) { return w.a; })
        .def_prop_ro("b", [](const Warped& w) { return w.b; });

    nb::class_<FusionNetwork>(m, "FusionNetwork", "Layers of a fusion network; keeps their arrays.")
        .def("__init__", [](FusionNetwork* self, std::vector<In<float, 2>> weights, std::vector<In<float, 1>> biases,
                            In<float, 2> hypothesis_bias, In<float, 1> prior) {
            require(weights.size() == kLayers && biases.size() == kLayers, "fourteen layers are needed");
            const i64 each = static_cast<i64>(weights[0].shape(0)), context = static_cast<i64>(weights[4].shape(0));
            const i64 count = static_cast<i64>(hypothesis_bias.shape(0)), deep = static_cast<i64>(weights[6].shape(0));
            const i64 shapes[kLayers][2] = {
                {each, kInputs}, {each, each}, {each, each}, {2, each}, {context, 4 * each + kShared}, {each + 3, context},
                {deep, 9 * context}, {deep, 9 * deep}, {deep, 9 * deep}, {deep, 9 * deep}, {deep, 9 * deep}, {deep, 9 * deep},
                {deep, 9 * deep}, {each + 3, deep},
            };
            for (std::size_t n = 0; n < kLayers; ++n) {
                check_shape(kLayerNames[n], weights[n], {shapes[n][0], shapes[n][1]});
                check_shape(kLayerNames[n], biases[n], {shapes[n][0]});
            }
            check_shape("hypothesis_bias", hypothesis_bias, {-1, each});
            check_shape("prior", prior, {count});
            new (self) FusionNetwork{std::move(weights), std::move(biases), hypothesis_bias, prior, {}, {}};
            const auto layer = [&](std::size_t n) {
                return Layer{self->weights[n].data(), self->biases[n].data(), shapes[n][0], shapes[n][1]};
            };
            self->layers = {layer(0), hypothesis_bias.data(), layer(1), layer(2), layer(3), layer(4), layer(5), prior.data()};
            self->coarse = {layer(6), layer(7), layer(8), layer(9), layer(10), layer(11), layer(12), layer(13)};
        }, nb::arg("weights"), nb::arg("biases"), nb::arg("hypothesis_bias").noconvert(), nb::arg("prior").noconvert(),
             "Weights (outputs, inputs) of the layers in the order of kLayerNames; of 3x3 convolutions the inputs are (channel, row, column), flat.");

    nb::class_<Workspace>(m, "Workspace", "Worker threads and reused memory of one engine; may be shared by threads.")
        .def(nb::init<i64>(), nb::arg("threads") = 1)
        .def_prop_rw("threads", [](const Workspace& w) { return w.threads.count(); },
                     [](Workspace& w, i64 count) {
                         require(count > 0, "threads must be positive");
                         w.threads.set_count(count);
                     }, "Threads that work on a call, the caller among them.")
        .def("planes_of_rgb", [](Workspace& w, In<float, 3> rgb, Matrix matrix) {
            check_shape("rgb", rgb, {3, -1, -1});
            check_grid(rows(rgb), columns(rgb));
            nb::gil_scoped_release released;
            return planes_of_rgb(w, images(rgb), matrix);
        }, nb::arg("rgb").noconvert(), nb::arg("matrix"), "Planes of RGB (3, H, W), 0..1; chroma is BT.601's.")
        .def("planes_of_codes", [](Workspace& w, std::vector<Codes> codes, std::vector<std::pair<float, float>> ranges,
                                   std::pair<i64, i64> size, std::pair<i64, i64> chroma_size, Matrix matrix) {
            require(codes.size() == 1 || codes.size() == 3, "one or three planes are needed");
            require(ranges.size() == codes.size(), "a range is needed for every plane");
            check_grid(size.first, size.second);
            std::vector<CodePlane> planes;
            for (std::size_t n = 0; n < codes.size(); ++n) {
                planes.push_back(code_plane(codes[n], ranges[n]));
                const auto [height, width] = n == 0 ? size : chroma_size;
                require(planes[n].height <= height && planes[n].width <= width, "a plane is larger than the size asked for");
            }
            if (codes.size() == 3) {
                const auto [height, width] = chroma_size;
                const bool halves = (size.first == height || size.first == 2 * height) &&
                                    (size.second == width || size.second == 2 * width);
                require(halves, "chroma must be as large as luma or half as large, each way");
            }
            nb::gil_scoped_release released;
            return planes_of_codes(w, planes, size.first, size.second, chroma_size.first, chroma_size.second, matrix);
        }, nb::arg("codes"), nb::arg("ranges"), nb::arg("size"), nb::arg("chroma_size"), nb::arg("matrix"),
             "Planes of code values uint8 or uint16, edges repeated up to `size`; a range is (code of 0, codes to 1).")
        .def("rgb_of", [](Workspace& w, In<float, 2> luma, In<float, 3> chroma, Matrix matrix) {
            check_shape("chroma", chroma, {2, static_cast<i64>(luma.shape(0)), static_cast<i64>(luma.shape(1))});
            Array<float> out;
            {
                nb::gil_scoped_release released;
                out = rgb_of(w, image(luma), images(chroma), matrix);
            }
            return numpy(out);
        }, nb::arg("luma").noconvert(), nb::arg("chroma").noconvert(), nb::arg("matrix"), "RGB (3, H, W) of luma and chroma.")
        .def("write_codes", [](Workspace& w, In<float, 2> plane, std::pair<float, float> range, float most, WritableCodes codes) {
            const CodePlane target = code_plane(codes, range);
            require(target.height <= static_cast<i64>(plane.shape(0)) && target.width <= static_cast<i64>(plane.shape(1)),
                    "codes are larger than the plane");
            nb::gil_scoped_release released;
            codes_of(w, image(plane), target, most);
        }, nb::arg("plane").noconvert(), nb::arg("range"), nb::arg("most"), nb::arg("codes").noconvert(),
             "Write a plane as the nearest code values 0 to `most`, as much of it as `codes` has.")
        .def("spline_coefficients", [](Workspace& w, In<float, 3> planes) {
            require(planes.shape(1) > 0 && planes.shape(1) % 4 == 0 && planes.shape(2) > 0, "the height must be a multiple of 4");
            Array<float> out;
            {
                nb::gil_scoped_release released;
                out = spline_coefficients(w, images(planes));
            }
            return numpy(out);
        }, nb::arg("planes").noconvert(), "Coefficients (H + 4, W + 4, C) of a cubic B-spline of planes (C, H, W).")
        .def("warp", [](Workspace& w, In<float, 3> planes, In<float, 3> flow) {
            const i64 channels = static_cast<i64>(planes.shape(0)), height = rows(planes), width = columns(planes);
            const i64 down = height / rows(flow), across = width / columns(flow);
            require(channels == 1 || channels == 2, "one or two channels are needed");
            require((down == 2 || down == 4) && (across == 4 || (across == 2 && channels == 2)) &&
                        down * rows(flow) == height && across * columns(flow) == width && columns(flow) % kTile == 0,
                    "a vector must stand for 4x4 pixels, or 2 to either side of two channels; a multiple of 4 to a row");
            check_shape("flow", flow, {2, -1, -1});
            Array<float> out, means;
            {
                nb::gil_scoped_release released;
                const Array<float> spline = spline_coefficients(w, images(planes));
                out = w.array<float>({planes.shape(0), planes.shape(1), planes.shape(2)});
                means = w.array<float>({planes.shape(0), flow.shape(1), flow.shape(2)});
                const Span span = {0, rows(flow), 0, columns(flow)};
                kernels().warp(&span, 1, {spline.data, images(flow), down, across, out.cube(), means.cube()});
            }
            return nb::make_tuple(numpy(out), numpy(means));
        }, nb::arg("planes").noconvert(), nb::arg("flow").noconvert(),
             "Planes (C, H, W) warped backward by a flow (2, h, w) of blocks, in blocks; and means (C, h, w) of blocks.")
        .def("inverse_search", [](Workspace& w, std::vector<Frame8> first, std::vector<Frame8> second,
                                  std::optional<std::pair<std::vector<In<float, 3>>, std::vector<In<float, 3>>>> initial,
                                  i64 stride, i64 steps, float relaxation) {
            require(!first.empty() && first.size() == second.size(), "both pyramids must have the same levels");
            require(stride > 0 && stride <= kPatch, "the stride of patches must be 1 to 8");
            require(steps > 1, "two descent steps at least");
            std::vector<SearchLevel> levels;
            for (std::size_t n = 0; n < first.size(); ++n) {
                const i64 height = static_cast<i64>(first[n].shape(0)), width = static_cast<i64>(first[n].shape(1));
                require(height >= kPatch && width >= kPatch, "a level must hold a patch of 8x8");
                check_shape("second", second[n], {height, width});
                levels.push_back({{first[n].data(), height, width}, {second[n].data(), height, width}});
                if (!initial) continue;
                require(initial->first.size() == first.size() && initial->second.size() == first.size(),
                        "an initial flow is needed for every level");
                check_shape("initial", initial->first[n], {height, width, 2});
                check_shape("initial", initial->second[n], {height, width, 2});
                levels.back().initial_ab = initial->first[n].data();
                levels.back().initial_ba = initial->second[n].data();
            }
            Array<float> out;
            {
                nb::gil_scoped_release released;
                out = inverse_search(w, levels, stride, steps, relaxation);
            }
            return numpy(out);
        }, nb::arg("first"), nb::arg("second"), nb::arg("initial").none(), nb::arg("stride"), nb::arg("steps"),
             nb::arg("relaxation"),
             "Flows (2, h, w, 2) between two frames, both ways, by dense inverse search down pyramids (h, w) uint8, finest "
             "level first.")
        .def("background_motion", [](Workspace& w, In<float, 3> flow, In<float, 2> weight, std::pair<i64, i64> cells, i64 longer,
                                     In<float, 1> taps, i64 iterations, float prior, double scale, double ridge) {
            check_shape("flow", flow, {2, -1, -1});
            check_shape("weight", weight, {rows(flow), columns(flow)});
            require(cells.first > 0 && cells.second > 0 && cells.first <= rows(flow) && cells.second <= columns(flow),
                    "cells must be at least as large as places");
            require(taps.shape(0) % 2 == 1 && longer > 0 && iterations > 0, "an odd number of taps, and an iteration, are needed");
            Array<float> out;
            {
                nb::gil_scoped_release released;
                out = background_motion(w, images(flow), image(weight),
                                        {cells.first, cells.second, longer, static_cast<i64>(taps.shape(0)) / 2, taps.data(),
                                         iterations, prior, scale, ridge});
            }
            return numpy(out);
        }, nb::arg("flow").noconvert(), nb::arg("weight").noconvert(), nb::arg("cells"), nb::arg("longer"),
             nb::arg("taps").noconvert(), nb::arg("iterations"), nb::arg("prior"), nb::arg("scale"), nb::arg("ridge"),
             "Local affine motion (2, h, w) of a flow with weights (h, w), fitted on a grid of cells (rows, columns).")
        .def("forward_backward_error", [](Workspace& w, In<float, 3> flow, In<float, 3> backward) {
            check_shape("flow", flow, {2, -1, -1});
            check_shape("backward", backward, {2, rows(flow), columns(flow)});
            require(rows(flow) > 1 && columns(flow) > 1, "flows need at least 2x2 places");
            Array<float> out;
            {
                nb::gil_scoped_release released;
                out = forward_backward_error(w, images(flow), images(backward));
            }
            return numpy(out);
        }, nb::arg("flow").noconvert(), nb::arg("backward").noconvert(),
             "By how many pixels (h, w) one misses the start, going along a flow of blocks and back.")
        .def("confirmed_acceleration", [](Workspace& w, In<float, 3> own, In<float, 3> other, In<float, 3> flow) {
            for (const auto* each : {&own, &other, &flow}) check_shape("flow", *each, {2, rows(flow), columns(flow)});
            require(rows(flow) > 1 && columns(flow) > 1, "flows need at least 2x2 places");
            Array<float> out;
            {
                nb::gil_scoped_release released;
                out = confirmed_acceleration(w, images(own), images(other), images(flow));
            }
            return numpy(out);
        }, nb::arg("own").noconvert(), nb::arg("other").noconvert(), nb::arg("flow").noconvert(),
             "The acceleration (2, h, w) that the one at the other end of a flow confirms.")
        .def("local_correlation", [](Workspace& w, In<float, 3> a, In<float, 3> b, i64 radius) {
            require(radius >= 0 && radius <= 16, "the radius must be 0 to 16");
            check_shape("a", a, {-1, -1, -1});
            require(rows(a) > 0 && columns(a) > 0 && a.shape(0) > 0, "maps must not be empty");
            check_shape("b", b, {static_cast<i64>(a.shape(0)), rows(a) + 2 * radius, columns(a) + 2 * radius + kCorrelationPadding});
            Array<float> out;
            {
                nb::gil_scoped_release released;
                out = local_correlation(w, images(a), images(b), radius);
            }
            return numpy(out);
        }, nb::arg("a").noconvert(), nb::arg("b").noconvert(), nb::arg("radius"),
             "Dot products ((2 radius + 1)^2, h, w) of vectors of a (C, h, w) with those around the same place in b, which "
             "is padded by the radius, and by CORRELATION_PADDING columns more on the right.")
        .def("filtered_flow", [](Workspace& w, In<float, 3> padded, i64 radius, float colour, float reliable) {
            require(radius > 0, "radius must be positive");
            check_shape("padded", padded, {6, -1, -1});
            require(rows(padded) > 2 * radius && columns(padded) > 2 * radius, "padded is smaller than its padding");
            Array<float> out;
            {
                nb::gil_scoped_release released;
                out = filtered_flow(w, images(padded), radius, colour, reliable);
            }
            return numpy(out);
        }, nb::arg("padded").noconvert(), nb::arg("radius"), nb::arg("colour"), nb::arg("reliable"),
             "A confidence-weighted joint bilateral filter of a flow; `padded` is flow, colour and confidence.")
        .def("flow_importance", [](Workspace& w, In<float, 3> flow, In<float, 2> error, In<float, 2> other_error,
                                   In<float, 3> background, std::array<float, 4> area, std::array<float, 7> limits) {
            const i64 height = rows(flow), width = columns(flow);
            check_shape("flow", flow, {2, -1, -1});
            check_shape("background", background, {2, height, width});
            check_shape("error", error, {height, width});
            check_shape("other_error", other_error, {height, width});
            require(height > 1 && width > 1, "flows need at least 2x2 places");
            Array<float> out;
            {
                nb::gil_scoped_release released;
                out = flow_importance(w, images(flow), image(error), image(other_error), images(background),
                                      {area[0], area[1], area[2], area[3]},
                                      {limits[0], limits[1], limits[2], limits[3], limits[4], limits[5], limits[6]});
            }
            return numpy(out);
        }, nb::arg("flow").noconvert(), nb::arg("error").noconvert(), nb::arg("other_error").noconvert(),
             nb::arg("background").noconvert(), nb::arg("area"), nb::arg("limits"),
             "Occlusion logits and log splatting importance (2, h, w) of a flow; limits are those of ForegroundThresholds.")
        .def("hypotheses", [](Workspace& w, std::vector<In<float, 3>> flows, std::vector<In<float, 2>> importances,
                              std::optional<In<float, 3>> refined,
                              std::optional<std::pair<In<float, 3>, In<float, 3>>> acceleration, float t,
                              std::vector<std::string> names, std::vector<std::string> others, i64 shift, float threshold) {
            require(flows.size() == 2 + 2 * others.size(), "two flows are needed, and two for each of the others");
            require(importances.size() == flows.size(), "an importance is needed for every flow");
            require(!names.empty() && names.size() <= kMaxHypotheses && names[0] == "splatted",
                    "the first hypothesis must be splatted");
            const auto among = [&](std::string_view name) { return std::find(names.begin(), names.end(), name) != names.end(); };
            require(among("zero"), "zero motion must be among the hypotheses");
            for (const auto& name : others) require(name == "filtered" && among(name), "the others are filtered flows");
            require(!refined || among("refined"), "refined flow needs its hypothesis");
            const i64 height = rows(flows[0]), width = columns(flows[0]);
            require(height > 0 && width > 0 && height % kTile == 0 && width % kTile == 0, "flows must cover whole tiles of 4x4 blocks");
            for (const auto& flow : flows) check_shape("flow", flow, {2, height, width});
            for (const auto& importance : importances) check_shape("importance", importance, {height, width});
            Images bend_a, bend_b, refined_flow;
            if (refined) {
                check_shape("refined", *refined, {6, height, width});
                refined_flow = images(*refined);
            }
            if (acceleration) {
                check_shape("acceleration", acceleration->first, {2, height, width});
                check_shape("acceleration", acceleration->second, {2, height, width});
                bend_a = images(acceleration->first);
                bend_b = images(acceleration->second);
            }
            const auto pair = [&](std::size_t n) {
                return FlowPair{images(flows[n]), images(flows[n + 1]), image(importances[n]), image(importances[n + 1])};
            };
            std::vector<NamedFlows> rest;
            for (std::size_t n = 0; n < others.size(); ++n) rest.push_back({others[n], pair(2 * n + 2)});
            nb::gil_scoped_release released;
            return hypotheses(w, pair(0), rest, refined_flow, bend_a, bend_b, t, names, shift, threshold);
        }, nb::arg("flows"), nb::arg("importances"), nb::arg("refined").none(), nb::arg("acceleration").none(), nb::arg("t"), nb::arg("names"),
             nb::arg("others"), nb::arg("shift"), nb::arg("threshold"))
        .def("warp_hypotheses", [](Workspace& w, const MotionHypotheses& found, const Planes& a, const Planes& b,
                                   In<float, 2> occlusion_ab, In<float, 2> occlusion_ba, std::array<float, 5> limits) {
            const i64 height = found.features.size(2), width = found.features.size(3);
            check_shape("occlusion_ab", occlusion_ab, {height, width});
            check_shape("occlusion_ba", occlusion_ba, {height, width});
            for (const Planes* each : {&a, &b})
                require(each->luma.size(0) == kBlock * height && each->luma.size(1) == kBlock * width &&
                            each->chroma.shape == a.chroma.shape, "frames must have four times the size of flows, and be alike");
            nb::gil_scoped_release released;
            return warp_hypotheses(w, found, a, b, image(occlusion_ab), image(occlusion_ba),
                                   {limits[0], limits[1], limits[2], limits[3], limits[4]});
        }, nb::arg("hypotheses"), nb::arg("a"), nb::arg("b"), nb::arg("occlusion_ab").noconvert(),
             nb::arg("occlusion_ba").noconvert(), nb::arg("limits"))
        .def("fuse", [](Workspace& w, const Warped& warped, const FusionNetwork& network, float t) {
            check_warped(warped, network);
            Array<float> out;
            {
                nb::gil_scoped_release released;
                out = fuse(w, warped, network.layers, network.coarse, t);
            }
            return numpy(out);
        }, nb::arg("warped"), nb::arg("network"), nb::arg("t"), "Fusion weights (2K, h, w).")
        .def("blend", [](Workspace& w, const Warped& warped, In<float, 3> weights) {
            const auto& shape = warped.hypotheses.features.shape;
            check_shape("weights", weights, {static_cast<i64>(2 * shape[0]), static_cast<i64>(shape[2]), static_cast<i64>(shape[3])});
            Blended out;
            {
                nb::gil_scoped_release released;
                out = blend(w, warped, images(weights));
            }
            out.luma.shape.erase(out.luma.shape.begin());
            return nb::make_tuple(numpy(out.luma), numpy(out.chroma));
        }, nb::arg("warped"), nb::arg("weights").noconvert(), "Luma (H, W) and chroma (2, h, w) or None.");
}
