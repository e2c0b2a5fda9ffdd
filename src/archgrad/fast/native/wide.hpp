// Wide projections of one image: dense convolutions of stride 1 or 2.
// Included once for each instruction set, inside a namespace of its own.

inline bool is_wide(const Job& j) { return j.projection && !j.weight && j.kernel; }

// Whether it is done by patches: with fewer channels, cutting them costs more than it saves.
inline bool is_by_patches(const Job& j) {
    const bool usual = j.kernel == 3 && j.padding == 1 && j.dilation == 1 && j.stride == 1;
    return is_wide(j) && usual && j.channels >= 8 && j.outputs >= 8;
}

// How many matrices a projection is: one for each tap, or each position of a patch.
inline int64_t matrices_of(const Job& j) {
    return !is_wide(j) ? 1 : is_by_patches(j) ? POSITIONS : j.kernel * j.kernel;
}

// The border that windows see; patches of odd images see one more.
inline int64_t border_of(const Job& j, int64_t seen) {
    return seen + (is_by_patches(j) && (j.height % 2 || j.width % 2));
}

inline Shape wide_input(const Job& j) { return {j.in_height, j.in_width, border_of(j, j.padding), j.channels}; }

// The border of the gradient by the result, from which the turned kernel makes that by the input.
inline int64_t gradient_border(const Job& j) { return j.dilation * (j.kernel - 1) - j.padding; }

// The pixels of the gradient lie a stride apart, between zeros.
inline Shape wide_gradient(const Job& j) {
    const int64_t less = j.dilation * (j.kernel - 1) - 2 * j.padding;
    return {j.in_height - less, j.in_width - less, border_of(j, gradient_border(j)), j.outputs};
}

template <class T>
int64_t wide_room(const Job& j) {
    return is_by_patches(j) ? Patches(j.height, j.width).room<T>(j.channels, j.outputs) : 0;
}

// (O, k, k, C) -> (k, k, C, O filled up); or, turned by 180 degrees, (k, k, O, C filled up); by patches (4, 4, ...).
template <class T>
void pack_wide(const Job& j, bool turned, T* to) {
    const int64_t rows = turned ? j.outputs : j.channels, columns = turned ? j.channels : j.outputs;
    const int64_t width = up_to(columns, Vector<T>::lanes), taps = j.kernel * j.kernel;
    const T* from = static_cast<const T*>(j.projection);
    T* packed = to + (matrices_of(j) - taps) * rows * width;
    for (int64_t t = 0; t < taps; ++t)
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t c = 0; c < width; ++c) {
                const int64_t output = turned ? r : c, tap = turned ? taps - 1 - t : t, channel = turned ? c : r;
                const int64_t at = (output * taps + tap) * j.channels + channel;
                packed[(t * rows + r) * width + c] = c < columns ? from[at] : T(0);
            }
    if (is_by_patches(j)) spread_kernel(packed, rows * width, to);
}

// The gradient by a projection, (O, C) or (O, k, k, C), from that by its matrices, each (O, C filled up).
template <class T>
void unpack_projection(const Job& j, const T* d_matrices) {
    T* to = static_cast<T*>(j.d_projection);
    if (is_by_patches(j)) return join_kernel(d_matrices, j.outputs, j.channels, to);
    const int64_t taps = matrices_of(j);
    for (int64_t t = 0; t < taps; ++t)
        for (int64_t o = 0; o < j.outputs; ++o, d_matrices += up_to(j.channels, Vector<T>::lanes))
            std::memcpy(to + (o * taps + t) * j.channels, d_matrices, j.channels * sizeof(T));
}

// Rows of an image that are made at once.
inline int64_t rows_at_once(const Job& j) { return is_by_patches(j) ? 2 * Patches(j.height, j.width).rows() : 1; }

// These rows, from y on, of what windows a stride apart see in a tile through packed matrices.
template <class T>
void see_rows(const Job& j, int64_t y, const T* tile, Shape s, int64_t border, const T* matrices, int64_t width,
              int64_t outputs, int64_t stride, T* room, T* image, Ahead& ahead) {
    if (is_by_patches(j))
        return see_patches(Patches(s.height, s.width), y / 2, tile, s, matrices, outputs, room, image, ahead);
    const auto through = stride == 1 ? see<T, 1> : see<T, 2>;
    through(tile + s.at<T>(y * stride - border, -border), s, j.kernel, j.dilation, width, matrices, outputs,
            Sink<T>::image(image, outputs), ahead);
}

template <class T>
void project_wide(const Job& j, const T* image, const T* matrices, T* tile, T* result, Ahead& ahead) {
    const Shape s = wide_input(j);
    T* room = tile + s.size<T>();
    fill(tile, s, image, j.relu_input);
    for (int64_t y = 0; y < j.height; y += rows_at_once(j))
        see_rows(j, y, tile, s, j.padding, matrices, j.width, j.outputs, j.stride, room,
                 result + y * j.width * j.outputs, ahead);
}

// The gradient by the matrices, each (O, C filled up), is added to d_matrices; both tiles are given.
template <class T>
void tally_wide(const Job& j, const T* input, const T* gradient, T* room, T* d_matrices) {
    const Shape s = wide_input(j), g = wide_gradient(j);
    if (is_by_patches(j)) return tally_patches(Patches(j.height, j.width), input, s, gradient, g, room, d_matrices);
    for (int64_t y = 0; y < j.kernel; ++y)
        for (int64_t x = 0; x < j.kernel; ++x, d_matrices += j.outputs * up_to(j.channels, Vector<T>::lanes))
            tally(input + s.at<T>(y * j.dilation - j.padding, x * j.dilation - j.padding), s,
                  gradient + g.at<T>(0, 0), g, g.height, g.width, d_matrices, j.stride);
}

// From the gradient by the result to those by the projection, as there, and by the image, which is added to d_image or
// written to it; it may be null. There is room for the tiles of input and gradient, and behind the former for patches.
template <class T>
void through_wide(const Job& j, const T* image, const T* d_result, const T* turned, bool add, T* input, T* gradient,
                  T* d_image, T* d_matrices, Ahead& ahead) {
    const Shape s = wide_input(j), g = wide_gradient(j);
    T* room = input + s.size<T>();
    if (j.stride == 1)
        fill(gradient, g, d_result, false);
    else
        fill_apart(gradient, g, d_result, j.height, j.width, j.stride);
    if (j.d_projection) {
        fill(input, s, image, j.relu_input);
        tally_wide(j, input, gradient, room, d_matrices);
    }
    if (!d_image) return;
    const int64_t row = j.in_width * j.channels, rows = rows_at_once(j);
    for (int64_t y = 0; y < j.in_height; y += rows) {
        const int64_t at = y * row, count = smaller(rows, j.in_height - y) * row;
        T* made = add ? input : d_image + at;
        see_rows(j, y, gradient, g, gradient_border(j), turned, j.in_width, j.channels, 1, room, made, ahead);
        if (j.relu_input) copy_where_positive(made, image + at, count, made);
        for (int64_t i = 0; add && i < count; ++i) d_image[at + i] += made[i];
    }
}
