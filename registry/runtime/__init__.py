"""What every program that runs or serves adapters needs: fusery's own servers, evaluations, and the server in a bundle.

    document     `serving.json`: a base, adapters, public names      mlx_keys     names of configuration keys that mlx-lm reads
    switching    adapters in memory, and one of them on the base    stacked      layers with several adapters at once
    templates/   chat templates, rendered within limits              http_server  host names, sockets, request ids, connections

A bundle carries this package and `model_server`, so they import nothing else of fusery.
"""
