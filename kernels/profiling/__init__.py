"""Parts of the profiler: what to measure (plan, peers), where (gpu), the loop (runner), the file (rows)."""
