"""The model server: one base and many adapters behind OpenAI's API; `serving.json` lists them, and may change while it runs.

A bundle carries these modules (without `local`) and `registry/runtime` beside its `server.py`.  They need Python, mlx-lm, FastAPI,
uvicorn and prometheus_client, llguidance for answers in JSON, and nothing else of fusery.

    run, app            starting, ending, HTTP             keys              API keys of tenants
    service, engine     the thread that has the model      loading           adapters that come and go
    batching            answers in progress                fairness          queues, and room for each tenant
    batch_generator     mlx-lm's batches, with adapters    prompts, schemas  requests: messages to tokens
    responses           a request and its reply            structured        answers by a schema, calls of functions
    routing             the adapter of a request           writing, sampling one answer
    prefixes            caches of read prompts
    local/                  `fusery serve`: adapters of a registry, aliases followed as they move
"""
