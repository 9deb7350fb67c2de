//! Reuse of freed memory on the CPU.

/// Has glibc keep freed memory for the next tensors instead of returning it to the system.
///
/// A training step frees what it allocated. By default glibc returns blocks of more than 32 MiB,
/// such as a gradient of the head, and the next step waits while the system maps and clears them
/// again. Peak memory grows by a few percent, and memory is not returned before the process ends.
///
/// It holds for the whole process, which is why no other function of this crate calls it: a program
/// that trains does, first of all. It does nothing on other systems and with other allocators.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[allow(unsafe_code)] // a foreign function; it takes numbers and changes no memory in use
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, -1);
    }
}
