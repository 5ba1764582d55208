"""How many processes and threads read clips here; torch is not needed to know."""

import os

# Starting a worker costs about as much processor time as decoding so many short clips.
CLIPS_PER_WORKER = 24
# Threads of one process; more would wait for the interpreter's lock.
MAX_THREADS = 4


def usual_cores() -> int:
    """Cores for this process: those of the machine, shared with the launcher's other processes on it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    names = ("LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE", "OMPI_COMM_WORLD_LOCAL_SIZE")
    processes = next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdecimal()), 1)
    return max(1, cores // processes)


def usual_workers(clips: int) -> int:
    """Worker processes for so many clips: one per core."""
    return min(usual_cores(), clips // CLIPS_PER_WORKER)


def usual_threads(clips: int) -> int:
    """Threads that read so many clips, where worker processes are not worth their start; else 0."""
    return min(usual_cores(), MAX_THREADS, clips) if usual_workers(clips) <= MAX_THREADS and clips > 1 else 0


__all__ = ["usual_cores", "usual_threads", "usual_workers"]
