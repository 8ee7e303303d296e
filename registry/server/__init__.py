"""One base and many adapters behind OpenAI's API: `serving.json` says which, and may change while it runs.

This package needs Python, mlx-lm, FastAPI, uvicorn and prometheus_client, llguidance for answers in JSON, and nothing else of
fusery: a bundle carries it as a folder beside `server.py`.  What goes where:

    document    what is served: `serving.json`              keys        who may ask, followed on its own
    switching   adapters in memory, and putting one of them on the base
    lanes       answers in progress on one adapter          stopping    where an answer ends
    fairness    rooms, turns and rests of tenants           places      who has a place in a lane
    admission   who may have how much in progress           desk        where requests are made ready
    calls       requests that end early                     completing  a request from head to end
    connections limits of time and number                   hosts       what keeps web pages out
    solo        the same for caches that make no batch
    prefixes    prompts that have been read     logprobs    how likely tokens were
    forms       JSON and tools that are asked for   structured  answers by a schema
    tools       calls in answers                writing     one answer in progress
    engine      the thread that has the model               sampling    how a token is chosen
    routing     which adapter a request gets                prompts     from messages to tokens
    bodies      what a request may say                      replies     what is said in return
    app         HTTP                                        metrics     what Prometheus gets to see
    reload      following the document                      listening   the HTTP server
    run         starting and ending                         templates/  chat templates, rendered within limits
    mlx_keys    what mlx-lm reads of a configuration
"""
