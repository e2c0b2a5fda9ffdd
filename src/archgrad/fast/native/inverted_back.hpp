// Inverted residuals backward: from the gradient by the sum to those by what is read.
// Included once for each instruction set, inside a namespace of its own.

// The gradient behind an activation, whose value is given.
template <class T>
INLINE Vec<T> before_activation(Vec<T> grad, Vec<T> value, T limit) {
    const Vec<T> most = limit - Vec<T>{};
    grad = where_positive<T>(grad, value);
    return value >= most ? Vec<T>{} : grad;
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
        T values[2 * L];
        store(values, total);
        store(values + L, product);
        for (int64_t lane = 0; lane < L; ++lane) to[lane] += values[lane];
        for (int64_t lane = 0; lane < L; ++lane) to[hidden_ + lane] += values[L + lane];
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

// The first columns of the rows of a matrix.
template <class T>
void write_columns(const T* from, int64_t rows, int64_t width, int64_t columns, void* to) {
    for (int64_t r = 0; r < rows; ++r)
        std::memcpy(static_cast<T*>(to) + r * columns, from + r * width, columns * sizeof(T));
}

template <class T>
void narrow_back(const Inverted* jobs, int64_t) {
    const Inverted& j = jobs[0];
    constexpr int64_t L = Vector<T>::lanes;
    const Wide<T> w(j);
    const int64_t chunk = w.chunk(), group = w.narrow_group();
    const int64_t period = Periodic<T>::size(j.outputs), size = w.pixels * j.outputs;
    const T limit = T(j.limit);
    Array<T> matrix(j.outputs * w.hidden), coefficients(3 * period);
    const FilledUp<T> strength(j.strength, j.hidden, w.hidden), offset(j.offset, j.hidden, w.hidden);
    pack_matrix(static_cast<const T*>(j.projection), j.outputs, j.hidden, false, matrix.data());
    Periodic<T>::repeat(j.by_grad, j.outputs, &coefficients[0]);
    Periodic<T>::repeat(j.by_result, j.outputs, &coefficients[period]);
    Periodic<T>::repeat(j.constant, j.outputs, &coefficients[2 * period]);
    WideSums<T> wide_sums(j, w.hidden);
    const bool streams = j.batch * w.pixels * w.hidden * int64_t(sizeof(T)) >= STREAMED_FROM &&
                         is_aligned(static_cast<T*>(j.d_line));
    Sums<T> matrix_sums(j.d_projection ? j.outputs * w.hidden : 0);
#pragma omp parallel
    {
        T* seen = scratch<T>(chunk * (2 * w.hidden + w.outputs));
        T* d_seen = seen + chunk * w.hidden;
        T* d_result = d_seen + chunk * w.hidden;
        T* d_matrix = matrix_sums.own();
        Ahead ahead;
#pragma omp for schedule(static)
        for (int64_t first = 0; first < j.batch; first += group) {
            const int64_t rows = (smaller(first + group, j.batch) - first) * w.pixels;
            for (int64_t begin = 0; begin < rows; begin += chunk) {
                const int64_t end = smaller(begin + chunk, rows), at = first * size + begin * j.outputs;
                mix(static_cast<const T*>(j.grad) + at, Gate<T>{nullptr, nullptr}, static_cast<const T*>(j.result) + at,
                    &coefficients[0], &coefficients[period], &coefficients[2 * period], period,
                    (end - begin) * j.outputs, d_result);
                multiply(d_result, j.outputs, end - begin, j.outputs, matrix.data(), j.hidden,
                         Sink<T>{d_seen, L, chunk * L, w.hidden}, ahead);
                each_part(first, w.pixels, begin, end, [&](int64_t i, int64_t pixel, int64_t count, int64_t row) {
                    for (int64_t b = 0; b < w.planes; ++b) {
                        const int64_t place = (i * w.hidden + b * L) * w.pixels + pixel * L;
                        const T *from = static_cast<const T*>(j.convolved) + place, *d = d_seen + (b * chunk + row) * L;
                        T *to = static_cast<T*>(j.d_line) + place, *value_to = seen + row * w.hidden + b * L;
                        const Vec<T> a = load(&strength[b * L]), o = load(&offset[b * L]);
                        Vec<T> total = {}, product = {};
                        for (int64_t p = 0; p < count; ++p) {
                            const Vec<T> here = load(from + p * L), value = activate<T>(a * here + o, limit);
                            const Vec<T> g = before_activation<T>(load(d + p * L), value, limit);
                            total += g;
                            product += g * here;
                            if (streams)
                                stream(to + p * L, g);
                            else
                                store(to + p * L, g);
                            if (j.d_projection) store(value_to + p * w.hidden, value);
                        }
                        wide_sums.add(i, b, total, product);
                    }
                });
                if (j.d_projection) gram(d_result, j.outputs, j.outputs, seen, w.hidden, end - begin, d_matrix);
            }
        }
        finish_streams();
#pragma omp single
        {
            wide_sums.write(static_cast<T*>(j.totals), static_cast<T*>(j.products));
            if (j.d_projection)
                write_columns(matrix_sums.total(0, j.outputs * w.hidden), j.outputs, w.hidden, j.hidden, j.d_projection);
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
    Array<T> turned(w.hidden * w.taps), matrices(w.hidden * j.channels);
    const FilledUp<T> offsets(j.expansion_offset, j.hidden, w.hidden), by_lines(j.by_line, j.hidden, w.hidden),
        by_convolved(j.by_convolved, j.hidden, w.hidden), constants(j.convolved_constant, j.hidden, w.hidden);
    Array<T> matrix(j.expansion ? w.hidden * w.channels : 0);
    Array<int64_t> places(w.in_pixels);
    const int64_t group = w.widen_group();
    find_places<T>(w.input, places.data());
    gather.pack(turned.data());
    if (j.expansion) {
        pack_planes(static_cast<const T*>(j.expansion), j.hidden, j.channels, matrices.data());
        pack_matrix(static_cast<const T*>(j.expansion), j.hidden, j.channels, false, matrix.data());
    }
    WideSums<T> wide_sums(j, w.hidden);
    Sums<T> kernel_sums(j.d_weight ? w.hidden * w.taps : 0), matrix_sums(j.d_expansion ? w.hidden * w.channels : 0);
    const bool goes_on = j.expansion_totals || j.d_input;  // beyond the depthwise convolution
    const auto through_plane = [&](int64_t i, int64_t b, T* d_image, T* tile, T* d_tile, T* d_convolved, T* d_expanded,
                                   T* d_kernels, T* d_matrices, Ahead& ahead) {
        const T* image = in<T>(j.input, i, w.in_pixels * j.channels);
        const int64_t place = (i * w.hidden + b * L) * w.pixels;
        const T *line = static_cast<const T*>(j.d_line) + place, *x = static_cast<const T*>(j.convolved) + place;
        const Vec<T> by_line = load(&by_lines[b * L]), by_x = load(&by_convolved[b * L]);
        const Vec<T> constant = load(&constants[b * L]);
        for (int64_t y = 0; y < j.height; ++y) {
            T* to = d_convolved + g.at<T>(y, 0);
            for (int64_t p = 0; p < j.width; ++p, line += L, x += L)
                store(to + p * L, by_line * load(line) + (by_x * load(x) + constant));
        }
        if (j.expansion || j.d_weight) fill_plane(j, b, image, matrices.data(), offsets.data(), tile, places.data());
        if (j.d_weight)
            tally(tile, w.input.columns(), d_convolved + g.at<T>(0, 0), g.columns(), j.kernel, j.dilation,
                  d_kernels + b * w.taps * L, j.height, j.width, ahead);
        if (!goes_on) return;
        std::memset(d_tile, 0, w.input.template plane<T>() * sizeof(T));
        gather.plane(d_convolved, &turned[b * w.taps * L], d_tile, w.input, true, ahead);
        if (!j.expansion) {
            for (int64_t p = 0; p < w.in_pixels; ++p) store(d_image + p * w.channels + b * L, load(d_tile + places[p]));
            return;
        }
        Vec<T> total = {}, product = {};
        for (int64_t p = 0; p < w.in_pixels; ++p) {
            const Vec<T> value = load(tile + places[p]);
            const Vec<T> grad = before_activation<T>(load(d_tile + places[p]), value, limit);
            total += grad;
            product += grad * value;
            store(d_expanded + p * L, grad);
        }
        wide_sums.add(i, b, total, product);
        if (j.d_expansion) gram(d_expanded, L, L, image, j.channels, w.in_pixels, d_matrices + b * L * w.channels);
        if (j.d_input)
            add_plane(d_expanded, w.in_pixels, smaller(L, j.hidden - b * L), &matrix[b * L * w.channels], w.channels,
                      d_image);
    };
#pragma omp parallel
    {
        const int64_t tile_size = up_to(w.input.template plane<T>(), LINE), grad_size = up_to(g.plane<T>(), LINE);
        T* tile = scratch<T>(2 * tile_size + grad_size + w.in_pixels * (L + group * w.channels));
        T* d_tile = tile + tile_size;
        T* d_convolved = d_tile + tile_size;
        T* d_expanded = d_convolved + grad_size;
        T* d_images = d_expanded + w.in_pixels * L;
        T* d_kernels = kernel_sums.own();
        T* d_matrices = matrix_sums.own();
        Ahead ahead;
        clear_border(tile, w.input);
        clear_border(d_convolved, g);
#pragma omp for schedule(static)
        for (int64_t first = 0; first < j.batch; first += group) {
            const int64_t last = smaller(first + group, j.batch), image_size = w.in_pixels * w.channels;
            if (j.expansion && j.d_input) std::memset(d_images, 0, (last - first) * image_size * sizeof(T));
            for (int64_t b = 0; b < w.planes; ++b)
                for (int64_t i = first; i < last; ++i)
                    through_plane(i, b, d_images + (i - first) * image_size, tile, d_tile, d_convolved, d_expanded,
                                  d_kernels, d_matrices, ahead);
            for (int64_t i = first; j.d_input && i < last; ++i)
                write_pixels(j, d_images + (i - first) * image_size, w.channels,
                             out<T>(j.d_input, i, w.in_pixels * j.channels));
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
            if (j.d_expansion)
                write_columns(matrix_sums.total(0, j.hidden * w.channels), j.hidden, w.channels, j.channels,
                              j.d_expansion);
        }
    }
}
