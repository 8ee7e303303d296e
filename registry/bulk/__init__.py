"""Work on many things at once, here or on a cluster: each once, with what failed named, and to be taken up again."""
