"""A llama-server within Python: run by an interpreter that has xllamacpp, llama.cpp's server as a library.

    python xllamacpp_peer.py MODEL ADAPTER...

It loads the adapters at scale 0, prints its address as one line, and serves until its stdin ends.
"""

from __future__ import annotations

import sys

import xllamacpp


def main() -> None:
    """Serve."""
    model, *adapters = sys.argv[1:]
    settings = xllamacpp.CommonParams()
    settings.model.path = model
    settings.port = 0
    settings.n_ctx = 2048
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    # Else the base is answered for from what an adapter has made of the same prompt.
    settings.cache_prompt = False
    settings.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(adapter, 0.0) for adapter in adapters]
    server = xllamacpp.Server(settings)
    sys.stdout.write(server.listening_address + "\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
