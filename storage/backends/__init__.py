"""Object stores and servers behind fsspec: what each needs beyond what fsspec's file systems do alike."""
