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

    // Pixels that are projected at once: their wide values stay in the first cache; or, where the matrix does not stay
    // there, in the second, so that it is read less often.
    int64_t chunk() const {
        const int64_t size = sizeof(T);
        if (hidden * outputs * size <= 32768) return larger(MANY, 16384 / size / hidden / MANY * MANY);
        return larger(MANY, smaller(64, 262144 / size / hidden) / MANY * MANY);
    }
    // Images that are projected together, since one has less than a chunk.
    int64_t narrow_group() const { return larger(1, chunk() / pixels); }
    // Images that are expanded together, plane by plane: several where the matrix stays in no cache that is near.
    int64_t widen_group() const {
        const int64_t size = sizeof(T);
        return hidden * channels * size <= 262144 ? 1 : larger(1, 131072 / size / (in_pixels * channels));
    }

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
class FilledUp : public Array<T> {
   public:
    FilledUp(const void* values, int64_t channels, int64_t size) : Array<T>(size) {
        for (int64_t c = 0; values && c < channels; ++c) (*this)[c] = static_cast<const T*>(values)[c];
    }
};

// Mean and biased variance of channel c over all images, from the moments of each, `size` values an image.
template <class T>
void join_images(const Inverted& j, int64_t pixels, const Array<double>& means, const Array<double>& deviations,
                 int64_t size, int64_t c, void* mean, void* variance) {
    join_moments(
        j.batch, pixels, [&](int64_t i) { return means[i * size + c]; },
        [&](int64_t i) { return deviations[i * size + c]; }, static_cast<T*>(mean) + c, static_cast<T*>(variance) + c);
}

template <class T>
INLINE Vec<T> activate(Vec<T> v, T limit) {
    const Vec<T> most = limit - Vec<T>{};
    v = where_positive<T>(v, v);
    return v >= most ? most : v;
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

// P pixels of a plane, each to its place.
template <class T, int P>
INLINE void expand_pixels(const T* x, int64_t channels, const T* matrix, Vec<T> offset, T limit, T* to,
                          const int64_t* places) {
    constexpr int64_t L = Vector<T>::lanes;
    Vec<T> sum[P];
    UNROLL for (int p = 0; p < P; ++p) sum[p] = offset;
    for (int64_t c = 0; c < channels; ++c) {
        const Vec<T> row = load(matrix + c * L);
        UNROLL for (int p = 0; p < P; ++p) sum[p] += x[p * channels + c] * row;
    }
    UNROLL for (int p = 0; p < P; ++p) store(to + places[p], activate<T>(sum[p], limit));
}

// Where the pixels of an image lie in a plane.
template <class T>
void find_places(Shape s, int64_t* to) {
    for (int64_t y = 0; y < s.height; ++y)
        for (int64_t x = 0; x < s.width; ++x) *to++ = s.at<T>(y, x);
}

// Plane b of what the depthwise convolution reads of an image, without its border.
template <class T>
void fill_plane(const Inverted& j, int64_t b, const T* image, const T* matrices, const T* offsets, T* tile,
                const int64_t* places) {
    constexpr int64_t L = Vector<T>::lanes;
    const int64_t channels = j.channels, count = j.in_height * j.in_width;
    int64_t p = 0;
    if (!j.expansion) {
        for (; p < count; ++p) store(tile + places[p], load(image + p * channels + b * L, channels - b * L));
        return;
    }
    const T limit = T(j.limit), *matrix = matrices + b * channels * L;
    const Vec<T> offset = load(offsets + b * L);
    for (; MANY > 8 && p + MANY <= count; p += MANY)
        expand_pixels<T, MANY>(image + p * channels, channels, matrix, offset, limit, tile, places + p);
    for (; p + 8 <= count; p += 8)
        expand_pixels<T, 8>(image + p * channels, channels, matrix, offset, limit, tile, places + p);
    for (; p < count; ++p)
        expand_pixels<T, 1>(image + p * channels, channels, matrix, offset, limit, tile, places + p);
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
    Array<T> kernel(w.hidden * w.taps), matrices(w.hidden * j.channels);
    FilledUp<T> offsets(j.expansion_offset, j.hidden, w.hidden);
    Array<int64_t> places(w.in_pixels);
    const int64_t group = w.widen_group();
    find_places<T>(w.input, places.data());
    pack_kernel(job, kernel.data());
    if (j.expansion) pack_planes(static_cast<const T*>(j.expansion), j.hidden, j.channels, matrices.data());
    Array<double> means(j.batch * w.hidden), deviations(j.batch * w.hidden);
#pragma omp parallel
    {
        const int64_t tile_size = up_to(w.input.template plane<T>(), LINE);
        T* tile = scratch<T>(tile_size + 12 * L);
        T* room = tile + tile_size;
        Ahead ahead;
        clear_border(tile, w.input);
#pragma omp for schedule(static)
        for (int64_t first = 0; first < j.batch; first += group)
            for (int64_t b = 0; b < w.planes; ++b)
                for (int64_t i = first; i < smaller(first + group, j.batch); ++i) {
                    const T* image = in<T>(j.input, i, w.in_pixels * j.channels);
                    T* to = out<T>(j.convolved, i, w.pixels * w.hidden) + b * w.pixels * L;
                    fill_plane(j, b, image, matrices.data(), offsets.data(), tile, places.data());
                    plane(tile, w.input.columns(), &kernel[b * w.taps * L], taps, taps, to, j.width * L, L, j.height,
                          j.width, L, false, ahead);
                    const int64_t at = i * w.hidden + b * L;
                    if (j.convolved_mean) plane_moments(to, w.pixels, room, &means[at], &deviations[at]);
                }
#pragma omp for schedule(static)
        for (int64_t c = 0; c < j.hidden; ++c)
            if (j.convolved_mean)
                join_images<T>(j, w.pixels, means, deviations, w.hidden, c, j.convolved_mean, j.convolved_variance);
    }
}

// Call f(image, first pixel, count, row) for the parts of images that some pixels are in, which are counted from image
// `first` on; `row` counts them from `begin` on.
template <class F>
INLINE void each_part(int64_t first, int64_t pixels, int64_t begin, int64_t end, F f) {
    for (int64_t at = begin, count; at < end; at += count) {
        const int64_t pixel = at % pixels;
        count = smaller(pixels - pixel, end - at);
        f(first + at / pixels, pixel, count, at - begin);
    }
}

template <class T>
void narrow(const Inverted* jobs, int64_t) {
    const Inverted& j = jobs[0];
    constexpr int64_t L = Vector<T>::lanes;
    const Wide<T> w(j);
    const int64_t chunk = w.chunk(), group = w.narrow_group();
    const int64_t period = Periodic<T>::size(j.outputs), size = w.pixels * j.outputs;
    const T limit = T(j.limit);
    Array<T> matrix(j.hidden * w.outputs);
    const FilledUp<T> strength(j.strength, j.hidden, w.hidden), offset(j.offset, j.hidden, w.hidden);
    pack_matrix(static_cast<const T*>(j.projection), j.hidden, j.outputs, true, matrix.data());
    Array<double> means(j.batch * j.outputs), deviations(j.batch * j.outputs);
#pragma omp parallel
    {
        T* seen = scratch<T>(chunk * w.hidden + 3 * period);
        T* room = seen + chunk * w.hidden;
        Ahead ahead;
#pragma omp for schedule(static)
        for (int64_t first = 0; first < j.batch; first += group) {
            const int64_t last = smaller(first + group, j.batch), rows = (last - first) * w.pixels;
            for (int64_t begin = 0; begin < rows; begin += chunk) {
                const int64_t end = smaller(begin + chunk, rows);
                each_part(first, w.pixels, begin, end, [&](int64_t i, int64_t pixel, int64_t count, int64_t row) {
                    for (int64_t b = 0; b < w.planes; ++b) {
                        const T* from = in<T>(j.convolved, i, w.pixels * w.hidden) + (b * w.pixels + pixel) * L;
                        T* to = seen + row * w.hidden + b * L;
                        const Vec<T> a = load(&strength[b * L]), o = load(&offset[b * L]);
                        for (int64_t p = 0; p < count; ++p)
                            store(to + p * w.hidden, activate<T>(a * load(from + p * L) + o, limit));
                    }
                });
                multiply(seen, w.hidden, end - begin, j.hidden, matrix.data(), j.outputs,
                         Sink<T>::image(out<T>(j.result, first, size) + begin * j.outputs, j.outputs), ahead);
            }
            for (int64_t i = first; j.result_mean && i < last; ++i)
                moments(in<T>(j.result, i, size), j.outputs, size, room, &means[i * j.outputs],
                        &deviations[i * j.outputs]);
        }
#pragma omp for schedule(static)
        for (int64_t c = 0; c < j.outputs; ++c)
            if (j.result_mean)
                join_images<T>(j, w.pixels, means, deviations, j.outputs, c, j.result_mean, j.result_variance);
    }
}
