// Inverted residuals, in passes over a batch: what lies between their convolutions is as wide as nothing else, so that it
// is not kept but made once more, plane by plane, where it is read.
//
// Two wide images pass through main memory: what the depthwise convolution gives, and the gradient by what is made of it.
// Threads take images. Sums over pixels are kept for each image and added up in the order of the images; sums of whole
// matrices and kernels are kept by each thread and added up in the order of the threads.
// Included once for each instruction set, inside a namespace of its own.

// Sizes of one, in values.
template <class T>
struct Wide {
    static constexpr int64_t L = Vector<T>::lanes;

    explicit Wide(const Inverted& j)
        : planes(up_to(j.hidden, L) / L),
          hidden(planes * L),
          channels(up_to(j.channels, L)),
          outputs(up_to(j.outputs, L)),
          pixels(j.height * j.width),
          in_pixels(j.in_height * j.in_width),
          taps(j.kernel * j.kernel),
          input{j.in_height, j.in_width, j.padding, L} {}

    // Pixels whose wide values stay in the first cache.
    int64_t chunk() const { return larger(MANY, int64_t(16384 / sizeof(T)) / hidden / MANY * MANY); }

    int64_t planes, hidden, channels, outputs, pixels, in_pixels, taps;
    Shape input;  // of one plane of what the depthwise convolution reads
};

inline Job depthwise_of(const Inverted& j) {
    Job job = {};
    job.weight = j.weight;
    job.batch = j.batch;
    job.channels = job.outputs = j.hidden;
    job.in_height = j.in_height, job.in_width = j.in_width, job.height = j.height, job.width = j.width;
    job.kernel = j.kernel, job.stride = j.stride, job.padding = j.padding, job.dilation = j.dilation;
    return job;
}

// Values of channels, filled up with zeros to whole vectors; null gives zeros.
template <class T>
void fill_up(const void* values, int64_t channels, T* to) {
    for (int64_t c = 0; values && c < channels; ++c) to[c] = static_cast<const T*>(values)[c];
}

template <class T>
INLINE Vec<T> activate(Vec<T> v, T limit) {
    const Vec<T> most = limit - Vec<T>{};
    v = where_positive<T>(v, v);
    return v >= most ? most : v;
}

// The gradient behind an activation, whose value is given.
template <class T>
INLINE Vec<T> before_activation(Vec<T> grad, Vec<T> value, T limit) {
    const Vec<T> most = limit - Vec<T>{};
    grad = where_positive<T>(grad, value);
    return value >= most ? Vec<T>{} : grad;
}

// (M, C) -> (planes, C, lanes).
template <class T>
void pack_planes(const T* matrix, int64_t hidden, int64_t channels, T* to) {
    constexpr int64_t L = Vector<T>::lanes;
    for (int64_t first = 0; first < hidden; first += L)
        for (int64_t c = 0; c < channels; ++c, to += L)
            for (int64_t lane = 0; lane < L; ++lane)
                to[lane] = first + lane < hidden ? matrix[(first + lane) * channels + c] : T(0);
}

template <class T, int P>
INLINE void expand_pixels(const T* x, int64_t channels, const T* matrix, Vec<T> offset, T limit, T* to) {
    constexpr int64_t L = Vector<T>::lanes;
    Vec<T> sum[P];
    UNROLL for (int p = 0; p < P; ++p) sum[p] = offset;
    for (int64_t c = 0; c < channels; ++c) {
        const Vec<T> row = load(matrix + c * L);
        UNROLL for (int p = 0; p < P; ++p) sum[p] += x[p * channels + c] * row;
    }
    UNROLL for (int p = 0; p < P; ++p) store(to + p * L, activate<T>(sum[p], limit));
}

// Plane b of what the depthwise convolution reads of an image, without its border.
template <class T>
void fill_plane(const Inverted& j, int64_t b, const T* image, const T* matrices, const T* offsets, T* tile, Shape s) {
    constexpr int64_t L = Vector<T>::lanes;
    const int64_t channels = j.channels, width = j.in_width;
    const T limit = T(j.limit), *matrix = matrices + b * channels * L;
    for (int64_t y = 0; y < j.in_height; ++y, image += width * channels) {
        T* to = tile + s.at<T>(y, 0);
        int64_t x = 0;
        if (!j.expansion) {
            for (; x < width; ++x) store(to + x * L, load(image + x * channels + b * L, channels - b * L));
            continue;
        }
        const Vec<T> offset = load(offsets + b * L);
        for (; MANY > 8 && x + MANY <= width; x += MANY)
            expand_pixels<T, MANY>(image + x * channels, channels, matrix, offset, limit, to + x * L);
        for (; x + 8 <= width; x += 8)
            expand_pixels<T, 8>(image + x * channels, channels, matrix, offset, limit, to + x * L);
        for (; x + 4 <= width; x += 4)
            expand_pixels<T, 4>(image + x * channels, channels, matrix, offset, limit, to + x * L);
        for (; x < width; ++x)
            expand_pixels<T, 1>(image + x * channels, channels, matrix, offset, limit, to + x * L);
    }
}

// Mean and sum of squared deviations of the channels of one plane; `room` holds twelve vectors.
template <class T>
void plane_moments(const T* plane, int64_t pixels, T* room, double* mean, double* deviations) {
    constexpr int64_t L = Vector<T>::lanes, U = 4;
    if (pixels % U) return moments(plane, L, pixels * L, room, mean, deviations);
    double means[U * L], within[U * L];  // of every fourth pixel, as channels of their own
    moments(plane, U * L, pixels * L, room, means, within);
    for (int64_t c = 0; c < L; ++c) {
        mean[c] = deviations[c] = 0;
        for (int64_t u = 0; u < U; ++u) mean[c] += means[u * L + c] / U;
        for (int64_t u = 0; u < U; ++u) {
            const double d = means[u * L + c] - mean[c];
            deviations[c] += within[u * L + c] + d * d * (pixels / U);
        }
    }
}

template <class T>
void covary(const Inverted* jobs, int64_t) {
    const Inverted& j = jobs[0];
    constexpr int64_t CHUNK = 64;
    const int64_t batch = j.batch, channels = j.channels, pixels = j.in_height * j.in_width;
    const int64_t width = up_to(channels, Vector<double>::lanes);
    Array<double> image_sums(batch * channels);
    Sums<double> sums(channels * width);
#pragma omp parallel
    {
        double* room = scratch<double>(CHUNK * width);
        double* own = sums.own();
#pragma omp for schedule(static)
        for (int64_t i = 0; i < batch; ++i) {
            const T* image = in<T>(j.input, i, pixels * channels);
            for (int64_t p = 0; p < pixels; ++p)
                for (int64_t c = 0; c < channels; ++c) image_sums[i * channels + c] += image[p * channels + c];
        }
#pragma omp for schedule(static)
        for (int64_t c = 0; c < channels; ++c) {
            double total = 0;
            for (int64_t i = 0; i < batch; ++i) total += image_sums[i * channels + c];
            j.mean[c] = total / double(batch * pixels);
        }
        std::memset(room, 0, CHUNK * width * sizeof(double));
#pragma omp for schedule(static)
        for (int64_t i = 0; i < batch; ++i)
            for (int64_t begin = 0; begin < pixels; begin += CHUNK) {
                const int64_t count = smaller(CHUNK, pixels - begin);
                const T* image = in<T>(j.input, i, pixels * channels) + begin * channels;
                for (int64_t p = 0; p < count; ++p)
                    for (int64_t c = 0; c < channels; ++c)
                        room[p * width + c] = double(image[p * channels + c]) - j.mean[c];
                gram(room, width, channels, room, width, count, own);
            }
#pragma omp for schedule(static)
        for (int64_t r = 0; r < channels; ++r) {
            const double* row = sums.total(r * width, r * width + channels);
            for (int64_t c = 0; c < channels; ++c) j.covariance[r * channels + c] = row[c] / double(batch * pixels);
        }
    }
}

template <class T>
void widen(const Inverted* jobs, int64_t) {
    const Inverted& j = jobs[0];
    constexpr int64_t L = Vector<T>::lanes;
    const Wide<T> w(j);
    const Job job = depthwise_of(j);
    const Taps taps = every_tap(job);
    const auto plane = j.stride == 1 ? convolve_plane<T, 1> : convolve_plane<T, 2>;
    Array<T> kernel(w.hidden * w.taps), matrices(w.hidden * j.channels), offsets(w.hidden);
    pack_kernel(job, kernel.data());
    if (j.expansion) pack_planes(static_cast<const T*>(j.expansion), j.hidden, j.channels, matrices.data());
    fill_up(j.expansion_offset, j.hidden, offsets.data());
    Array<double> means(j.batch * w.hidden), deviations(j.batch * w.hidden);
#pragma omp parallel
    {
        const int64_t tile_size = up_to(w.input.template plane<T>(), LINE);
        T* tile = scratch<T>(tile_size + 12 * L);
        T* room = tile + tile_size;
        Ahead ahead;
        clear_border(tile, w.input);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < j.batch; ++i) {
            const T* image = in<T>(j.input, i, w.in_pixels * j.channels);
            T* to = out<T>(j.convolved, i, w.pixels * w.hidden);
            for (int64_t b = 0; b < w.planes; ++b, to += w.pixels * L) {
                fill_plane(j, b, image, matrices.data(), offsets.data(), tile, w.input);
                plane(tile, w.input.columns(), &kernel[b * w.taps * L], taps, taps, to, j.width * L, L, j.height,
                      j.width, L, false, ahead);
                const int64_t at = i * w.hidden + b * L;
                if (j.convolved_mean) plane_moments(to, w.pixels, room, &means[at], &deviations[at]);
            }
        }
#pragma omp for schedule(static)
        for (int64_t c = 0; c < j.hidden; ++c)
            if (j.convolved_mean)
                join_moments(
                    j.batch, w.pixels, [&](int64_t i) { return means[i * w.hidden + c]; },
                    [&](int64_t i) { return deviations[i * w.hidden + c]; }, static_cast<T*>(j.convolved_mean) + c,
                    static_cast<T*>(j.convolved_variance) + c);
    }
}

template <class T>
void narrow(const Inverted* jobs, int64_t) {
    const Inverted& j = jobs[0];
    constexpr int64_t L = Vector<T>::lanes;
    const Wide<T> w(j);
    const int64_t chunk = w.chunk(), period = Periodic<T>::size(j.outputs), size = w.pixels * j.outputs;
    const T limit = T(j.limit);
    Array<T> matrix(j.hidden * w.outputs), strength(w.hidden), offset(w.hidden);
    pack_matrix(static_cast<const T*>(j.projection), j.hidden, j.outputs, true, matrix.data());
    fill_up(j.strength, j.hidden, strength.data());
    fill_up(j.offset, j.hidden, offset.data());
    Array<double> means(j.batch * j.outputs), deviations(j.batch * j.outputs);
#pragma omp parallel
    {
        T* seen = scratch<T>(chunk * w.hidden + 3 * period);
        T* room = seen + chunk * w.hidden;
        Ahead ahead;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < j.batch; ++i) {
            const T* convolved = in<T>(j.convolved, i, w.pixels * w.hidden);
            T* result = out<T>(j.result, i, size);
            for (int64_t begin = 0; begin < w.pixels; begin += chunk) {
                const int64_t count = smaller(chunk, w.pixels - begin);
                for (int64_t b = 0; b < w.planes; ++b) {
                    const T* from = convolved + (b * w.pixels + begin) * L;
                    const Vec<T> a = load(&strength[b * L]), o = load(&offset[b * L]);
                    for (int64_t p = 0; p < count; ++p)
                        store(seen + p * w.hidden + b * L, activate<T>(a * load(from + p * L) + o, limit));
                }
                multiply(seen, w.hidden, count, j.hidden, matrix.data(), j.outputs,
                         Sink<T>::image(result + begin * j.outputs, j.outputs), ahead);
            }
            if (j.result_mean)
                moments(result, j.outputs, size, room, &means[i * j.outputs], &deviations[i * j.outputs]);
        }
#pragma omp for schedule(static)
        for (int64_t c = 0; c < j.outputs; ++c)
            if (j.result_mean)
                join_moments(
                    j.batch, w.pixels, [&](int64_t i) { return means[i * j.outputs + c]; },
                    [&](int64_t i) { return deviations[i * j.outputs + c]; }, static_cast<T*>(j.result_mean) + c,
                    static_cast<T*>(j.result_variance) + c);
    }
}

// Two sums over the pixels of an image for each wide channel.
template <class T>
class WideSums {
   public:
    WideSums(const Inverted& j, int64_t hidden)
        : batch_(j.batch), channels_(j.hidden), hidden_(hidden), sums_(2 * j.batch * hidden) {}
    // Add the sums of some pixels of plane b.
    INLINE void add(int64_t i, int64_t b, Vec<T> total, Vec<T> product) {
        constexpr int64_t L = Vector<T>::lanes;
        double* to = &sums_[2 * i * hidden_ + b * L];
        for (int64_t lane = 0; lane < L; ++lane) to[lane] += total[lane], to[hidden_ + lane] += product[lane];
    }
    void write(T* totals, T* products) {
        for (int64_t c = 0; c < channels_; ++c) {
            double total = 0, product = 0;
            for (int64_t i = 0; i < batch_; ++i) {
                total += sums_[2 * i * hidden_ + c];
                product += sums_[(2 * i + 1) * hidden_ + c];
            }
            totals[c] = T(total), products[c] = T(product);
        }
    }

   private:
    int64_t batch_, channels_, hidden_;
    Array<double> sums_;
};

template <class T>
void narrow_back(const Inverted* jobs, int64_t) {
    const Inverted& j = jobs[0];
    constexpr int64_t L = Vector<T>::lanes;
    const Wide<T> w(j);
    const int64_t chunk = w.chunk(), period = Periodic<T>::size(j.outputs), size = w.pixels * j.outputs;
    const T limit = T(j.limit);
    Array<T> matrix(j.outputs * w.hidden), strength(w.hidden), offset(w.hidden), coefficients(3 * period);
    pack_matrix(static_cast<const T*>(j.projection), j.outputs, j.hidden, false, matrix.data());
    fill_up(j.strength, j.hidden, strength.data());
    fill_up(j.offset, j.hidden, offset.data());
    Periodic<T>::repeat(j.by_grad, j.outputs, &coefficients[0]);
    Periodic<T>::repeat(j.by_result, j.outputs, &coefficients[period]);
    Periodic<T>::repeat(j.constant, j.outputs, &coefficients[2 * period]);
    WideSums<T> wide_sums(j, w.hidden);
    Sums<T> matrix_sums(j.d_projection ? j.outputs * w.hidden : 0);
#pragma omp parallel
    {
        T* seen = scratch<T>(chunk * (2 * w.hidden + w.outputs));
        T* d_seen = seen + chunk * w.hidden;
        T* d_result = d_seen + chunk * w.hidden;
        T* d_matrix = matrix_sums.own();
        Ahead ahead;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < j.batch; ++i)
            for (int64_t begin = 0; begin < w.pixels; begin += chunk) {
                const int64_t count = smaller(chunk, w.pixels - begin), at = i * size + begin * j.outputs;
                mix(static_cast<const T*>(j.grad) + at, Gate<T>{nullptr, nullptr}, static_cast<const T*>(j.result) + at,
                    &coefficients[0], &coefficients[period], &coefficients[2 * period], period, count * j.outputs,
                    d_result);
                multiply(d_result, j.outputs, count, j.outputs, matrix.data(), j.hidden,
                         Sink<T>{d_seen, L, chunk * L, w.hidden}, ahead);
                for (int64_t b = 0; b < w.planes; ++b) {
                    const int64_t place = (i * w.hidden + b * L) * w.pixels + begin * L;
                    const T* from = static_cast<const T*>(j.convolved) + place;
                    T* to = static_cast<T*>(j.d_line) + place;
                    const Vec<T> a = load(&strength[b * L]), o = load(&offset[b * L]);
                    Vec<T> total = {}, product = {};
                    for (int64_t p = 0; p < count; ++p) {
                        const Vec<T> here = load(from + p * L), value = activate<T>(a * here + o, limit);
                        const Vec<T> g = before_activation<T>(load(d_seen + (b * chunk + p) * L), value, limit);
                        total += g;
                        product += g * here;
                        store(to + p * L, g);
                        if (j.d_projection) store(seen + p * w.hidden + b * L, value);
                    }
                    wide_sums.add(i, b, total, product);
                }
                if (j.d_projection) gram(d_result, j.outputs, j.outputs, seen, w.hidden, count, d_matrix);
            }
#pragma omp single
        {
            wide_sums.write(static_cast<T*>(j.totals), static_cast<T*>(j.products));
            if (j.d_projection) {
                const T* total = matrix_sums.total(0, j.outputs * w.hidden);
                for (int64_t o = 0; o < j.outputs; ++o)
                    std::memcpy(static_cast<T*>(j.d_projection) + o * j.hidden, total + o * w.hidden,
                                j.hidden * sizeof(T));
            }
        }
    }
}

template <class T, int P>
INLINE void add_block(const T* pixels, int64_t depth, const T* matrix, int64_t width, T* to) {
    constexpr int64_t L = Vector<T>::lanes;
    Vec<T> sum[P];
    UNROLL for (int p = 0; p < P; ++p) sum[p] = load(to + p * width);
    for (int64_t c = 0; c < depth; ++c) {
        const Vec<T> row = load(matrix + c * width);
        UNROLL for (int p = 0; p < P; ++p) sum[p] += pixels[p * L + c] * row;
    }
    UNROLL for (int p = 0; p < P; ++p) store(to + p * width, sum[p]);
}

// to (n, width) += one plane of pixels (n, lanes), of which `depth` count, times a matrix (depth, width).
template <class T>
void add_plane(const T* pixels, int64_t count, int64_t depth, const T* matrix, int64_t width, T* to) {
    constexpr int64_t L = Vector<T>::lanes;
    for (int64_t v = 0; v < width; v += L) {
        int64_t p = 0;
        for (; p + MANY <= count; p += MANY)
            add_block<T, MANY>(pixels + p * L, depth, matrix + v, width, to + p * width + v);
        for (; p < count; ++p) add_block<T, 1>(pixels + p * L, depth, matrix + v, width, to + p * width + v);
    }
}

// The gradient by an image, whose pixels are filled up to `width` channels, to where it belongs.
template <class T>
void write_pixels(const Inverted& j, const T* from, int64_t width, T* to) {
    for (int64_t p = 0; p < j.in_height * j.in_width; ++p, from += width, to += j.channels)
        for (int64_t c = 0; c < j.channels; c += Vector<T>::lanes) {
            const Vec<T> v = load(from + c);
            store(to + c, j.adds ? v + load(to + c, j.channels - c) : v, j.channels - c);
        }
}

template <class T>
void widen_back(const Inverted* jobs, int64_t) {
    const Inverted& j = jobs[0];
    constexpr int64_t L = Vector<T>::lanes;
    const Wide<T> w(j);
    const Job job = depthwise_of(j);
    const Gather gather(job);
    Shape g = gather.tile();
    g.channels = L;
    const auto tally = j.stride == 1 ? tally_plane<T, 1> : tally_plane<T, 2>;
    const T limit = T(j.limit);
    Array<T> turned(w.hidden * w.taps), matrices(w.hidden * j.channels), offsets(w.hidden), coefficients(3 * w.hidden);
    Array<T> matrix(j.expansion ? w.hidden * w.channels : 0);
    gather.pack(turned.data());
    if (j.expansion) {
        pack_planes(static_cast<const T*>(j.expansion), j.hidden, j.channels, matrices.data());
        pack_matrix(static_cast<const T*>(j.expansion), j.hidden, j.channels, false, matrix.data());
    }
    fill_up(j.expansion_offset, j.hidden, offsets.data());
    fill_up(j.by_line, j.hidden, &coefficients[0]);
    fill_up(j.by_convolved, j.hidden, &coefficients[w.hidden]);
    fill_up(j.convolved_constant, j.hidden, &coefficients[2 * w.hidden]);
    WideSums<T> wide_sums(j, w.hidden);
    Sums<T> kernel_sums(j.d_weight ? w.hidden * w.taps : 0), matrix_sums(j.d_expansion ? w.hidden * w.channels : 0);
    const bool goes_on = j.expansion_totals || j.d_input;  // beyond the depthwise convolution
#pragma omp parallel
    {
        const int64_t tile_size = up_to(w.input.template plane<T>(), LINE), grad_size = up_to(g.plane<T>(), LINE);
        T* tile = scratch<T>(2 * tile_size + grad_size + w.in_pixels * (L + w.channels));
        T* d_tile = tile + tile_size;
        T* d_convolved = d_tile + tile_size;
        T* d_expanded = d_convolved + grad_size;
        T* d_image = d_expanded + w.in_pixels * L;
        T* d_kernels = kernel_sums.own();
        T* d_matrices = matrix_sums.own();
        Ahead ahead;
        clear_border(tile, w.input);
        clear_border(d_convolved, g);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < j.batch; ++i) {
            const T* image = in<T>(j.input, i, w.in_pixels * j.channels);
            if (j.expansion && j.d_input) std::memset(d_image, 0, w.in_pixels * w.channels * sizeof(T));
            for (int64_t b = 0; b < w.planes; ++b) {
                const int64_t place = (i * w.hidden + b * L) * w.pixels;
                const T *line = static_cast<const T*>(j.d_line) + place, *x = static_cast<const T*>(j.convolved) + place;
                const Vec<T> by_line = load(&coefficients[b * L]), by_x = load(&coefficients[w.hidden + b * L]);
                const Vec<T> constant = load(&coefficients[2 * w.hidden + b * L]);
                for (int64_t y = 0; y < j.height; ++y) {
                    T* to = d_convolved + g.at<T>(y, 0);
                    for (int64_t p = 0; p < j.width; ++p, line += L, x += L)
                        store(to + p * L, by_line * load(line) + (by_x * load(x) + constant));
                }
                if (j.expansion || j.d_weight)
                    fill_plane(j, b, image, matrices.data(), offsets.data(), tile, w.input);
                if (j.d_weight)
                    tally(tile, w.input.columns(), d_convolved + g.at<T>(0, 0), g.columns(), j.kernel, j.dilation,
                          d_kernels + b * w.taps * L, j.height, j.width, ahead);
                if (!goes_on) continue;
                std::memset(d_tile, 0, tile_size * sizeof(T));
                gather.plane(d_convolved, &turned[b * w.taps * L], d_tile, w.input, ahead);
                Vec<T> total = {}, product = {};
                for (int64_t y = 0, pixel = 0; y < j.in_height; ++y) {
                    const int64_t at = w.input.template at<T>(y, 0);
                    for (int64_t p = 0; p < j.in_width; ++p, ++pixel) {
                        const Vec<T> d = load(d_tile + at + p * L);
                        if (!j.expansion) {
                            store(d_image + pixel * w.channels + b * L, d);
                            continue;
                        }
                        const Vec<T> value = load(tile + at + p * L), grad = before_activation<T>(d, value, limit);
                        total += grad;
                        product += grad * value;
                        store(d_expanded + pixel * L, grad);
                    }
                }
                if (!j.expansion) continue;
                wide_sums.add(i, b, total, product);
                if (j.d_expansion)
                    gram(d_expanded, L, L, image, j.channels, w.in_pixels, d_matrices + b * L * w.channels);
                if (j.d_input)
                    add_plane(d_expanded, w.in_pixels, smaller(L, j.hidden - b * L), &matrix[b * L * w.channels],
                              w.channels, d_image);
            }
            if (j.d_input) write_pixels(j, d_image, w.channels, out<T>(j.d_input, i, w.in_pixels * j.channels));
        }
#pragma omp single
        {
            if (j.expansion_totals)
                wide_sums.write(static_cast<T*>(j.expansion_totals), static_cast<T*>(j.expansion_products));
            if (j.d_weight) {
                const T* total = kernel_sums.total(0, w.hidden * w.taps);
                for (int64_t c = 0; c < j.hidden; ++c)
                    for (int64_t t = 0; t < w.taps; ++t)
                        static_cast<T*>(j.d_weight)[c * w.taps + t] = total[(c / L * w.taps + t) * L + c % L];
            }
            if (j.d_expansion) {
                const T* total = matrix_sums.total(0, j.hidden * w.channels);
                for (int64_t r = 0; r < j.hidden; ++r)
                    std::memcpy(static_cast<T*>(j.d_expansion) + r * j.channels, total + r * w.channels,
                                j.channels * sizeof(T));
            }
        }
    }
}
