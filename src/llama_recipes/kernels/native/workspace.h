// Memory that a thread works in: it grows to what the largest task needs and is used again.
#pragma once

#include <cstdlib>

class Workspace {
  public:
    // False where the machine has no such memory; what was taken before is invalid then and after.
    bool reserve(size_t bytes) {
        used = 0;
        if (bytes <= size) return true;
        free(memory);
        memory = (char*)aligned_alloc(64, (bytes + 63) / 64 * 64);
        size = memory ? bytes : 0;
        return memory != nullptr;
    }

    // The next `count` numbers, on a cache line of their own. They are not zeroed.
    template <class T>
    T* take(size_t count) {
        T* taken = (T*)(memory + used);
        used += bytes<T>(count);
        return taken;
    }

    template <class T>
    static size_t bytes(size_t count) {
        return (count * sizeof(T) + 63) / 64 * 64;
    }

    ~Workspace() { free(memory); }

  private:
    char* memory = nullptr;
    size_t size = 0, used = 0;
};
