"""Who does work on many items: this process, its threads, processes beside it, or a cluster of machines."""
