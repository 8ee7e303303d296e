"""The model server, behind OpenAI's API; bundles carry it and `registry/runtime`, without `local`, which is `fusery serve`."""
