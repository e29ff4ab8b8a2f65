// What one engine owns: worker threads, and memory that is used again.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels.hpp"

namespace midframe {

// Threads that help whoever calls `run`; several callers may at the same time.
class Threads {
public:
    explicit Threads(i64 count) : count_(count) {}
    ~Threads();
    Threads(const Threads&) = delete;
    Threads& operator=(const Threads&) = delete;

    i64 count() const { return count_; }
    void set_count(i64 count) { count_ = count; }

    // Call task(0) to task(count - 1), each once, in any order; the calling thread takes part. Rethrows what they throw.
    void run(i64 count, const std::function<void(i64)>& task);

private:
    struct Job;
    void work();

    i64 count_;  // with the caller
    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<std::shared_ptr<Job>> jobs_;
    std::vector<std::thread> workers_;
    long process_ = 0;  // that started them: after a fork they are gone
    bool stopping_ = false;
};

// Buffers that go back here when the last array on them dies; fresh memory costs more than what is computed in it.
class Buffers : public std::enable_shared_from_this<Buffers> {
public:
    ~Buffers();
    std::shared_ptr<void> take(std::size_t bytes);

private:
    void give_back(void* memory, std::size_t bytes);

    std::mutex mutex_;
    std::multimap<std::size_t, void*> free_;
};

// An array that keeps its memory alive.
template <class T>
struct Array {
    std::shared_ptr<void> owner;
    T* data = nullptr;
    std::vector<std::size_t> shape;

    i64 size(std::size_t axis) const { return static_cast<i64>(shape[axis]); }
    Grid<T> grid() const { return {data, size(0), size(1)}; }
    Cube<T> cube() const { return {data, size(0), size(1), size(2)}; }
    Grid<const T> read_grid() const { return {data, size(0), size(1)}; }
    Cube<const T> read_cube() const { return {data, size(0), size(1), size(2)}; }
    explicit operator bool() const { return data != nullptr; }
};

class Workspace {
public:
    explicit Workspace(i64 threads) : threads(threads), buffers_(std::make_shared<Buffers>()) {}

    template <class T>
    Array<T> array(std::vector<std::size_t> shape) {
        std::size_t count = 1;
        for (const std::size_t length : shape) count *= length;
        Array<T> out;
        out.owner = buffers_->take(count * sizeof(T));
        out.data = static_cast<T*>(out.owner.get());
        out.shape = std::move(shape);
        return out;
    }

    // Calls of task(first, last) for rows 0 to `length`, `band` at a time.
    void in_bands(i64 length, i64 band, const std::function<void(i64, i64)>& task) {
        threads.run((length + band - 1) / band, [&](i64 n) {
            const i64 last = (n + 1) * band;
            task(n * band, last < length ? last : length);
        });
    }

    Threads threads;

private:
    std::shared_ptr<Buffers> buffers_;
};

}  // namespace midframe
