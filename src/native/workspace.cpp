#include "workspace.hpp"

#include <algorithm>
#include <atomic>
#include <exception>
#include <new>

#ifdef _WIN32
#include <process.h>
static long process_id() { return _getpid(); }
#else
#include <unistd.h>
static long process_id() { return getpid(); }
#endif

namespace midframe {

struct Threads::Job {
    const std::function<void(i64)>* task;
    i64 count, helpers;  // helpers: workers that may still join
    std::atomic<i64> next{0};
    i64 working = 0;  // workers inside; guarded by the mutex
    std::exception_ptr error;
    std::mutex error_mutex;

    void work() {
        for (i64 n; (n = next.fetch_add(1)) < count;) {
            try {
                (*task)(n);
            } catch (...) {
                const std::lock_guard lock(error_mutex);
                if (!error) error = std::current_exception();
                next = count;
            }
        }
    }
};

Threads::~Threads() {
    if (process_ != process_id()) {  // forked: there is nobody to join
        for (std::thread& worker : workers_) worker.detach();
        return;
    }
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    changed_.notify_all();
    for (std::thread& worker : workers_) worker.join();
}

void Threads::work() {
    std::unique_lock lock(mutex_);
    while (true) {
        std::shared_ptr<Job> job;
        changed_.wait(lock, [&] {
            for (const auto& each : jobs_) {
                if (each->helpers > 0 && each->next < each->count) {
                    job = each;
                    return true;
                }
            }
            return stopping_;
        });
        if (!job) return;
        --job->helpers;
        ++job->working;
        lock.unlock();
        job->work();
        lock.lock();
        --job->working;
        changed_.notify_all();
    }
}

void Threads::run(i64 count, const std::function<void(i64)>& task) {
    const i64 helpers = std::min(count_, count) - 1;
    if (helpers < 1) {
        for (i64 n = 0; n < count; ++n) task(n);
        return;
    }
    const auto job = std::make_shared<Job>();
    job->task = &task;
    job->count = count;
    job->helpers = helpers;
    {
        const std::lock_guard lock(mutex_);
        if (process_ != process_id()) {
            for (std::thread& worker : workers_) worker.detach();
            workers_.clear();
            process_ = process_id();
        }
        while (static_cast<i64>(workers_.size()) < count_ - 1) workers_.emplace_back([this] { work(); });
        jobs_.push_back(job);
    }
    changed_.notify_all();
    job->work();
    std::unique_lock lock(mutex_);
    jobs_.erase(std::find(jobs_.begin(), jobs_.end(), job));  // whoever has not begun need not come any more
    changed_.wait(lock, [&] { return job->working == 0; });
    lock.unlock();
    if (job->error) std::rethrow_exception(job->error);
}

static constexpr std::size_t kMostFree = 48;  // buffers; more than one frame needs at a time

Buffers::~Buffers() {
    for (const auto& [bytes, memory] : free_) ::operator delete(memory, std::align_val_t(64));
}

std::shared_ptr<void> Buffers::take(std::size_t bytes) {
    bytes = (std::max<std::size_t>(bytes, 1) + 4095) / 4096 * 4096;
    void* memory = nullptr;
    {
        const std::lock_guard lock(mutex_);
        const auto found = free_.lower_bound(bytes);
        if (found != free_.end() && found->first <= bytes + bytes / 4) {
            bytes = found->first;
            memory = found->second;
            free_.erase(found);
        }
    }
    if (memory == nullptr) memory = ::operator new(bytes, std::align_val_t(64));
    return {memory, [pool = shared_from_this(), bytes](void* gone) { pool->give_back(gone, bytes); }};
}

void Buffers::give_back(void* memory, std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    while (free_.size() >= kMostFree) {
        const auto smallest = free_.begin();
        ::operator delete(smallest->second, std::align_val_t(64));
        free_.erase(smallest);
    }
    free_.emplace(bytes, memory);
}

}  // namespace midframe
