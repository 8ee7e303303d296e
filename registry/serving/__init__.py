"""One base and many adapters behind OpenAI's API: `serving.json` says which, and may change while it runs.

This package needs Python, mlx-lm, FastAPI, uvicorn and prometheus_client, and nothing else of fusery: a bundle carries it
as a folder beside `server.py`.  What goes where:

    document    what is served: `serving.json`
    switching   adapters in memory, and putting one of them on the base
    lanes       answers in progress on one adapter          stopping    where an answer ends
    engine      the thread that has the model               sampling    how a token is chosen
    routing     which adapter a request gets                prompts     from messages to tokens
    bodies      what a request may say                      replies     what is said in return
    app         HTTP                                        metrics     what Prometheus gets to see
    reload      following the document                      run         starting and ending
    templates/  chat templates, rendered within limits
"""
