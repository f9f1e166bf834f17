//! How the C library's heap is used: few arenas, large buffers given back at once.
//!
//! By default glibc gives most threads an arena of their own and raises the size from which a
//! buffer is mapped alone after the first one was freed; then the halves and copies of batches
//! that senders make in bad times stay in the arenas (44 MiB peak instead of 26 under 60 s of
//! 429). Below 512 KiB, where compressed batches lie, mapping each would cost a fifth more
//! processor time in a drain.

/// Buffers of this size and above are mapped alone, and unmapped when freed.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES_MIN: libc::c_int = 512 << 10;

/// Arenas for all threads; batches are built by two lanes at most in the default config.
#[cfg(target_env = "gnu")]
const ARENAS_MAX: libc::c_int = 2;

/// Sets both; before any thread is started.
#[cfg(target_env = "gnu")]
pub fn tune() {
    // SAFETY: mallopt only sets parameters of the allocator, and no other thread runs yet.
    let set = unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES_MIN) != 0
            && libc::mallopt(libc::M_ARENA_MAX, ARENAS_MAX) != 0
    };
    if !set {
        log::warn!("the heap keeps its defaults: memory may peak higher in an outage");
    }
}

/// Other C libraries keep their ways.
#[cfg(not(target_env = "gnu"))]
pub fn tune() {}
