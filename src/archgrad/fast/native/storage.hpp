// Memory of the passes: arrays, what threads keep, sums over images, and where the images of a job lie.
// Included once for each instruction set, inside a namespace of its own.

template <class T>
T* allocate(int64_t size) {
    void* memory = std::aligned_alloc(LINE, up_to(larger(size * int64_t(sizeof(T)), 1), LINE));
    if (!memory) std::abort();
    return static_cast<T*>(memory);
}

// Zeros that are freed at the end of their scope. The standard library's templates would be compiled once for all
// instruction sets, and that once might be for one that the machine does not have.
template <class T>
class Array {
   public:
    explicit Array(int64_t size) : size_(size), data_(allocate<T>(size)) { std::memset(data_, 0, size * sizeof(T)); }
    Array(const Array&) = delete;
    ~Array() { std::free(data_); }
    T& operator[](int64_t i) { return data_[i]; }
    const T& operator[](int64_t i) const { return data_[i]; }
    T* data() { return data_; }
    const T* data() const { return data_; }
    int64_t size() const { return size_; }

   private:
    int64_t size_;
    T* data_;
};

// Memory that a thread keeps from call to call.
template <class T>
T* scratch(int64_t size) {
    static thread_local T* kept = nullptr;
    static thread_local int64_t room = 0;
    if (room < size) {
        std::free(kept);
        kept = allocate<T>(size);
        room = size;
    }
    return kept;
}

// Sums over images: one copy a thread, each of `size`.
template <class T>
class Sums {
   public:
    explicit Sums(int64_t size) : size_(size), copies_(omp_get_max_threads() * size) {}
    T* own() { return copies_.data() + omp_get_thread_num() * size_; }
    // Some values of copy number 0, with those of the others added to them.
    const T* total(int64_t begin, int64_t end) {
        for (int64_t from = size_; from < copies_.size(); from += size_)
            for (int64_t i = begin; i < end; ++i) copies_[i] += copies_[from + i];
        return copies_.data() + begin;
    }

   private:
    int64_t size_;
    Array<T> copies_;
};

// Where each job's part of a shared array begins: at the beginning of a line.
class Parts {
   public:
    template <class Size>
    Parts(const Job* jobs, int64_t n, Size size) : begin_(n + 1) {
        for (int64_t k = 0; k < n; ++k) begin_[k + 1] = begin_[k] + up_to(size(jobs[k]), LINE);
    }
    int64_t operator[](int64_t k) const { return begin_[k]; }
    int64_t size() const { return begin_[begin_.size() - 1]; }
    int64_t largest() const {
        int64_t most = 0;
        for (int64_t k = 1; k < begin_.size(); ++k) most = larger(most, begin_[k] - begin_[k - 1]);
        return most;
    }

   private:
    Array<int64_t> begin_;
};

// Sums over the pixels of one image: a value for each image, and each output of each job.
class PerImage {
   public:
    PerImage(const Job* jobs, int64_t n)
        : outputs_(jobs, n, [](const Job& j) { return j.outputs; }), values_(jobs[0].batch * outputs_.size()) {}
    double* operator()(int64_t image, int64_t job) { return &values_[image * outputs_.size() + outputs_[job]]; }

   private:
    Parts outputs_;
    Array<double> values_;
};

template <class T>
const T* in(const void* images, int64_t image, int64_t size) {
    return images ? static_cast<const T*>(images) + image * size : nullptr;
}

template <class T>
T* out(void* images, int64_t image, int64_t size) {
    return images ? static_cast<T*>(images) + image * size : nullptr;
}

// Sizes of one job, in values.
template <class T>
struct Size {
    static int64_t up(int64_t channels) { return up_to(channels, Vector<T>::lanes); }
    static int64_t pixels(const Job& j) { return j.height * j.width; }
    static int64_t input(const Job& j) { return j.in_height * j.in_width * j.channels; }
    // Room for what a projection reads.
    static int64_t between(const Job& j) {
        return is_wide(j) ? wide_input(j).size<T>() + wide_room<T>(j) : pixels(j) * j.channels;
    }
    static int64_t result(const Job& j) { return pixels(j) * j.outputs; }
    static int64_t kernel(const Job& j) { return j.weight ? up(j.channels) * j.kernel * j.kernel : 0; }
    static int64_t projection(const Job& j) { return j.projection ? matrices_of(j) * j.outputs * up(j.channels) : 0; }
    static int64_t transposed(const Job& j) {
        return j.projection ? (j.factorized ? 2 : matrices_of(j)) * j.channels * up(part(j)) : 0;
    }
    // Outputs that are computed from one input: all, or those of one grid.
    static int64_t part(const Job& j) { return j.factorized ? j.outputs / 2 : j.outputs; }
    static int64_t period(const Job& j) { return Periodic<T>::size(j.outputs); }
};
